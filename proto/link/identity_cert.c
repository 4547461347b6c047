#include "proto/link/identity_cert.h"

#include "proto/base/hex.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <string.h>

err_t identity_cert_say(struct err_text *why, err_t e, const char *what, int rc)
{
    return err_say(why, e, "%s: %s", what, gnutls_strerror(rc));
}

static bool add_pem(struct buf *to, gnutls_datum_t *d)
{
    buf_add(to, d->data, d->size);
    gnutls_memset(d->data, 0, d->size);
    gnutls_free(d->data);
    return buf_ok(to);
}

static gnutls_datum_t datum(const void *p, size_t len)
{
    return (gnutls_datum_t){(unsigned char *)p, (unsigned)len};
}

// Buffers that held a private key.
static void buf_wipe(struct buf *b)
{
    if (b->data) gnutls_memset(b->data, 0, b->cap);
    buf_fini(b);
}

// -- keys --

static err_t key_to_pem(gnutls_x509_privkey_t key, struct buf *out, struct err_text *why)
{
    gnutls_datum_t d;
    int rc =
        gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &d);
    if (rc < 0) return identity_cert_say(why, ERR_SYSTEM, "exporting a key", rc);
    return add_pem(out, &d) ? OK : ERR_MEMORY;
}

err_t identity_cert_key_make(const char *dir, const char *file, gnutls_x509_privkey_t *out,
                             struct err_text *why)
{
    gnutls_x509_privkey_t key;
    struct buf pem = {0};
    int rc = gnutls_x509_privkey_init(&key);
    if (rc < 0) return identity_cert_say(why, ERR_MEMORY, "making a key", rc);
    rc = gnutls_x509_privkey_generate(key, GNUTLS_PK_EDDSA_ED25519, 256, 0);
    err_t e = rc < 0 ? identity_cert_say(why, ERR_SYSTEM, "making a key", rc)
                     : key_to_pem(key, &pem, why);
    if (!e) e = identity_store_write(dir, file, &pem, why);
    buf_wipe(&pem);
    if (e)
        gnutls_x509_privkey_deinit(key);
    else
        *out = key;
    return e;
}

// ERR_NOT_FOUND if the file is not there.
err_t identity_cert_key_load(const char *dir, const char *file, gnutls_x509_privkey_t *out,
                             struct err_text *why)
{
    struct buf pem = {0};
    gnutls_x509_privkey_t key = NULL;
    err_t e = identity_store_read(dir, file, &pem, why);
    if (!e) {
        gnutls_datum_t d = datum(pem.data, pem.len);
        int rc = gnutls_x509_privkey_init(&key);
        if (rc >= 0) rc = gnutls_x509_privkey_import2(key, &d, GNUTLS_X509_FMT_PEM, NULL, 0);
        if (rc < 0) e = identity_cert_say(why, ERR_CONFIG, file, rc);
    }
    buf_wipe(&pem);
    if (e) {
        if (key) gnutls_x509_privkey_deinit(key);
        return e;
    }
    *out = key;
    return OK;
}

err_t identity_cert_key(const char *dir, const char *file, gnutls_x509_privkey_t *out,
                        struct err_text *why)
{
    err_t e = identity_cert_key_load(dir, file, out, why);
    return e == ERR_NOT_FOUND ? identity_cert_key_make(dir, file, out, why) : e;
}

err_t identity_cert_public(gnutls_x509_privkey_t key, gnutls_pubkey_t *out, struct err_text *why)
{
    gnutls_privkey_t abstract = NULL;
    gnutls_pubkey_t pub = NULL;
    int rc = gnutls_privkey_init(&abstract);
    if (rc >= 0) rc = gnutls_privkey_import_x509(abstract, key, 0);
    if (rc >= 0) rc = gnutls_pubkey_init(&pub);
    if (rc >= 0) rc = gnutls_pubkey_import_privkey(pub, abstract, 0, 0);
    gnutls_privkey_deinit(abstract);
    if (rc >= 0) {
        *out = pub;
        return OK;
    }
    gnutls_pubkey_deinit(pub);
    return identity_cert_say(why, ERR_SYSTEM, "public key", rc);
}

// -- certificates --

err_t identity_cert_from_pem(const char *what, const char *pem, size_t len, gnutls_x509_crt_t *out,
                             struct err_text *why)
{
    gnutls_x509_crt_t crt;
    gnutls_datum_t d = datum(pem, len);
    int rc = gnutls_x509_crt_init(&crt);
    if (rc < 0) return identity_cert_say(why, ERR_MEMORY, what, rc);
    rc = gnutls_x509_crt_import(crt, &d, GNUTLS_X509_FMT_PEM);
    if (rc < 0) {
        gnutls_x509_crt_deinit(crt);
        return identity_cert_say(why, ERR_CONFIG, what, rc);
    }
    *out = crt;
    return OK;
}

err_t identity_cert_to_pem(gnutls_x509_crt_t crt, struct buf *out, struct err_text *why)
{
    gnutls_datum_t d;
    int rc = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &d);
    if (rc < 0) return identity_cert_say(why, ERR_SYSTEM, "exporting a certificate", rc);
    return add_pem(out, &d) ? OK : ERR_MEMORY;
}

static int cert_fill(gnutls_x509_crt_t crt, const struct identity_cert_spec *s)
{
    uint8_t serial[16], key_id[20];
    size_t key_id_len = sizeof key_id;
    int rc = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof serial);
    serial[0] = (uint8_t)((serial[0] & 0x7f) | 0x40); // positive and of full length
    if (rc >= 0) rc = gnutls_x509_crt_set_version(crt, 3);
    if (rc >= 0) rc = gnutls_x509_crt_set_serial(crt, serial, sizeof serial);
    if (rc >= 0)
        rc = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, s->common_name,
                                           (unsigned)strlen(s->common_name));
    if (rc >= 0) rc = gnutls_x509_crt_set_activation_time(crt, s->now_s - IDENTITY_EARLY_S);
    if (rc >= 0) rc = gnutls_x509_crt_set_expiration_time(crt, s->now_s + s->life_s);
    if (rc >= 0) rc = gnutls_x509_crt_set_pubkey(crt, s->key);
    if (rc >= 0) rc = gnutls_x509_crt_set_basic_constraints(crt, !s->purpose, s->purpose ? -1 : 0);
    if (rc >= 0)
        rc = gnutls_x509_crt_set_key_usage(crt, s->purpose ? GNUTLS_KEY_DIGITAL_SIGNATURE
                                                           : GNUTLS_KEY_KEY_CERT_SIGN);
    if (rc >= 0 && s->purpose) rc = gnutls_x509_crt_set_key_purpose_oid(crt, s->purpose, 0);
    if (rc >= 0 && s->dns_name)
        rc = gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, s->dns_name,
                                                  (unsigned)strlen(s->dns_name), GNUTLS_FSAN_SET);
    if (rc >= 0) rc = gnutls_pubkey_get_key_id(s->key, 0, key_id, &key_id_len);
    if (rc >= 0) rc = gnutls_x509_crt_set_subject_key_id(crt, key_id, key_id_len);
    return rc;
}

// issuer NULL: signs itself.
err_t identity_cert_make(const struct identity_cert_spec *s, gnutls_x509_crt_t issuer,
                         gnutls_x509_privkey_t issuer_key, gnutls_x509_crt_t *out,
                         struct err_text *why)
{
    gnutls_x509_crt_t crt;
    int rc = gnutls_x509_crt_init(&crt);
    if (rc < 0) return identity_cert_say(why, ERR_MEMORY, "making a certificate", rc);
    rc = cert_fill(crt, s);
    if (rc >= 0)
        rc = gnutls_x509_crt_sign2(crt, issuer ? issuer : crt, issuer_key, GNUTLS_DIG_SHA512, 0);
    if (rc < 0) {
        gnutls_x509_crt_deinit(crt);
        return identity_cert_say(why, ERR_SYSTEM, "making a certificate", rc);
    }
    *out = crt;
    return OK;
}

err_t identity_cert_fingerprint(gnutls_x509_crt_t crt, uint8_t out[IDENTITY_PIN_BYTES],
                                struct err_text *why)
{
    size_t len = IDENTITY_PIN_BYTES;
    int rc = gnutls_x509_crt_get_fingerprint(crt, GNUTLS_DIG_SHA256, out, &len);
    return rc < 0 ? identity_cert_say(why, ERR_SYSTEM, "fingerprint", rc) : OK;
}

static const struct {
    unsigned bit;
    gnutls_alert_description_t alert;
    const char *words;
} verdicts[] = {
    {GNUTLS_CERT_SIGNER_NOT_FOUND, GNUTLS_A_UNKNOWN_CA, "it was signed by another authority"},
    {GNUTLS_CERT_SIGNATURE_FAILURE, GNUTLS_A_UNKNOWN_CA, "it was signed by another authority"},
    {GNUTLS_CERT_EXPIRED, GNUTLS_A_CERTIFICATE_EXPIRED, "it has expired"},
    {GNUTLS_CERT_NOT_ACTIVATED, GNUTLS_A_BAD_CERTIFICATE,
     "it is not valid yet (is a clock wrong?)"},
    {GNUTLS_CERT_UNEXPECTED_OWNER, GNUTLS_A_BAD_CERTIFICATE, "it is not that of a coordinator"},
    {GNUTLS_CERT_PURPOSE_MISMATCH, GNUTLS_A_BAD_CERTIFICATE, "it was made for another purpose"},
};

// The leaf alone against the one authority: our chains have no middle.
err_t identity_cert_verify(gnutls_x509_crt_t crt, gnutls_x509_crt_t ca, const char *purpose,
                           const char *host, gnutls_alert_description_t *alert,
                           struct err_text *why)
{
    gnutls_x509_trust_list_t list;
    gnutls_typed_vdata_st wanted[2] = {
        {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)purpose},
        {.type = GNUTLS_DT_DNS_HOSTNAME, .data = (unsigned char *)host}};
    unsigned status = 0;
    int rc = gnutls_x509_trust_list_init(&list, 0);
    if (rc < 0) return err_say(why, ERR_MEMORY, "certificate: %s", gnutls_strerror(rc));
    rc = gnutls_x509_trust_list_add_cas(list, &ca, 1, 0);
    if (rc >= 0)
        rc = gnutls_x509_trust_list_verify_crt2(list, &crt, 1, wanted, host ? 2 : 1, 0, &status,
                                                NULL);
    gnutls_x509_trust_list_deinit(list, 0);
    if (rc < 0) return err_say(why, ERR_LINK_AUTH, "certificate: %s", gnutls_strerror(rc));
    if (status == 0) return OK;
    for (size_t i = 0; i < sizeof verdicts / sizeof *verdicts; i++) {
        if (!(status & verdicts[i].bit)) continue;
        if (alert) *alert = verdicts[i].alert;
        return err_say(why, ERR_LINK_AUTH, "certificate refused: %s", verdicts[i].words);
    }
    return err_say(why, ERR_LINK_AUTH, "certificate refused (status 0x%x)", status);
}

err_t identity_cert_name(gnutls_x509_crt_t crt, char out[IDENTITY_NAME_MAX + 1],
                         struct err_text *why)
{
    char name[IDENTITY_NAME_MAX + 1];
    size_t n = sizeof name;
    int rc = gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &n);
    if (rc < 0) return identity_cert_say(why, ERR_LINK_AUTH, "certificate's name", rc);
    memcpy(out, name, n + 1);
    return OK;
}

err_t identity_cert_serial(gnutls_x509_crt_t crt, char out[IDENTITY_SERIAL_MAX],
                           struct err_text *why)
{
    uint8_t serial[IDENTITY_SERIAL_MAX / 2];
    size_t n = sizeof serial;
    int rc = gnutls_x509_crt_get_serial(crt, serial, &n);
    if (rc < 0) return identity_cert_say(why, ERR_LINK_AUTH, "certificate's serial number", rc);
    hex_write(serial, n, out);
    return OK;
}

// -- requests --

err_t identity_cert_request(gnutls_x509_privkey_t key, const char *name, struct buf *pem,
                            struct err_text *why)
{
    gnutls_x509_crq_t crq;
    gnutls_datum_t d;
    int rc = gnutls_x509_crq_init(&crq);
    if (rc < 0) return identity_cert_say(why, ERR_MEMORY, "making a request", rc);
    rc = gnutls_x509_crq_set_version(crq, 1);
    if (rc >= 0)
        rc = gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                           (unsigned)strlen(name));
    if (rc >= 0) rc = gnutls_x509_crq_set_key(crq, key);
    if (rc >= 0) rc = gnutls_x509_crq_sign2(crq, key, GNUTLS_DIG_SHA512, 0);
    if (rc >= 0) rc = gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &d);
    gnutls_x509_crq_deinit(crq);
    if (rc < 0) return identity_cert_say(why, ERR_SYSTEM, "making a request", rc);
    return add_pem(pem, &d) ? OK : ERR_MEMORY;
}

err_t identity_cert_request_key(const char *pem, gnutls_pubkey_t *out, struct err_text *why)
{
    gnutls_x509_crq_t crq;
    gnutls_pubkey_t key = NULL;
    gnutls_datum_t d = datum(pem, strlen(pem));
    int rc = gnutls_x509_crq_init(&crq);
    if (rc < 0) return identity_cert_say(why, ERR_MEMORY, "certificate request", rc);
    rc = gnutls_x509_crq_import(crq, &d, GNUTLS_X509_FMT_PEM);
    if (rc >= 0) rc = gnutls_x509_crq_verify(crq, 0);
    if (rc >= 0) rc = gnutls_pubkey_init(&key);
    if (rc >= 0) rc = gnutls_pubkey_import_x509_crq(key, crq, 0);
    gnutls_x509_crq_deinit(crq);
    err_t e = rc < 0 ? identity_cert_say(why, ERR_LINK_AUTH, "certificate request", rc)
                     : identity_cert_check_key(key, why);
    if (e)
        gnutls_pubkey_deinit(key);
    else
        *out = key;
    return e;
}

err_t identity_cert_check_key(gnutls_pubkey_t key, struct err_text *why)
{
    if (gnutls_pubkey_get_pk_algorithm(key, NULL) == GNUTLS_PK_EDDSA_ED25519) return OK;
    return err_say(why, ERR_LINK_AUTH, "the worker's key is not an Ed25519 public key");
}

// Credentials of a certificate chain and its key.
err_t identity_cert_credentials(const struct buf *chain, gnutls_x509_privkey_t key,
                                gnutls_certificate_credentials_t *out, struct err_text *why)
{
    gnutls_certificate_credentials_t cred;
    gnutls_x509_crt_t crts[2];
    unsigned n = 2;
    gnutls_datum_t d = datum(chain->data, chain->len);
    int rc = gnutls_x509_crt_list_import(crts, &n, &d, GNUTLS_X509_FMT_PEM, 0);
    if (rc < 0) return identity_cert_say(why, ERR_CONFIG, "certificate", rc);
    rc = gnutls_certificate_allocate_credentials(&cred);
    if (rc >= 0) {
        rc = gnutls_certificate_set_x509_key(cred, crts, (int)n, key);
        if (rc < 0) gnutls_certificate_free_credentials(cred);
    }
    for (unsigned i = 0; i < n; i++)
        gnutls_x509_crt_deinit(crts[i]);
    if (rc < 0) return identity_cert_say(why, ERR_CONFIG, "certificate and key", rc);
    *out = cred;
    return OK;
}
