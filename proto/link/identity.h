// identity: who may talk on the control road. A coordinator is its own certificate authority: a
// state folder (0700) holds ca.key, ca.pem, server.key, server.pem (0600). A worker joins once with
// a single-use token that names the CA's fingerprint, gets a client certificate (90 days), and is
// known by it from then on; in the last third of its life it asks for another over the connection
// that this one proved. Ed25519 keys, X.509, TLS 1.3 only (gnutls).
//
// Clocks need not agree: certificates begin a day early, and when one ends is judged by the clock
// that made it, the coordinator's.
//
// Token text: "trireme1.<64 hex: SHA-256 of the CA certificate>.<32 hex: secret>". The coordinator
// keeps only tokens/<SHA-256 of the secret> holding the expiry time.
#pragma once
#include "proto/base/buf.h"
#include "proto/base/err.h"
#include <stdbool.h>

struct identity;

// Coordinator: opens the state folder, making what is missing. Refuses files readable by group or
// others (the sentence names the file and the chmod). The server certificate is for
// "trireme-coordinator", which is what workers verify, so addresses may change; it is renewed here
// when less than half of its two years is left. A worker is revoked by a file revoked/NAME, one of
// its certificates (not those that it got with it) by revoked/SERIAL (hex): open links of it end
// within a second. ERR_CONFIG, ERR_SYSTEM.
err_t identity_open_coordinator(const char *state_dir, const char *cluster, struct identity **out,
                                struct err_text *why);
// Worker: opens its state folder; without a certificate there, uses the token text (may be NULL).
// ERR_CONFIG if neither is there, or the certificate has expired and no token is given.
// identity_is_enrolled tells which is used.
err_t identity_open_worker(const char *state_dir, const char *token, struct identity **out,
                           struct err_text *why);
bool identity_is_enrolled(const struct identity *id);
void identity_close(struct identity *id);

// Coordinator side of enrolment.
enum { IDENTITY_TOKEN_TTL_S = 900, IDENTITY_LIFE_S = 90 * 86400 };
// How long certificates for workers are good that are given from now on (IDENTITY_LIFE_S).
void identity_set_life(struct identity *ca, int64_t life_s);
int64_t identity_life(const struct identity *ca);
err_t identity_token_new(const char *state_dir, int64_t now_s, struct buf *token,
                         struct err_text *why);
// Takes (once) the token whose secret this is and signs a certificate for `name` over the PEM
// public key. ERR_LINK_AUTH: unknown, used or expired.
err_t identity_enroll(struct identity *ca, const char *secret, const char *name,
                      const char *public_key_pem, int64_t now_s, struct buf *certificate_pem,
                      struct err_text *why);
const char *identity_ca_pem(const struct identity *id);
// Signs another certificate for a worker that has one: for `name`, which its connection has proven,
// over the key of its request (PKCS #10, whose signature must be right). ERR_LINK_AUTH.
err_t identity_renew(struct identity *ca, const char *name, const char *request_pem, int64_t now_s,
                     struct buf *certificate_pem, struct err_text *why);

// Who has certificates, by name, from the state folder alone. identity_worker: the last one given.
struct identity_worker {
    const char *name, *serial;
    int64_t issued_s, expires_s;
    uint32_t n_good; // certificates that have not expired: several after renewals
    bool is_revoked;
};
typedef void identity_worker_fn(void *arg, const struct identity_worker *w);
err_t identity_workers(const char *state_dir, int64_t now_s, identity_worker_fn *each, void *arg,
                       struct err_text *why);
// Revokes the name, or takes that back: then its certificates are as good as before.
err_t identity_revoke(const char *state_dir, const char *name, bool is_revoked, bool *was_revoked,
                      struct err_text *why);

// Worker side: the secret and public key to send; then keeps the certificate (files 0600).
const char *identity_token_secret(const struct identity *id);
const char *identity_public_key_pem(const struct identity *id);
err_t identity_accept(struct identity *id, const char *certificate_pem, const char *ca_pem,
                      struct err_text *why);
// The request for another certificate, when it is time to send it; NULL: not now. The answer is
// kept in the folder; sessions go on with the old one, and so does this identity: open it again (it
// is stale then) when none is left.
const char *identity_renewal(struct identity *id, int64_t now_s);
err_t identity_renewed(struct identity *id, const char *certificate_pem, struct err_text *why);
bool identity_is_stale(const struct identity *id);
int64_t identity_expires(const struct identity *id); // of the newest certificate; 0: none
// Writes the file whole or not at all, mode 0600.
err_t identity_write_file(const char *path, const void *data, size_t len, struct err_text *why);
