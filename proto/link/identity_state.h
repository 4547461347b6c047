// What identity.c (opening, sessions), identity_ca.c (tokens, certificates for workers) and
// identity_roll.c (who has which) share.
#pragma once
#include "proto/base/hex.h"
#include "proto/link/identity_cert.h"
#include <string.h>

enum { IDENTITY_SECRET_CHARS = 32 };

#define IDENTITY_TOKEN_PREFIX "trireme1."

struct identity {
    bool is_coordinator;
    bool is_enrolled;
    bool is_stale; // a worker whose folder holds a newer certificate than `cred`
    char *dir;
    gnutls_x509_privkey_t key;               // worker's own; coordinator: the CA's
    gnutls_x509_crt_t ca;                    // NULL in a worker that only knows its fingerprint
    gnutls_certificate_credentials_t before; // empty: a worker before enrolment
    gnutls_certificate_credentials_t cred;   // NULL in a worker before enrolment
    uint8_t pin[IDENTITY_PIN_BYTES];         // SHA-256 of the CA's certificate
    char secret[IDENTITY_SECRET_CHARS + 1];
    struct buf ca_pem, public_pem;
    int64_t life_s; // coordinator: of the certificates it gives
    // Of a worker with a certificate:
    char name[IDENTITY_NAME_MAX + 1];
    int64_t issued_s, expires_s;
    int64_t asked_s; // when it asked for another
    struct buf request_pem;
};

// An identity of the folder, with nothing in it; identity_close.
err_t identity_state_new(const char *dir, struct identity **out, struct err_text *why);
// Reads ca.pem. ERR_NOT_FOUND.
err_t identity_state_ca(struct identity *id, struct err_text *why);
// Notes in the roll that crt was given to `name`.
err_t identity_roll_add(const char *dir, const char *name, gnutls_x509_crt_t crt, int64_t now_s,
                        struct err_text *why);
bool identity_roll_is_revoked(const char *dir, const char *name_or_serial);

static inline bool identity_name_ok(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return n >= 1 && n <= IDENTITY_NAME_MAX && s[n] == 0;
}
static inline bool identity_hex_ok(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") >= n;
}
