// join: how a worker process reaches its coordinator: enrols once with its token, then dials with
// its certificate. join_dial is the worker's dial function.
#pragma once
#include "proto/link/identity.h"
#include "proto/link/link.h"

struct join {
    const char *address; // "host:port"
    const char *state_dir;
    const char *token; // text, or NULL
    const char *name;
    struct identity *id; // opened at the first dial
};

// Blocks for at most some seconds while it enrols; later dials return at once.
err_t join_dial(void *join, struct link **out, struct err_text *why);
void join_fini(struct join *j);
