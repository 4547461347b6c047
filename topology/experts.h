// experts: which member of a group computes which expert, from how often each one was chosen. Pure:
// figures in, table out.
//
// In every layer the members compute side by side and the slowest sets the pace, so what counts is,
// layer by layer, the largest load in proportion to speed. From the table as it is, experts are
// moved from the slowest member (or swapped, where memory is full: experts of one layer are of one
// size) as long as one more move makes it clearly faster, the move that helps most first; so a
// table that is good enough stays, and few experts travel. When no single move helps, no member is
// later than (all the layer's load + (members - 1) * its largest expert) / (sum of speeds), where
// memory allows: the bound of giving out the longest first (Graham 1969, SIAM J. Appl. Math. 17)
// for machines of different speeds. Afterwards spare memory takes second copies of the experts that
// keep a layer's slowest member busy, those first that save most time for their bytes; share_assign
// then divides their products.
#pragma once
#include "proto/base/arena.h"
#include "topology/share.h"

enum { EXPERTS_REPLICAS_MAX = 1 << 14 };

struct experts_stage {
    int32_t layer_from, layer_to;
    int32_t n_member;
    uint32_t part[SHARE_MEMBERS_MAX];
    double speed[SHARE_MEMBERS_MAX]; // bytes of experts per second, or relative to each other
    uint64_t spare_bytes[SHARE_MEMBERS_MAX]; // beside what `now` gives it
};

struct experts_ask {
    int32_t n_layer, n_expert;    // of the model
    const double *count;          // (n_layer, n_expert) products, all of one period
    const uint64_t *expert_bytes; // (n_layer) of one expert; 0: the layer has none
    const struct experts_stage *stages;
    int32_t n_stage;
    const struct share_experts *now; // of all layers; NULL: by part
};

struct experts_plan {
    struct share_experts table; // of all layers; layers without experts: member 0
    int32_t n_moved;            // experts with another owner than now
    // Sum over the layers of the slowest member's time; the table's and now's.
    double cost, cost_now;
};

// By how much a step's experts would be faster: 0.2 is a fifth.
static inline double experts_gain(const struct experts_plan *p)
{
    return p->cost > 0 ? p->cost_now / p->cost - 1 : 0;
}

// The table lives in the arena. ERR_MEMORY.
err_t experts_place(const struct experts_ask *a, struct arena *arena, struct experts_plan *out);
// What each member would compute under a table (NULL: by part): load (n_layer, SHARE_MEMBERS_MAX)
// in products, copies dividing an expert's so that they end together. Scratch is the arena's.
err_t experts_loads(const struct experts_ask *a, const struct share_experts *table,
                    struct arena *arena, double *load);
