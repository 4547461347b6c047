// stage: one contiguous range of a model's layers, loaded and ready to run steps: weights, KV
// pages, work space. Reads the plan, knows nothing of links: the caller brings activations in and
// takes them out, so tests and `trireme bench` drive it directly.
#pragma once
#include "kernels/kernels.h"
#include "proto/wire/wire.h"
#include "proto/link/group.h"
#include "topology/share.h"
#include <stdatomic.h>

struct stage;

// How loading gets on, seen from another thread.
struct stage_load {
    atomic_bool cancel;           // set it: stage_open ends soon with ERR_CANCELLED
    atomic_uint_least64_t pieces; // moves while weights are read
};

struct stage_config {
    const struct model *model;
    uint32_t layer_from, layer_to;
    bool embed, head;
    bool mtp; // with the head: also the layer that predicts the token after the next
    struct plan_settings settings;
    int32_t n_threads;
    // Which part of the stage this member has, and the road to those that have the rest: alone (or
    // all zeros) and NULL, or a group of as many members. The share's tables are copied. Members of
    // a tensor group keep embedding, keys and values of their heads, and rows of the rest; all are
    // given the same x. Owners of experts (SPLIT_EXPERTS, not member 0) keep experts only; x is
    // not looked at.
    struct share share;
    struct group *group; // the caller's; must outlive the stage
    // Called between the halves of layers, on the thread of stage_run, or NULL: a step may take
    // seconds, and others wait for what the caller still has to send.
    void (*tick)(void *arg);
    void *tick_arg;
    const char *device;      // kernels_open's
    bool profile;            // time every operation (stage_profile)
    bool eager;              // start every operation of every step, repeat no recorded ones
    struct stage_load *load; // may be NULL
};

// Of the backend's memory; host_bytes: of the host's besides, where that is another one.
struct stage_sizes {
    uint64_t weight_bytes, kv_bytes, work_bytes, host_bytes;
};

// Bytes the stage will take, from headers only.
err_t stage_sizes(const struct stage_config *c, struct stage_sizes *out, struct err_text *why);
// Reads only this stage's tensors and packs them (threads allowed); allocates everything a step can
// need. ERR_MODEL, ERR_MEMORY, ERR_SYSTEM. `reuse` (may be NULL): a stage of the same model whose
// layers that are in both are taken over instead of read again; it is consumed, also on error.
err_t stage_open(const struct stage_config *c, struct stage *reuse, struct stage **out,
                 struct err_text *why);
void stage_close(struct stage *s);
// From now on another group of the same members, which must outlive its use; between steps.
void stage_join(struct stage *s, struct group *group);
// Of a stage on a device, from now on: what comes in is already in stage_x, what goes out is left
// there; either may still be computed when stage_run returns. Between steps.
void stage_stay(struct stage *s, bool comes, bool goes);
float *stage_x(const struct stage *s); // (max_tok, dim) the backend's; NULL: the caller's is used
struct kernels *stage_kernels(const struct stage *s);      // its backend
struct stage_sizes stage_sizes_get(const struct stage *s); // as they were planned
// What the process holds of such memory now, all stages on the same device together.
void stage_taken(const struct stage *s, struct kernels_bytes *out);
const struct stage_config *stage_config_get(const struct stage *s); // what it was opened with
// Of a stage with config.profile: what was counted since the call before.
void stage_profile(struct stage *s, struct kernels_profile *out);
// Forgets all sequences (new epoch).
void stage_reset(struct stage *s);

// Checks what depends on the plan: slots, pages, positions, ids. ERR_LINK_PROTOCOL, sentence.
err_t stage_check(const struct stage *s, const struct step *st, struct err_text *why);
// Number of tokens of a step's rows.
uint32_t stage_n_tok(const struct step *st);
// Runs one checked step; every member of a group runs the same ones in the same order. ERR_MEMORY,
// and what the group came to: then x and result mean nothing.
//   x        (n_tok, dim) residual stream, on the host; in: the previous stage's (ignored when
//            embed); out: mine. Where the stage has the head, what is left there means nothing
//   chained  embed stages: ids of the ROW_CHAIN rows in row order; else NULL
//   arena    result items' lists live here; result may be NULL when the stage has no head. Of
//            members only the first one's has items
err_t stage_run(struct stage *s, const struct step *st, float *x, const int32_t *chained,
                struct arena *arena, struct step_result *result);
// Lets tests and benches see raw logits: called in stage_run for every logits row that is computed
// (the last token of a ROW_SAMPLE row, each token of a ROW_SCORE row), with the row's index in the
// step, the token's index in the row and n_vocab floats. NULL takes it off.
typedef void stage_tap_fn(void *arg, uint32_t row, uint32_t tok, const float *logits);
void stage_tap(struct stage *s, stage_tap_fn *fn, void *arg);

// Lets tests see inside, during stage_run: the residual stream (n_tok, dim) after each layer
// (and as PART_EMBED before the first), and the experts of each token with their weights (n_tok,
// n_used). Either may be NULL. In a group of experts all members are watched or none.
struct stage_watch {
    void *arg;
    void (*hidden)(void *arg, int32_t layer, int32_t n_tok, const float *x);
    void (*experts)(void *arg, int32_t layer, int32_t n_tok, const int32_t *ids,
                    const float *weights);
};
// NULL takes it off. ERR_MEMORY.
err_t stage_watch(struct stage *s, const struct stage_watch *watch);

// The prediction head (stage_config.mtp) over the rows that stage_run has just run: x is what it
// left, next_ids (n_tok) the token that follows each; logits (n_tok, n_vocab) of the token after
// that. Its layer has keys and values of its own in the rows' pages.
void stage_mtp(struct stage *s, const float *x, const int32_t *next_ids, float *logits);

// How often each expert of each of the stage's layers was chosen since this was asked last, which
// is forgotten then: count (layer_to - layer_from, n_expert). False: never, or this member does not
// route; count is zeros then. On the thread of stage_run.
bool stage_usage(struct stage *s, uint32_t *count);

// What its backend says went wrong; OK: nothing.
err_t stage_status(const struct stage *s, struct err_text *why);
uint64_t stage_progress(const struct stage *s); // any thread
uint64_t stage_busy_ns(const struct stage *s);  // kernels_ops.busy_ns, on the thread of stage_run
