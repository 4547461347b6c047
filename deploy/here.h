// here: this machine as a cluster of one device: what it says of itself (topology/probe) and what a
// short measurement gives (kernels).
#pragma once
#include "topology/cluster.h"

// The caller frees *out with free(). Takes about half a second.
err_t here_cluster(struct cluster **out, struct err_text *why);
