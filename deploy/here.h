// here: this machine: what it says of itself (topology), what a short measurement gives
// (worker/measure), and both as a cluster of one host.
#pragma once
#include "topology/cluster.h"
#include "topology/gpus.h"
#include "worker/rate.h"

struct here {
    struct probe probe;
    struct gpus gpus;
    struct measure measure;
    struct rates rates; // of the CPU
    char isa[32];       // the CPU backend
};

// Measures for about 2.5 s unless the figures are kept and not to be refreshed.
err_t here_look(bool refresh, struct here *out, struct err_text *why);
// Where measured figures are kept. Static buffer.
const char *here_dir(void);
// The caller frees *out with free(). The CPU alone, or with its GPUs beside it; where they share
// one memory, the GPU alone.
err_t here_cluster_of(const struct here *h, bool with_gpus, struct cluster **out,
                      struct err_text *why);
// What this build can compute with: the CPU.
err_t here_cluster(struct cluster **out, struct err_text *why);
