// identity_cert: keys and certificates of the private certificate authority, over gnutls; private
// to identity.c. Keys are Ed25519 (RFC 8410). Whoever gets an object gives it back with gnutls' own
// deinit.
#pragma once
#include "proto/link/identity_priv.h"
#include <gnutls/abstract.h>
#include <gnutls/x509.h>

enum {
    IDENTITY_PIN_BYTES = 32, // SHA-256
    IDENTITY_DAY_S = 86400,
    IDENTITY_EARLY_S = 86400, // certificates begin this much early, for peers whose clock is behind
};

// Says what gnutls reports and returns e.
err_t identity_cert_say(struct err_text *why, err_t e, const char *what, int rc);

// Keys lie in the state folder. load: ERR_NOT_FOUND if the file is not there; the plain one makes
// it then.
err_t identity_cert_key_load(const char *dir, const char *file, gnutls_x509_privkey_t *out,
                             struct err_text *why);
err_t identity_cert_key_make(const char *dir, const char *file, gnutls_x509_privkey_t *out,
                             struct err_text *why);
err_t identity_cert_key(const char *dir, const char *file, gnutls_x509_privkey_t *out,
                        struct err_text *why);
err_t identity_cert_public(gnutls_x509_privkey_t key, gnutls_pubkey_t *out, struct err_text *why);

struct identity_cert_spec {
    const char *common_name;
    const char *dns_name; // NULL: none
    const char *purpose;  // key purpose OID; NULL: a certificate authority
    gnutls_pubkey_t key;
    int64_t now_s, life_s;
};

// issuer NULL: signs itself.
err_t identity_cert_make(const struct identity_cert_spec *s, gnutls_x509_crt_t issuer,
                         gnutls_x509_privkey_t issuer_key, gnutls_x509_crt_t *out,
                         struct err_text *why);
// ERR_CONFIG.
err_t identity_cert_from_pem(const char *what, const char *pem, size_t len, gnutls_x509_crt_t *out,
                             struct err_text *why);
err_t identity_cert_to_pem(gnutls_x509_crt_t crt, struct buf *out, struct err_text *why);
err_t identity_cert_fingerprint(gnutls_x509_crt_t crt, uint8_t out[IDENTITY_PIN_BYTES],
                                struct err_text *why);
// A leaf against the one authority, for one purpose and, unless NULL, one host name.
// ERR_LINK_AUTH with the reason, not logged, and what a peer is told of it (unless alert is NULL).
err_t identity_cert_verify(gnutls_x509_crt_t crt, gnutls_x509_crt_t ca, const char *purpose,
                           const char *host, gnutls_alert_description_t *alert,
                           struct err_text *why);
// Whose it is: the common name. ERR_LINK_AUTH: it has none, or one that is too long.
err_t identity_cert_name(gnutls_x509_crt_t crt, char out[IDENTITY_NAME_MAX + 1],
                         struct err_text *why);
// Its serial number as hex digits. ERR_LINK_AUTH.
err_t identity_cert_serial(gnutls_x509_crt_t crt, char out[IDENTITY_SERIAL_MAX],
                           struct err_text *why);
// A request (PKCS #10) for a certificate over the key, and the key of one whose signature is right.
err_t identity_cert_request(gnutls_x509_privkey_t key, const char *name, struct buf *pem,
                            struct err_text *why);
err_t identity_cert_request_key(const char *pem, gnutls_pubkey_t *out, struct err_text *why);
// Whether the key may be a worker's. ERR_LINK_AUTH.
err_t identity_cert_check_key(gnutls_pubkey_t key, struct err_text *why);
// Of a PEM chain of at most two and the key of its first.
err_t identity_cert_credentials(const struct buf *chain, gnutls_x509_privkey_t key,
                                gnutls_certificate_credentials_t *out, struct err_text *why);
