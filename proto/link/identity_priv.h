// What identity*.c and link_tls.c share; nobody else includes it.
#pragma once
#include "proto/link/identity.h"
#include <gnutls/gnutls.h>

enum { IDENTITY_NAME_MAX = 63, IDENTITY_SERIAL_MAX = 41 };

// Who the peer of a session proved to be.
struct identity_peer {
    char name[IDENTITY_NAME_MAX + 1];
    char serial[IDENTITY_SERIAL_MAX]; // hex
    int64_t expires_s;
    gnutls_alert_description_t alert; // what a refused one is told
};

// The identity must outlive the sessions that use these.
gnutls_certificate_credentials_t identity_credentials(const struct identity *id);
// Verdict on the certificates that the peer presented in the handshake. ERR_LINK_AUTH with the
// reason, and out->alert. A worker's check names the cluster, a coordinator's the worker.
err_t identity_check_peer(const struct identity *id, gnutls_session_t session,
                          struct identity_peer *out, struct err_text *why);
// The coordinator told a worker so: it needs its token, if it was given one.
void identity_expired(struct identity *id);
// True if the state folder says so, or cannot be read. Cheap: two system calls.
bool identity_is_revoked(const struct identity *ca, const struct identity_peer *peer);

// -- identity_store.c: files of a state folder --

// Makes the folder with its parents if missing; refuses one that others can enter. ERR_CONFIG.
err_t identity_store_open(const char *dir, struct err_text *why);
// Whole file, at most 64 KiB. ERR_NOT_FOUND if there is none (says nothing); ERR_CONFIG if others
// can read it.
err_t identity_store_read(const char *dir, const char *name, struct buf *out, struct err_text *why);
err_t identity_store_write(const char *dir, const char *name, const struct buf *data,
                           struct err_text *why);
