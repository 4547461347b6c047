// usage: how often each expert of a lane's model was chosen lately, out of what the stages' leads
// count (MSG_USAGE); counts fade, so that what is asked now decides. From it follow a table of who
// computes which expert (topology/experts.h) and the picture in /v1/cluster/experts.
#pragma once
#include "coordinator/fleet/place.h"
#include "proto/base/buf.h"
#include "topology/experts.h"

#define USAGE_HALF_LIFE_US ((int64_t)300 * 1000000)

struct usage;

// *out is NULL for a model without experts; all functions take that. ERR_MEMORY.
err_t usage_open(const struct model *model, struct usage **out, struct err_text *why);
void usage_close(struct usage *u);
// ERR_LINK_PROTOCOL: these are not layers and experts of the model.
err_t usage_add(struct usage *u, const struct msg_usage *m, int64_t now_us, struct err_text *why);
// Products of the average expert, as far as they have not faded: how much the counts can tell.
double usage_mean(const struct usage *u, int64_t now_us);
// What each member of the placement's groups has of its stage's products: out (p->n_member). False,
// and nothing is written: nothing was counted yet, or there is no memory.
bool usage_parts(const struct usage *u, const struct place *p, double *out);
// A table for the placement's groups from the one it has. spare_bytes (p->n_member): beside what
// the placement gives each member; speeds are taken from the parts. The table, of all layers, lives
// in the arena. ERR_MEMORY; ERR_NOT_FOUND: no group deals experts out, or there are none.
err_t usage_place(const struct usage *u, const struct place *p, const uint64_t *spare_bytes,
                  struct arena *arena, struct experts_plan *out);

// Writes an object:
//
//   {"n_expert":128,"products":81920,
//    "workers":[{"worker":"a","stage":0,"member":0,"part":0.5,"experts":1536,"copies":3,
//                "load":0.53,"slowest":13}, ...],
//    "layers":[{"layer":3,"stage":0,"use":[0.01, ...],"owner":[0, ...],"copies":[[7,1], ...]},
//    ...]}
//
// products: those that have not faded. load: of the stage's products; slowest: layers in which this
// member sets the pace. use: share of the layer's products. owner -1: all members, each of its
// rows. name: of a worker's number.
typedef const char *usage_name_fn(void *arg, uint32_t worker);
void usage_json(const struct usage *u, const struct place *p, usage_name_fn *name, void *arg,
                struct buf *b);
