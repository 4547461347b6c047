#include "proto/link/identity_state.h"

#include "proto/base/log.h"

#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    CA_LIFE_S = 3650 * IDENTITY_DAY_S,
    SERVER_LIFE_S = 730 * IDENTITY_DAY_S,
    SERVER_RENEW_S = 365 * IDENTITY_DAY_S, // one with less left is made anew at a start
    CLUSTER_NAME_MAX = 50,
};

static const char SERVER_NAME[] = "trireme-coordinator"; // what workers verify: addresses change

// -- opening --

err_t identity_state_new(const char *dir, struct identity **out, struct err_text *why)
{
    err_t e = identity_store_open(dir, why);
    if (e) return e;
    struct identity *id = calloc(1, sizeof *id);
    if (id) id->dir = strdup(dir);
    if (!id || !id->dir || gnutls_certificate_allocate_credentials(&id->before) < 0) {
        identity_close(id);
        return err_say(why, ERR_MEMORY, "no memory for the identity");
    }
    *out = id;
    return OK;
}

void identity_close(struct identity *id)
{
    if (!id) return;
    if (id->cred) gnutls_certificate_free_credentials(id->cred);
    if (id->before) gnutls_certificate_free_credentials(id->before);
    if (id->key) gnutls_x509_privkey_deinit(id->key);
    if (id->ca) gnutls_x509_crt_deinit(id->ca);
    gnutls_memset(id->secret, 0, sizeof id->secret);
    buf_fini(&id->ca_pem);
    buf_fini(&id->public_pem);
    buf_fini(&id->request_pem);
    free(id->dir);
    free(id);
}

err_t identity_state_ca(struct identity *id, struct err_text *why)
{
    buf_clear(&id->ca_pem);
    err_t e = identity_store_read(id->dir, "ca.pem", &id->ca_pem, why);
    if (!e) e = identity_cert_from_pem("ca.pem", id->ca_pem.data, id->ca_pem.len, &id->ca, why);
    if (!e) e = identity_cert_fingerprint(id->ca, id->pin, why);
    return e;
}

// -- the coordinator's --

static err_t ca_make(struct identity *id, const char *cluster, struct err_text *why)
{
    char name[64];
    snprintf(name, sizeof name, "trireme CA %s", cluster);
    struct identity_cert_spec spec = {
        .common_name = name, .now_s = time(NULL), .life_s = CA_LIFE_S};
    struct buf pem = {0};
    err_t e = identity_cert_key_make(id->dir, "ca.key", &id->key, why);
    if (!e) e = identity_cert_public(id->key, &spec.key, why);
    if (e) return e;
    gnutls_x509_crt_t crt;
    e = identity_cert_make(&spec, NULL, id->key, &crt, why);
    gnutls_pubkey_deinit(spec.key);
    if (e) return e;
    e = identity_cert_to_pem(crt, &pem, why);
    gnutls_x509_crt_deinit(crt);
    if (!e) e = identity_store_write(id->dir, "ca.pem", &pem, why);
    buf_fini(&pem);
    if (!e) log_info("made a certificate authority for cluster %s in %s", cluster, id->dir);
    return e ? e : identity_state_ca(id, why);
}

static err_t ca_open(struct identity *id, const char *cluster, struct err_text *why)
{
    err_t e = identity_cert_key_load(id->dir, "ca.key", &id->key, why);
    if (e == ERR_NOT_FOUND) {
        // A CA whose key is gone cannot be continued, and must not be replaced unseen: every
        // worker trusts the old one.
        e = identity_state_ca(id, why);
        if (e == ERR_NOT_FOUND) return ca_make(id, cluster, why);
        if (e) return e;
        e = err_say(why, ERR_CONFIG,
                    "%s/ca.pem has lost its ca.key: restore it, or remove ca.pem "
                    "and let every worker join again",
                    id->dir);
        return e;
    }
    if (!e) e = identity_state_ca(id, why);
    if (e != ERR_NOT_FOUND) return e;
    e = err_say(why, ERR_CONFIG,
                "%s/ca.key has lost its ca.pem: restore it, or remove ca.key and "
                "let every worker join again",
                id->dir);
    return e;
}

static bool server_cert_is_good(const struct identity *id, const struct buf *chain,
                                const char *cluster)
{
    gnutls_x509_crt_t crt;
    char name[IDENTITY_NAME_MAX + 1];
    if (identity_cert_from_pem("server.pem", chain->data, chain->len, &crt, NULL)) return false;
    bool good =
        identity_cert_name(crt, name, NULL) == OK && strcmp(name, cluster) == 0 &&
        gnutls_x509_crt_get_expiration_time(crt) > time(NULL) + (time_t)SERVER_RENEW_S &&
        identity_cert_verify(crt, id->ca, GNUTLS_KP_TLS_WWW_SERVER, SERVER_NAME, NULL, NULL) == OK;
    gnutls_x509_crt_deinit(crt);
    return good;
}

// server.pem: our certificate, then the CA's, which a worker that joins knows by fingerprint only.
static err_t server_make(struct identity *id, const char *cluster, gnutls_x509_privkey_t key,
                         struct buf *chain, struct err_text *why)
{
    struct identity_cert_spec spec = {.common_name = cluster,
                                      .dns_name = SERVER_NAME,
                                      .purpose = GNUTLS_KP_TLS_WWW_SERVER,
                                      .now_s = time(NULL),
                                      .life_s = SERVER_LIFE_S};
    gnutls_x509_crt_t crt;
    err_t e = identity_cert_public(key, &spec.key, why);
    if (e) return e;
    e = identity_cert_make(&spec, id->ca, id->key, &crt, why);
    gnutls_pubkey_deinit(spec.key);
    if (e) return e;
    buf_clear(chain);
    e = identity_cert_to_pem(crt, chain, why);
    gnutls_x509_crt_deinit(crt);
    buf_add(chain, id->ca_pem.data, id->ca_pem.len);
    if (!e && !buf_ok(chain)) e = ERR_MEMORY;
    return e ? e : identity_store_write(id->dir, "server.pem", chain, why);
}

static err_t server_open(struct identity *id, const char *cluster, struct err_text *why)
{
    gnutls_x509_privkey_t key;
    struct buf chain = {0};
    err_t e = identity_cert_key(id->dir, "server.key", &key, why);
    if (e) return e;
    e = identity_store_read(id->dir, "server.pem", &chain, why);
    bool is_good = e == OK && server_cert_is_good(id, &chain, cluster) &&
                   identity_cert_credentials(&chain, key, &id->cred, NULL) == OK;
    if ((e == OK && !is_good) || e == ERR_NOT_FOUND) {
        e = server_make(id, cluster, key, &chain, why);
        if (!e) e = identity_cert_credentials(&chain, key, &id->cred, why);
    }
    buf_fini(&chain);
    gnutls_x509_privkey_deinit(key);
    return e;
}

err_t identity_open_coordinator(const char *state_dir, const char *cluster, struct identity **out,
                                struct err_text *why)
{
    size_t len = strlen(cluster);
    if (len == 0 || len > CLUSTER_NAME_MAX || strpbrk(cluster, "\n\r\t\x1b\x7f"))
        return err_say(why, ERR_CONFIG, "cluster name must have 1 to %d characters",
                       CLUSTER_NAME_MAX);
    struct identity *id;
    err_t e = identity_state_new(state_dir, &id, why);
    if (e) return e;
    id->is_coordinator = id->is_enrolled = true;
    id->life_s = IDENTITY_LIFE_S;
    e = ca_open(id, cluster, why);
    if (!e) e = server_open(id, cluster, why);
    if (e) {
        identity_close(id);
        return e;
    }
    *out = id;
    return OK;
}

const char *identity_ca_pem(const struct identity *id)
{
    return id->ca_pem.data;
}

// -- the worker's --

static err_t token_parse(struct identity *id, const char *token, struct err_text *why)
{
    size_t at = sizeof IDENTITY_TOKEN_PREFIX - 1;
    size_t len = strcspn(token, " \t\r\n"); // a file ends with a newline
    if (len != at + 2 * IDENTITY_PIN_BYTES + 1 + IDENTITY_SECRET_CHARS ||
        strncmp(token, IDENTITY_TOKEN_PREFIX, at) != 0 ||
        !identity_hex_ok(token + at, 2 * IDENTITY_PIN_BYTES) ||
        token[at + 2 * IDENTITY_PIN_BYTES] != '.' ||
        !identity_hex_ok(token + at + 2 * IDENTITY_PIN_BYTES + 1, IDENTITY_SECRET_CHARS))
        return err_say(why, ERR_CONFIG,
                       "that is not a join token (\"trireme1.\", 64 hex digits, "
                       "\".\", 32 hex digits)");
    hex_read(token + at, sizeof id->pin, id->pin);
    memcpy(id->secret, token + at + 2 * IDENTITY_PIN_BYTES + 1, IDENTITY_SECRET_CHARS);
    return OK;
}

static void note_life(struct identity *id, gnutls_x509_crt_t crt)
{
    id->issued_s = gnutls_x509_crt_get_activation_time(crt) + IDENTITY_EARLY_S;
    id->expires_s = gnutls_x509_crt_get_expiration_time(crt);
}

// Uses what the folder holds. ERR_NOT_FOUND if that is no certificate.
static err_t worker_load(struct identity *id, struct err_text *why)
{
    struct buf pem = {0};
    gnutls_x509_crt_t crt = NULL;
    err_t e = identity_store_read(id->dir, "worker.pem", &pem, why);
    if (!e) e = identity_state_ca(id, why);
    if (!e) e = identity_cert_from_pem("worker.pem", pem.data, pem.len, &crt, why);
    if (!e && id->cred) gnutls_certificate_free_credentials(id->cred);
    if (!e) id->cred = NULL;
    if (!e) e = identity_cert_credentials(&pem, id->key, &id->cred, why);
    if (!e && identity_cert_name(crt, id->name, NULL) != OK)
        e = err_say(why, ERR_CONFIG, "worker.pem: the certificate of nobody");
    if (!e) note_life(id, crt);
    if (crt) gnutls_x509_crt_deinit(crt);
    buf_fini(&pem);
    return e;
}

static void worker_forget_ca(struct identity *id)
{
    if (id->ca) gnutls_x509_crt_deinit(id->ca);
    id->ca = NULL;
}

// What a day tells of the time when something expired.
static const char *day_of(int64_t s, char out[16])
{
    const time_t t = s;
    struct tm tm;
    if (!gmtime_r(&t, &tm) || !strftime(out, 16, "%Y-%m-%d", &tm)) snprintf(out, 16, "long ago");
    return out;
}

// Whose certificate has expired by its own clock joins with the token, if there is one. Without,
// the coordinator's clock decides, unless ours would have to be wrong by more than a day.
static err_t worker_check_age(struct identity *id, bool has_token, struct err_text *why)
{
    const int64_t age_s = (int64_t)time(NULL) - id->expires_s;
    char day[16];
    if (age_s < 0 || (!has_token && age_s < IDENTITY_EARLY_S)) return OK;
    if (has_token) return ERR_NOT_FOUND;
    return err_say(why, ERR_CONFIG,
                   "this worker's certificate expired on %s by this machine's clock (%.100s): "
                   "run \"trireme token new\" at the coordinator, and start the worker with "
                   "--token-file once",
                   day_of(id->expires_s, day), id->dir);
}

static err_t worker_token(struct identity *id, const char *token, struct err_text *why)
{
    uint8_t known[IDENTITY_PIN_BYTES];
    memcpy(known, id->pin, sizeof known);
    if (!id->is_enrolled && !token)
        return err_say(why, ERR_CONFIG, "%s holds no valid worker certificate: join with a token",
                       id->dir);
    err_t e = token ? token_parse(id, token, why) : OK;
    if (!e && id->is_enrolled && memcmp(known, id->pin, sizeof known) != 0)
        return err_say(why, ERR_CONFIG,
                       "%s belongs to another cluster than the token: remove it "
                       "or choose another folder",
                       id->dir);
    return e;
}

err_t identity_open_worker(const char *state_dir, const char *token, struct identity **out,
                           struct err_text *why)
{
    struct identity *id;
    err_t e = identity_state_new(state_dir, &id, why);
    if (e) return e;
    gnutls_pubkey_t pub = NULL;
    e = identity_cert_key(state_dir, "worker.key", &id->key, why);
    if (!e) e = worker_load(id, why);
    if (!e) e = worker_check_age(id, token != NULL, why);
    id->is_enrolled = e == OK;
    if (e == ERR_NOT_FOUND) worker_forget_ca(id);
    if (!e || e == ERR_NOT_FOUND) e = worker_token(id, token, why);
    if (!e) e = identity_cert_public(id->key, &pub, why);
    if (!e) {
        gnutls_datum_t d;
        int rc = gnutls_pubkey_export2(pub, GNUTLS_X509_FMT_PEM, &d);
        if (rc < 0) e = identity_cert_say(why, ERR_SYSTEM, "public key", rc);
        if (!e) buf_add(&id->public_pem, d.data, d.size);
        if (!e) gnutls_free(d.data);
        if (!e && !buf_ok(&id->public_pem)) e = ERR_MEMORY;
    }
    gnutls_pubkey_deinit(pub);
    if (e) {
        identity_close(id);
        return e;
    }
    *out = id;
    return OK;
}

bool identity_is_enrolled(const struct identity *id)
{
    return id->is_enrolled;
}

const char *identity_token_secret(const struct identity *id)
{
    return id->secret;
}

const char *identity_public_key_pem(const struct identity *id)
{
    return id->public_pem.data;
}

// The certificate must be good, and for our key.
static err_t certificate_check(const struct identity *id, gnutls_x509_crt_t crt,
                               gnutls_x509_crt_t ca, struct err_text *why)
{
    uint8_t ours[64], theirs[64];
    size_t n_ours = sizeof ours, n_theirs = sizeof theirs;
    if (gnutls_x509_crt_get_key_id(crt, 0, theirs, &n_theirs) < 0 ||
        gnutls_x509_privkey_get_key_id(id->key, 0, ours, &n_ours) < 0 || n_ours != n_theirs ||
        memcmp(ours, theirs, n_ours) != 0)
        return err_say(why, ERR_LINK_AUTH, "the coordinator sent a certificate for another key");
    return identity_cert_verify(crt, ca, GNUTLS_KP_TLS_WWW_CLIENT, NULL, NULL, why);
}

// And from the CA that the token named.
static err_t accept_check(const struct identity *id, gnutls_x509_crt_t crt, gnutls_x509_crt_t ca,
                          struct err_text *why)
{
    uint8_t pin[IDENTITY_PIN_BYTES];
    err_t e = identity_cert_fingerprint(ca, pin, why);
    if (e) return e;
    if (memcmp(pin, id->pin, sizeof pin) != 0)
        return err_say(why, ERR_LINK_AUTH, "the coordinator sent another CA than the token names");
    return certificate_check(id, crt, ca, why);
}

err_t identity_accept(struct identity *id, const char *certificate_pem, const char *ca_pem,
                      struct err_text *why)
{
    gnutls_x509_crt_t crt = NULL, ca = NULL;
    struct buf cert_text = {0}, ca_text = {0};
    if (id->is_coordinator || id->is_enrolled)
        return err_say(why, ERR_INVALID, "this identity has its certificate");
    err_t e =
        identity_cert_from_pem("certificate", certificate_pem, strlen(certificate_pem), &crt, why);
    if (!e) e = identity_cert_from_pem("CA", ca_pem, strlen(ca_pem), &ca, why);
    if (!e) e = accept_check(id, crt, ca, why);
    // As parsed, not as sent: nothing else of what the peer wrote ends up in the files.
    if (!e) e = identity_cert_to_pem(crt, &cert_text, why);
    if (!e) e = identity_cert_to_pem(ca, &ca_text, why);
    if (!e) e = identity_store_write(id->dir, "ca.pem", &ca_text, why);
    if (!e) e = identity_store_write(id->dir, "worker.pem", &cert_text, why);
    if (!e && id->ca) gnutls_x509_crt_deinit(id->ca);
    if (!e) id->ca = NULL;
    if (!e) e = worker_load(id, why);
    id->is_enrolled = e == OK;
    if (crt) gnutls_x509_crt_deinit(crt);
    if (ca) gnutls_x509_crt_deinit(ca);
    buf_fini(&cert_text);
    buf_fini(&ca_text);
    return e;
}

// -- renewal --

// In the last third of its life, and not more often than 50 times in it or once an hour, as far as
// that is less.
static bool is_due(const struct identity *id, int64_t now_s)
{
    const int64_t life_s = id->expires_s - id->issued_s;
    int64_t pause_s = life_s / 50;
    if (pause_s > 3600) pause_s = 3600;
    if (pause_s < 1) pause_s = 1;
    if (!id->is_enrolled || id->is_coordinator || id->expires_s - now_s > life_s / 3) return false;
    return !id->asked_s || now_s < id->asked_s || now_s - id->asked_s >= pause_s;
}

const char *identity_renewal(struct identity *id, int64_t now_s)
{
    struct err_text why;
    if (!is_due(id, now_s)) return NULL;
    id->asked_s = now_s;
    if (id->request_pem.len == 0 &&
        identity_cert_request(id->key, id->name, &id->request_pem, &why) != OK) {
        log_warn("the certificate cannot be renewed: %s", why.s);
        return NULL;
    }
    return id->request_pem.data;
}

static err_t renewed_check(const struct identity *id, gnutls_x509_crt_t crt, struct err_text *why)
{
    char name[IDENTITY_NAME_MAX + 1];
    err_t e = identity_cert_name(crt, name, why);
    if (e) return e;
    if (strcmp(name, id->name) != 0)
        return err_say(why, ERR_LINK_AUTH, "the coordinator sent a certificate for another name");
    return certificate_check(id, crt, id->ca, why);
}

err_t identity_renewed(struct identity *id, const char *certificate_pem, struct err_text *why)
{
    gnutls_x509_crt_t crt = NULL;
    struct buf text = {0};
    if (!id->is_enrolled || !id->asked_s)
        return err_say(why, ERR_INVALID, "no certificate was asked for");
    err_t e =
        identity_cert_from_pem("certificate", certificate_pem, strlen(certificate_pem), &crt, why);
    if (!e) e = renewed_check(id, crt, why);
    if (!e) e = identity_cert_to_pem(crt, &text, why);
    if (!e) e = identity_store_write(id->dir, "worker.pem", &text, why);
    if (!e) {
        note_life(id, crt);
        id->asked_s = 0;
        id->is_stale = true;
    }
    if (crt) gnutls_x509_crt_deinit(crt);
    buf_fini(&text);
    return e;
}

bool identity_is_stale(const struct identity *id)
{
    return id->is_stale;
}

int64_t identity_expires(const struct identity *id)
{
    return id->is_enrolled && !id->is_coordinator ? id->expires_s : 0;
}

void identity_expired(struct identity *id)
{
    if (id->secret[0]) id->is_enrolled = false;
}

// -- for sessions --

gnutls_certificate_credentials_t identity_credentials(const struct identity *id)
{
    return id->is_enrolled ? id->cred : id->before;
}

bool identity_is_revoked(const struct identity *ca, const struct identity_peer *peer)
{
    return identity_roll_is_revoked(ca->dir, peer->name) ||
           identity_roll_is_revoked(ca->dir, peer->serial);
}

static err_t peer_of(gnutls_x509_crt_t crt, struct identity_peer *out, struct err_text *why)
{
    out->expires_s = gnutls_x509_crt_get_expiration_time(crt);
    err_t e = identity_cert_name(crt, out->name, why);
    return e ? e : identity_cert_serial(crt, out->serial, why);
}

static err_t worker_check(const struct identity *id, gnutls_x509_crt_t crt,
                          struct identity_peer *out, struct err_text *why)
{
    err_t e = identity_cert_verify(crt, id->ca, GNUTLS_KP_TLS_WWW_CLIENT, NULL, &out->alert, why);
    if (!e) e = peer_of(crt, out, why);
    if (e) return e;
    if (!identity_name_ok(out->name))
        return err_say(why, ERR_LINK_AUTH, "certificate refused: bad worker name");
    if (!identity_is_revoked(id, out)) return OK;
    out->alert = GNUTLS_A_CERTIFICATE_REVOKED;
    return err_say(why, ERR_LINK_AUTH, "certificate refused: %s was revoked", out->name);
}

// A worker that joins knows its CA by fingerprint, and takes it from the end of the chain.
static err_t coordinator_check(const struct identity *id, gnutls_x509_crt_t crt,
                               const gnutls_datum_t *last, struct identity_peer *out,
                               struct err_text *why)
{
    gnutls_x509_crt_t ca = id->ca;
    uint8_t pin[IDENTITY_PIN_BYTES];
    err_t e = OK;
    if (!ca) {
        if (gnutls_x509_crt_init(&ca) < 0) return err_say(why, ERR_MEMORY, "no memory");
        if (gnutls_x509_crt_import(ca, last, GNUTLS_X509_FMT_DER) < 0 ||
            identity_cert_fingerprint(ca, pin, NULL) || memcmp(pin, id->pin, sizeof pin) != 0)
            e = err_say(why, ERR_LINK_AUTH,
                        "certificate refused: not the authority that the token names");
    }
    if (!e)
        e = identity_cert_verify(crt, ca, GNUTLS_KP_TLS_WWW_SERVER, SERVER_NAME, &out->alert, why);
    if (!e) e = peer_of(crt, out, why);
    if (ca && ca != id->ca) gnutls_x509_crt_deinit(ca);
    return e;
}

err_t identity_check_peer(const struct identity *id, gnutls_session_t session,
                          struct identity_peer *out, struct err_text *why)
{
    unsigned n = 0;
    *out = (struct identity_peer){.alert = GNUTLS_A_BAD_CERTIFICATE};
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &n);
    if (!chain || n == 0) return err_say(why, ERR_LINK_AUTH, "no certificate");
    gnutls_x509_crt_t crt;
    if (gnutls_x509_crt_init(&crt) < 0) return err_say(why, ERR_MEMORY, "no memory");
    err_t e;
    if (gnutls_x509_crt_import(crt, &chain[0], GNUTLS_X509_FMT_DER) < 0)
        e = err_say(why, ERR_LINK_AUTH, "certificate refused: it does not parse");
    else if (id->is_coordinator)
        e = worker_check(id, crt, out, why);
    else
        e = coordinator_check(id, crt, &chain[n - 1], out, why);
    gnutls_x509_crt_deinit(crt);
    return e;
}
