// crowd: what the processors of one host take from each other. Each worker measures itself while
// the others rest (worker/measure); computing at the same time they have the host's cores and its
// memory's bandwidth together. Pure.
#pragma once
#include "topology/cluster.h"

// Slows the CPU devices of every host down to what each has while n_busy of them (0: all that there
// are) compute at once: threads beyond the host's cores take turns, and bandwidth goes to each in
// proportion to its threads. Cores or bandwidth of a host that none of its devices tells bound
// nothing.
void crowd_apply(struct cluster *c, int32_t n_busy);
