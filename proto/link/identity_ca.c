// What a coordinator gives: join tokens, and certificates for workers.
#include "proto/link/identity_state.h"

#include <dirent.h>
#include <gnutls/crypto.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    TOKEN_FILE_MAX = 4096, // tokens kept at once
    TOKEN_SKEW_S = 300,    // that our clock may have gone back since one was made
};

// -- tokens --

static void token_file(const char *secret, char out[16 + 2 * IDENTITY_PIN_BYTES])
{
    uint8_t hash[IDENTITY_PIN_BYTES];
    gnutls_hash_fast(GNUTLS_DIG_SHA256, secret, strlen(secret), hash);
    memcpy(out, "tokens/", 7);
    hex_write(hash, sizeof hash, out + 7);
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
    return now_s > expiry || expiry - now_s > IDENTITY_TOKEN_TTL_S + TOKEN_SKEW_S;
}

static int tokens_prune(const char *dir, const char *tokens, int64_t now_s)
{
    int n = 0;
    DIR *d = opendir(tokens);
    for (struct dirent *f; d && (f = readdir(d));) {
        char name[16 + 2 * IDENTITY_PIN_BYTES];
        if (strlen(f->d_name) != 2 * IDENTITY_PIN_BYTES ||
            !identity_hex_ok(f->d_name, 2 * IDENTITY_PIN_BYTES))
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
    err_t e = identity_state_new(state_dir, &id, why);
    if (e) return e;
    uint8_t raw[IDENTITY_SECRET_CHARS / 2];
    char pin[2 * IDENTITY_PIN_BYTES + 1], secret[IDENTITY_SECRET_CHARS + 1];
    e = identity_state_ca(id, why);
    if (e == ERR_NOT_FOUND)
        e = err_say(why, ERR_CONFIG, "%s is not the state folder of a coordinator", state_dir);
    int rc = gnutls_rnd(GNUTLS_RND_KEY, raw, sizeof raw);
    if (!e && rc < 0) e = identity_cert_say(why, ERR_SYSTEM, "random numbers", rc);
    if (!e) {
        hex_write(id->pin, sizeof id->pin, pin);
        hex_write(raw, sizeof raw, secret);
        e = token_keep(state_dir, secret, now_s, why);
    }
    if (!e) {
        buf_printf(token, "%s%s.%s", IDENTITY_TOKEN_PREFIX, pin, secret);
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

// Signs, and notes it in the roll: nothing is given that the roll does not know of.
static err_t sign_worker(struct identity *ca, const char *name, gnutls_pubkey_t key, int64_t now_s,
                         struct buf *out, struct err_text *why)
{
    struct identity_cert_spec spec = {.common_name = name,
                                      .purpose = GNUTLS_KP_TLS_WWW_CLIENT,
                                      .key = key,
                                      .now_s = now_s,
                                      .life_s = ca->life_s};
    gnutls_x509_crt_t crt;
    err_t e = identity_cert_make(&spec, ca->ca, ca->key, &crt, why);
    if (e) return e;
    e = identity_roll_add(ca->dir, name, crt, now_s, why);
    if (!e) e = identity_cert_to_pem(crt, out, why);
    gnutls_x509_crt_deinit(crt);
    return e;
}

err_t identity_enroll(struct identity *ca, const char *secret, const char *name,
                      const char *public_key_pem, int64_t now_s, struct buf *certificate_pem,
                      struct err_text *why)
{
    char file[16 + 2 * IDENTITY_PIN_BYTES], path[PATH_MAX];
    if (!ca->is_coordinator) return err_say(why, ERR_INVALID, "not a coordinator");
    if (strlen(secret) != IDENTITY_SECRET_CHARS || !identity_hex_ok(secret, IDENTITY_SECRET_CHARS))
        return token_refused(why);
    token_file(secret, file);
    if (is_expired(token_expiry(ca->dir, file), now_s)) return token_refused(why);
    if (!identity_name_ok(name))
        return err_say(why, ERR_LINK_AUTH, "a worker cannot have that name");
    if (identity_roll_is_revoked(ca->dir, name))
        return err_say(why, ERR_LINK_AUTH, "the name %s was revoked", name);
    gnutls_pubkey_t key;
    gnutls_datum_t d = {(unsigned char *)public_key_pem, (unsigned)strlen(public_key_pem)};
    if (gnutls_pubkey_init(&key) < 0) return err_say(why, ERR_MEMORY, "no memory for a key");
    err_t e = OK;
    if (gnutls_pubkey_import(key, &d, GNUTLS_X509_FMT_PEM) < 0)
        e = err_say(why, ERR_LINK_AUTH, "the worker's key is not a public key");
    if (!e) e = identity_cert_check_key(key, why);
    // Of all who come with this secret, one succeeds in removing the file.
    int n = snprintf(path, sizeof path, "%s/%s", ca->dir, file);
    if (!e && (n < 0 || n >= (int)sizeof path || unlink(path) != 0)) e = token_refused(why);
    if (!e) e = sign_worker(ca, name, key, now_s, certificate_pem, why);
    gnutls_pubkey_deinit(key);
    return e;
}

void identity_set_life(struct identity *ca, int64_t life_s)
{
    ca->life_s = life_s;
}

int64_t identity_life(const struct identity *ca)
{
    return ca->life_s;
}

err_t identity_renew(struct identity *ca, const char *name, const char *request_pem, int64_t now_s,
                     struct buf *certificate_pem, struct err_text *why)
{
    gnutls_pubkey_t key;
    if (!ca->is_coordinator) return err_say(why, ERR_INVALID, "not a coordinator");
    if (!identity_name_ok(name)) return err_say(why, ERR_LINK_AUTH, "not a worker's name");
    if (identity_roll_is_revoked(ca->dir, name))
        return err_say(why, ERR_LINK_AUTH, "the name %s was revoked", name);
    err_t e = identity_cert_request_key(request_pem, &key, why);
    if (e) return e;
    e = sign_worker(ca, name, key, now_s, certificate_pem, why);
    gnutls_pubkey_deinit(key);
    return e;
}
