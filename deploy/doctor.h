// doctor: what may keep this machine from serving, as a list of findings: what was looked at, how
// it stands, and what helps.
#pragma once
#include "deploy/client.h"

enum doctor_level { DOCTOR_OK, DOCTOR_WARN, DOCTOR_BAD };

struct doctor_finding {
    enum doctor_level level;
    const char *area; // one word; static
    char said[256];
    char remedy[200]; // empty: nothing to do
};

enum { DOCTOR_FINDINGS_MAX = 64 };

struct doctor {
    struct doctor_finding at[DOCTOR_FINDINGS_MAX];
    int n;
};

struct doctor_ask {
    const char *state_dir;            // the coordinator's
    const char *transports, *devices; // UCX's, as workers get them; NULL: as there
    const char *model;                // NULL: none is looked at
    uint32_t ctx;                     // of the model; 0: its own, at most 8192
    bool kernels;                     // also how each type of weight is computed
    struct client_config client;      // url NULL: no server is asked
};

// A finding more; what does not fit is cut, a 65th is a BUG. The remedy may be NULL.
void doctor_add(struct doctor *d, const char *area, enum doctor_level level, const char *remedy,
                const char *said, ...) __attribute__((format(printf, 5, 6)));

// doctor.c: memory, threads, kernels, shared memory, descriptors, clock, state folder, GPUs.
// Returns bytes of memory that are available, 0 if that cannot be told.
uint64_t doctor_machine(const struct doctor_ask *ask, struct doctor *d);
// doctor_road.c: UCX and the transports that open on the trusted devices.
void doctor_road(const struct doctor_ask *ask, struct doctor *d);
// doctor_road.c: how devices hand each other numbers.
void doctor_groups(struct doctor *d);
// doctor_model.c: does it open, does it fit, and what computes it.
void doctor_model(const struct doctor_ask *ask, uint64_t available, struct doctor *d);
// doctor_road.c: the running server.
void doctor_server(const struct doctor_ask *ask, struct doctor *d);
