#include "proto/link/identity.h"

#include "proto/base/log.h"
#include "proto/link/identity_cert.h"

#include <dirent.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CA_DAYS = 3650,
    SERVER_DAYS = 730,
    SERVER_RENEW_DAYS = 30, // a server certificate with less left is made anew
    WORKER_DAYS = 90,
    SECRET_CHARS = 32,
    CLUSTER_NAME_MAX = 50,
    TOKEN_FILE_MAX = 4096, // tokens kept at once
};

static const char SERVER_NAME[] = "trireme-coordinator"; // what workers verify: addresses change
static const char TOKEN_PREFIX[] = "trireme1.";

struct identity {
    bool is_coordinator;
    bool is_enrolled;
    char *dir;
    gnutls_x509_privkey_t key;               // worker's own; coordinator: the CA's
    gnutls_x509_crt_t ca;                    // NULL in a worker that only knows its fingerprint
    gnutls_certificate_credentials_t before; // empty: a worker before enrolment
    gnutls_certificate_credentials_t cred;   // NULL in a worker before enrolment
    uint8_t pin[IDENTITY_PIN_BYTES];         // SHA-256 of the CA's certificate
    char secret[SECRET_CHARS + 1];
    struct buf ca_pem, public_pem;
};

// -- small things --

static bool name_ok(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return n >= 1 && n <= IDENTITY_NAME_MAX && s[n] == 0;
}

static bool hex_ok(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") >= n;
}

static void hex_of(const uint8_t *p, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", p[i]);
}

static gnutls_datum_t datum(const void *p, size_t len)
{
    return (gnutls_datum_t){(unsigned char *)p, (unsigned)len};
}

// -- opening --

static err_t identity_new(const char *dir, struct identity **out, struct err_text *why)
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
    free(id->dir);
    free(id);
}

static err_t ca_load(struct identity *id, struct err_text *why)
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
    struct identity_cert_spec spec = {.common_name = name, .now_s = time(NULL), .days = CA_DAYS};
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
    return e ? e : ca_load(id, why);
}

static err_t ca_open(struct identity *id, const char *cluster, struct err_text *why)
{
    err_t e = identity_cert_key_load(id->dir, "ca.key", &id->key, why);
    if (e == ERR_NOT_FOUND) {
        // A CA whose key is gone cannot be continued, and must not be replaced unseen: every
        // worker trusts the old one.
        e = ca_load(id, why);
        if (e == ERR_NOT_FOUND) return ca_make(id, cluster, why);
        if (e) return e;
        e = err_say(why, ERR_CONFIG,
                    "%s/ca.pem has lost its ca.key: restore it, or remove ca.pem "
                    "and let every worker join again",
                    id->dir);
        return e;
    }
    if (!e) e = ca_load(id, why);
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
    char name[64] = "";
    size_t len = sizeof name;
    if (identity_cert_from_pem("server.pem", chain->data, chain->len, &crt, NULL)) return false;
    gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &len);
    bool good =
        strcmp(name, cluster) == 0 &&
        gnutls_x509_crt_get_expiration_time(crt) >
            time(NULL) + (time_t)SERVER_RENEW_DAYS * IDENTITY_DAY_S &&
        identity_cert_verify(crt, id->ca, GNUTLS_KP_TLS_WWW_SERVER, SERVER_NAME, NULL) == OK;
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
                                      .days = SERVER_DAYS};
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
    err_t e = identity_new(state_dir, &id, why);
    if (e) return e;
    id->is_coordinator = id->is_enrolled = true;
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

// -- tokens --

static void token_file(const char *secret, char out[16 + 2 * IDENTITY_PIN_BYTES])
{
    uint8_t hash[IDENTITY_PIN_BYTES];
    gnutls_hash_fast(GNUTLS_DIG_SHA256, secret, strlen(secret), hash);
    memcpy(out, "tokens/", 7);
    hex_of(hash, sizeof hash, out + 7);
}

// Expiry time in the file, 0 if there is no such token.
static int64_t token_expiry(const char *dir, const char *file)
{
    struct buf text = {0};
    int64_t expiry = 0;
    if (identity_store_read(dir, file, &text, NULL) == OK) expiry = strtoll(text.data, NULL, 10);
    buf_fini(&text);
    return expiry;
}

// Also if the clock went back so far that the token would live longer than any token may.
static bool is_expired(int64_t expiry, int64_t now_s)
{
    return now_s > expiry || expiry - now_s > IDENTITY_TOKEN_TTL_S + IDENTITY_SKEW_S;
}

static int tokens_prune(const char *dir, const char *tokens, int64_t now_s)
{
    int n = 0;
    DIR *d = opendir(tokens);
    for (struct dirent *f; d && (f = readdir(d));) {
        char name[16 + 2 * IDENTITY_PIN_BYTES];
        if (strlen(f->d_name) != 2 * IDENTITY_PIN_BYTES ||
            !hex_ok(f->d_name, 2 * IDENTITY_PIN_BYTES))
            continue;
        snprintf(name, sizeof name, "tokens/%s", f->d_name);
        if (is_expired(token_expiry(dir, name), now_s))
            unlinkat(dirfd(d), f->d_name, 0);
        else
            n++;
    }
    if (d) closedir(d);
    return n;
}

static err_t token_keep(const char *dir, const char *secret, int64_t now_s, struct err_text *why)
{
    char tokens[PATH_MAX], file[16 + 2 * IDENTITY_PIN_BYTES];
    int n = snprintf(tokens, sizeof tokens, "%s/tokens", dir);
    if (n < 0 || n >= (int)sizeof tokens) return err_say(why, ERR_CONFIG, "%s: too long", dir);
    err_t e = identity_store_open(tokens, why);
    if (e) return e;
    if (tokens_prune(dir, tokens, now_s) >= TOKEN_FILE_MAX)
        return err_say(why, ERR_BUSY, "%d unused join tokens are enough", TOKEN_FILE_MAX);
    struct buf text = {0};
    buf_printf(&text, "%lld\n", (long long)now_s + IDENTITY_TOKEN_TTL_S);
    token_file(secret, file);
    e = buf_ok(&text) ? identity_store_write(dir, file, &text, why) : ERR_MEMORY;
    buf_fini(&text);
    return e;
}

err_t identity_token_new(const char *state_dir, int64_t now_s, struct buf *token,
                         struct err_text *why)
{
    struct identity *id;
    err_t e = identity_new(state_dir, &id, why);
    if (e) return e;
    uint8_t raw[SECRET_CHARS / 2];
    char pin[2 * IDENTITY_PIN_BYTES + 1], secret[SECRET_CHARS + 1];
    e = ca_load(id, why);
    if (e == ERR_NOT_FOUND)
        e = err_say(why, ERR_CONFIG, "%s is not the state folder of a coordinator", state_dir);
    int rc = gnutls_rnd(GNUTLS_RND_KEY, raw, sizeof raw);
    if (!e && rc < 0) e = identity_cert_say(why, ERR_SYSTEM, "random numbers", rc);
    if (!e) {
        hex_of(id->pin, sizeof id->pin, pin);
        hex_of(raw, sizeof raw, secret);
        e = token_keep(state_dir, secret, now_s, why);
    }
    if (!e) {
        buf_printf(token, "%s%s.%s", TOKEN_PREFIX, pin, secret);
        if (!buf_ok(token)) e = ERR_MEMORY;
    }
    gnutls_memset(secret, 0, sizeof secret);
    identity_close(id);
    return e;
}

// One sentence for all three: a stranger learns nothing.
static err_t token_refused(struct err_text *why)
{
    return err_say(why, ERR_LINK_AUTH, "the join token is unknown, used or expired");
}

static err_t sign_worker(struct identity *ca, const char *name, gnutls_pubkey_t key, int64_t now_s,
                         struct buf *out, struct err_text *why)
{
    struct identity_cert_spec spec = {.common_name = name,
                                      .purpose = GNUTLS_KP_TLS_WWW_CLIENT,
                                      .key = key,
                                      .now_s = now_s,
                                      .days = WORKER_DAYS};
    gnutls_x509_crt_t crt;
    err_t e = identity_cert_make(&spec, ca->ca, ca->key, &crt, why);
    if (e) return e;
    e = identity_cert_to_pem(crt, out, why);
    gnutls_x509_crt_deinit(crt);
    return e;
}

err_t identity_enroll(struct identity *ca, const char *secret, const char *name,
                      const char *public_key_pem, int64_t now_s, struct buf *certificate_pem,
                      struct err_text *why)
{
    char file[16 + 2 * IDENTITY_PIN_BYTES], path[PATH_MAX];
    if (!ca->is_coordinator) return err_say(why, ERR_INVALID, "not a coordinator");
    if (strlen(secret) != SECRET_CHARS || !hex_ok(secret, SECRET_CHARS)) return token_refused(why);
    token_file(secret, file);
    if (is_expired(token_expiry(ca->dir, file), now_s)) return token_refused(why);
    if (!name_ok(name)) return err_say(why, ERR_LINK_AUTH, "a worker cannot have that name");
    struct identity_peer peer = {.serial = "none"};
    snprintf(peer.name, sizeof peer.name, "%s", name);
    if (identity_is_revoked(ca, &peer))
        return err_say(why, ERR_LINK_AUTH, "the name %s was revoked", name);
    gnutls_pubkey_t key;
    gnutls_datum_t d = datum(public_key_pem, strlen(public_key_pem));
    if (gnutls_pubkey_init(&key) < 0) return err_say(why, ERR_MEMORY, "no memory for a key");
    err_t e = OK;
    if (gnutls_pubkey_import(key, &d, GNUTLS_X509_FMT_PEM) < 0 ||
        gnutls_pubkey_get_pk_algorithm(key, NULL) != GNUTLS_PK_EDDSA_ED25519)
        e = err_say(why, ERR_LINK_AUTH, "the worker's key is not an Ed25519 public key");
    // Of all who come with this secret, one succeeds in removing the file.
    int n = snprintf(path, sizeof path, "%s/%s", ca->dir, file);
    if (!e && (n < 0 || n >= (int)sizeof path || unlink(path) != 0)) e = token_refused(why);
    if (!e) e = sign_worker(ca, name, key, now_s, certificate_pem, why);
    gnutls_pubkey_deinit(key);
    return e;
}

// -- the worker's --

static err_t token_parse(struct identity *id, const char *token, struct err_text *why)
{
    size_t at = sizeof TOKEN_PREFIX - 1;
    size_t len = strcspn(token, " \t\r\n"); // a file ends with a newline
    if (len != at + 2 * IDENTITY_PIN_BYTES + 1 + SECRET_CHARS ||
        strncmp(token, TOKEN_PREFIX, at) != 0 || !hex_ok(token + at, 2 * IDENTITY_PIN_BYTES) ||
        token[at + 2 * IDENTITY_PIN_BYTES] != '.' ||
        !hex_ok(token + at + 2 * IDENTITY_PIN_BYTES + 1, SECRET_CHARS))
        return err_say(why, ERR_CONFIG,
                       "that is not a join token (\"trireme1.\", 64 hex digits, "
                       "\".\", 32 hex digits)");
    for (size_t i = 0; i < IDENTITY_PIN_BYTES; i++) {
        char hex[3] = {token[at + 2 * i], token[at + 2 * i + 1], 0};
        id->pin[i] = (uint8_t)strtoul(hex, NULL, 16);
    }
    memcpy(id->secret, token + at + 2 * IDENTITY_PIN_BYTES + 1, SECRET_CHARS);
    return OK;
}

// Uses what the folder holds; ERR_NOT_FOUND if that is no certificate, or one that has expired.
static err_t worker_load(struct identity *id, struct err_text *why)
{
    struct buf pem = {0};
    gnutls_x509_crt_t crt = NULL;
    err_t e = identity_store_read(id->dir, "worker.pem", &pem, why);
    if (!e) e = ca_load(id, why);
    if (!e) e = identity_cert_from_pem("worker.pem", pem.data, pem.len, &crt, why);
    if (!e && gnutls_x509_crt_get_expiration_time(crt) <= time(NULL)) e = ERR_NOT_FOUND;
    if (!e) e = identity_cert_credentials(&pem, id->key, &id->cred, why);
    if (crt) gnutls_x509_crt_deinit(crt);
    buf_fini(&pem);
    if (e == ERR_NOT_FOUND && id->ca) {
        gnutls_x509_crt_deinit(id->ca);
        id->ca = NULL;
    }
    return e;
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
    err_t e = identity_new(state_dir, &id, why);
    if (e) return e;
    gnutls_pubkey_t pub = NULL;
    e = identity_cert_key(state_dir, "worker.key", &id->key, why);
    if (!e) e = worker_load(id, why);
    id->is_enrolled = e == OK;
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

// The certificate must be for our key, from the CA that the token named.
static err_t accept_check(const struct identity *id, gnutls_x509_crt_t crt, gnutls_x509_crt_t ca,
                          struct err_text *why)
{
    uint8_t pin[IDENTITY_PIN_BYTES], ours[64], theirs[64];
    size_t n_ours = sizeof ours, n_theirs = sizeof theirs;
    err_t e = identity_cert_fingerprint(ca, pin, why);
    if (e) return e;
    if (memcmp(pin, id->pin, sizeof pin) != 0)
        return err_say(why, ERR_LINK_AUTH, "the coordinator sent another CA than the token names");
    if (gnutls_x509_crt_get_key_id(crt, 0, theirs, &n_theirs) < 0 ||
        gnutls_x509_privkey_get_key_id(id->key, 0, ours, &n_ours) < 0 || n_ours != n_theirs ||
        memcmp(ours, theirs, n_ours) != 0)
        return err_say(why, ERR_LINK_AUTH, "the coordinator sent a certificate for another key");
    return identity_cert_verify(crt, ca, GNUTLS_KP_TLS_WWW_CLIENT, NULL, why);
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
    if (!e) e = worker_load(id, why);
    if (e == ERR_NOT_FOUND) e = err_say(why, ERR_LINK_AUTH, "certificate refused: it has expired");
    id->is_enrolled = e == OK;
    if (crt) gnutls_x509_crt_deinit(crt);
    if (ca) gnutls_x509_crt_deinit(ca);
    buf_fini(&cert_text);
    buf_fini(&ca_text);
    return e;
}

// -- for sessions --

gnutls_certificate_credentials_t identity_credentials(const struct identity *id)
{
    return id->cred ? id->cred : id->before;
}

bool identity_is_revoked(const struct identity *ca, const struct identity_peer *peer)
{
    const char *const keys[] = {peer->name, peer->serial};
    for (int i = 0; i < 2; i++) {
        char path[PATH_MAX];
        int n = snprintf(path, sizeof path, "%s/revoked/%s", ca->dir, keys[i]);
        if (n < 0 || n >= (int)sizeof path) return true;
        if (access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR)) return true;
    }
    return false;
}

static err_t peer_of(gnutls_x509_crt_t crt, struct identity_peer *out, struct err_text *why)
{
    uint8_t serial[20];
    size_t n_serial = sizeof serial, n_name = sizeof out->name;
    if (gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, out->name, &n_name) <
            0 ||
        gnutls_x509_crt_get_serial(crt, serial, &n_serial) < 0)
        return err_say(why, ERR_LINK_AUTH, "certificate refused: no name or serial number");
    hex_of(serial, n_serial, out->serial);
    return OK;
}

static err_t worker_check(const struct identity *id, gnutls_x509_crt_t crt,
                          struct identity_peer *out, struct err_text *why)
{
    err_t e = identity_cert_verify(crt, id->ca, GNUTLS_KP_TLS_WWW_CLIENT, NULL, why);
    if (!e) e = peer_of(crt, out, why);
    if (e) return e;
    if (!name_ok(out->name))
        return err_say(why, ERR_LINK_AUTH, "certificate refused: bad worker name");
    if (identity_is_revoked(id, out))
        return err_say(why, ERR_LINK_AUTH, "certificate refused: %s was revoked", out->name);
    return OK;
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
    if (!e) e = identity_cert_verify(crt, ca, GNUTLS_KP_TLS_WWW_SERVER, SERVER_NAME, why);
    if (!e) e = peer_of(crt, out, why);
    if (ca && ca != id->ca) gnutls_x509_crt_deinit(ca);
    return e;
}

err_t identity_check_peer(const struct identity *id, gnutls_session_t session,
                          struct identity_peer *out, struct err_text *why)
{
    unsigned n = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &n);
    if (!chain || n == 0) return err_say(why, ERR_LINK_AUTH, "no certificate");
    gnutls_x509_crt_t crt;
    if (gnutls_x509_crt_init(&crt) < 0) return err_say(why, ERR_MEMORY, "no memory");
    struct identity_peer peer = {{0}, {0}};
    err_t e;
    if (gnutls_x509_crt_import(crt, &chain[0], GNUTLS_X509_FMT_DER) < 0)
        e = err_say(why, ERR_LINK_AUTH, "certificate refused: it does not parse");
    else if (id->is_coordinator)
        e = worker_check(id, crt, &peer, why);
    else
        e = coordinator_check(id, crt, &chain[n - 1], &peer, why);
    gnutls_x509_crt_deinit(crt);
    if (!e) *out = peer;
    return e;
}
