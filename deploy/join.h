// join: how a worker process reaches its coordinator: enrols once with its token, then dials with
// its certificate, which it renews. join_dial, join_renewal and join_renewed are the worker's.
#pragma once
#include "proto/link/identity.h"
#include "proto/link/link.h"

struct join {
    const char *address; // "host:port"
    const char *state_dir;
    const char *token; // text, or NULL
    const char *name;
    struct identity *id;
};

// Looks at the state folder and the token. What is wrong here does not mend itself: ERR_CONFIG.
err_t join_open(struct join *j, struct err_text *why);
// Blocks for at most some seconds while it enrols; later dials return at once.
err_t join_dial(void *join, struct link **out, struct err_text *why);
const char *join_renewal(void *join);
err_t join_renewed(void *join, const char *certificate_pem, struct err_text *why);
void join_fini(struct join *j);
