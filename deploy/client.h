// client: HTTP requests of the command line to a running server (libcurl).
#pragma once
#include "proto/base/buf.h"

struct client_config {
    const char *url;      // "http://127.0.0.1:30000"
    const char *key_file; // first line is the API key; NULL: $TRIREME_API_KEY or none
    const char *ca_file;  // for https with a private CA, or NULL
};

// Called with each piece of the body as it arrives; return false to stop the transfer.
typedef bool client_piece_fn(void *arg, const char *data, size_t len);

// GET path (body NULL) or POST path with a JSON body. A non-2xx status is an error whose sentence
// holds the server's message. ERR_LINK: nobody answers there.
err_t client_request(const struct client_config *c, const char *path, const char *body,
                     client_piece_fn *piece, void *arg, struct err_text *why);
// The whole body, at most 16 MiB.
err_t client_get(const struct client_config *c, const char *path, struct buf *out,
                 struct err_text *why);
