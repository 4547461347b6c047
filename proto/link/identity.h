// identity: who may talk on the control road. A coordinator is its own certificate authority: a
// state folder (0700) holds ca.key, ca.pem, server.key, server.pem (0600). A worker joins once with
// a single-use token that names the CA's fingerprint, gets a client certificate (90 days), and is
// known by it from then on. Ed25519 keys, X.509, TLS 1.3 only (gnutls).
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
// when it runs out. A worker is revoked by a file revoked/NAME or revoked/SERIAL (hex): open links
// of it end within a second. ERR_CONFIG, ERR_SYSTEM.
err_t identity_open_coordinator(const char *state_dir, const char *cluster, struct identity **out,
                                struct err_text *why);
// Worker: opens its state folder; without a certificate there, uses the token text (may be NULL).
// ERR_CONFIG if neither is there. identity_is_enrolled tells which.
err_t identity_open_worker(const char *state_dir, const char *token, struct identity **out,
                           struct err_text *why);
bool identity_is_enrolled(const struct identity *id);
void identity_close(struct identity *id);

// Coordinator side of enrolment.
enum { IDENTITY_TOKEN_TTL_S = 900 };
err_t identity_token_new(const char *state_dir, int64_t now_s, struct buf *token,
                         struct err_text *why);
// Takes (once) the token whose secret this is and signs a certificate for `name` over the PEM
// public key. ERR_LINK_AUTH: unknown, used or expired.
err_t identity_enroll(struct identity *ca, const char *secret, const char *name,
                      const char *public_key_pem, int64_t now_s, struct buf *certificate_pem,
                      struct err_text *why);
const char *identity_ca_pem(const struct identity *id);

// Worker side: the secret and public key to send; then keeps the certificate (files 0600).
const char *identity_token_secret(const struct identity *id);
const char *identity_public_key_pem(const struct identity *id);
err_t identity_accept(struct identity *id, const char *certificate_pem, const char *ca_pem,
                      struct err_text *why);
// Writes the file whole or not at all, mode 0600.
err_t identity_write_file(const char *path, const void *data, size_t len, struct err_text *why);
