// weights: the weights of one stage, read from the model's files (source.h) and packed for the
// backend. The only place where weight bytes are read. Nothing of the file is mapped: a file that
// shrinks or changes under us is an error and not a SIGBUS.
//
// Tensors are held in parts (a layer, the embedding table, the head, what every stage needs), one
// block of memory each, so that a new plan can take over what an old one has loaded.
#pragma once
#include "kernels/kernels.h"
#include "topology/model.h"
#include "worker/mem.h"
#include "worker/stage.h"

// What a slot of a part holds. view.data NULL: nothing. A member of a group holds its share only
// (topology/share.h): n and rows are those.
struct weight {
    // Vectors: F32 rows. A matrix (rows, cols) or a stack (n, rows, cols), packed.
    struct view view;
    struct share_range rows; // of the model's
    const float *factors;    // (n) of a stack: each one's view.factor; NULL: view's is that of all
    // (cols), of a stack (n, cols), or NULL: column c of the packed weight is column order[c] of
    // the model's, so x is gathered by it first.
    const int32_t *order;
};

struct part {
    int32_t id; // layer number or PART_...
    // (n_expert) or NULL: expert e of the model lies at place[e] of the stacks, -1: is not here.
    // NULL: expert e lies at e. The host's; all else is memory of the backend.
    int32_t *place;
    struct mem mem;
    struct weight w[SLOT_COUNT];
};

struct weights {
    struct part *parts; // layers [layer_from, layer_to) in order, then the others
    int32_t n_part;
    uint64_t bytes;
};

static inline const struct weight *part_weight(const struct part *p, enum slot s)
{
    return &p->w[s];
}
// A vector's elements, in memory of the backend, or NULL if the part does not have it.
static inline const float *part_vector(const struct part *p, enum slot s)
{
    return p->w[s].view.data;
}
// (rows, cols), or (n, rows, cols) of a stack; packed.
static inline const struct view *part_matrix(const struct part *p, enum slot s)
{
    return &p->w[s].view;
}

// Bytes that the parts will take. `k` is any backend of the same kind and precision. ERR_MODEL if a
// tensor cannot be computed with.
err_t weights_bytes(const struct stage_config *c, struct kernels *k, uint64_t *out,
                    struct err_text *why);
// Loads the stage's parts with c->n_threads threads. Parts that `reuse` (may be NULL) has are moved
// out of it; the caller makes sure it was packed by the same kind of backend on the same device
// from the same model; that one may be closed afterwards. Meanwhile the blocks of `beside` (a list
// with NULL at its end, or NULL) are touched: a reader waits for the disk now and then. On error
// the moved parts are gone. ERR_MODEL, ERR_MEMORY, ERR_SYSTEM, ERR_CANCELLED.
err_t weights_load(const struct stage_config *c, struct kernels *k, struct weights *reuse,
                   const struct mem *const *beside, struct weights *out, struct err_text *why);
void weights_free(struct weights *w);
// Calls fn for each run of rows that weights_load reads when nothing is taken over: n_row rows of
// matrix i of a weight, as struct source_piece counts them. Ends with fn's first error. Needs only
// model, layers, embed, head, mtp and share of c.
typedef err_t weights_each_fn(void *arg, const struct model_weight *w, int64_t i, int64_t row_from,
                              int64_t n_row);
err_t weights_each(const struct stage_config *c, weights_each_fn *fn, void *arg);
// NULL if the stage does not hold that part.
const struct part *weights_part(const struct weights *w, int32_t id);

// True if every scale (or, in plain types, every element) of a run of blocks is a finite number.
bool weights_are_finite(enum dtype t, const void *data, uint64_t bytes);
