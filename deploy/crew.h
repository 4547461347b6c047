// crew: the local worker processes of `trireme serve --workers N`: starts them, starts them again
// when they die (but not those that were drained), and ends them with the server. Runs on a thread
// of its own, because the loop that serves must not wait for children.
#pragma once
#include "proto/base/err.h"

#include <stdint.h>

struct crew;

struct crew_config {
    uint32_t n_worker;
    const char *join_listen; // the coordinator's "ADDR:PORT"; any-address means loopback
    int join_port;           // the port it got
    const char *state_dir;   // of the coordinator; each worker's own is workers/NAME under it
    const char *model;       // path
    uint32_t n_threads;      // of each worker; 0: this machine's cores divided among them
    const char *device;      // of each; NULL: the CPU
    double device_memory;    // share of its memory for each; 0: all that is free
    const char *transports, *devices; // of the data road, NULL: default
    const char *group;                // of `trireme worker`, NULL: default
};

err_t crew_start(const struct crew_config *c, struct crew **out, struct err_text *why);
// Ends the workers (SIGTERM, after 3 s SIGKILL) and waits for them.
void crew_stop(struct crew *c);
