// layer: the forward pass of each layer kind, one file per kind, and the state of one pass that
// they share. A layer is a mixer (tokens see each other: layer_attn, layer_mla, layer_delta) and
// then a feed-forward part (each token alone: layer_ffn, layer_moe); struct model_layer says which.
//
// A member of a tensor group (topology/share.h) computes its columns of what lies between two
// matrices, and gathers the others' columns from the others: no sum is ever cut. In a group of
// experts the lead runs the layers, and the others layer_moe_serve.
#pragma once
#include "proto/link/group.h"
#include "worker/kv.h"
#include "worker/state.h"
#include "worker/weights.h"

// Layers that look back over everything and local ones differ in their pages and their rotation.
enum { PASS_GLOBAL, PASS_LOCAL, PASS_SIGHTS };

// Work space of one layer kind. Kinds are never at work at once, so their buffers share memory;
// only those of experts may be in use while other rows are at another kind (layer_carve).
struct attn_work {    // n_head, n_head_kv: of this member, but in `all`
    float *q;         // (n_tok, n_head, head_dim)
    float *key, *val; // (n_tok, n_head_kv, head_dim)
    float *gate;      // (n_tok, n_head, head_dim)
    float *att;       // (n_tok, n_head, head_dim)
    float *all;       // (n_tok, n_head, head_dim) of all members; alone the same as att
};
struct mla_work {
    float *q_a;    // (n_tok, q_rank)
    float *kv;     // (n_tok, kv_rank + rope_dim) the keys of the cache: [latent, turned]
    float *latent; // (n_tok, kv_rank)
    float *q;      // (n_tok, n_head, nope_dim + rope_dim), later (n_tok, n_head, v_dim)
    float *q_wide; // (n_tok, n_head, nope_dim), later (n_tok, n_head, kv_rank + rope_dim)
    float *att;    // (n_tok, n_head, kv_rank)
};
struct delta_work {
    float *qkv, *mixed; // (n_tok, 2 k + v) before and after the convolution
    float *z;           // (n_tok, v)
    float *a, *b;       // (n_tok, n_head_v)
    float *out;         // (n_tok, v)
};
struct ffn_work {
    float *gate, *up; // (n_tok, middle), of this member
    float *all;       // (n_tok, middle) of all members; alone the same as gate
};
// A product is one (token, chosen expert); n_prod = n_tok * n_used of them, sorted by the member
// that computes them (if experts are dealt out), then by expert, then by token.
struct moe_work {
    float *logits;   // (n_tok, n_expert)
    int32_t *ids;    // (n_tok, n_used)
    float *weights;  // (n_tok, n_used)
    int32_t *at;     // (n_tok, n_used) the product's place in the sorted list
    int32_t *row;    // (n_prod) sorted: its token
    int32_t *expert; // (n_prod) sorted: its expert; mine: the place in this member's stacks
    int32_t *seq;    // (n_prod) 0, 1, 2, ... from layer_moe_open on
    float *x;        // (n_prod, dim) inputs weighed beforehand, or NULL
    float *ordered;  // (most products, cols) inputs in the order of their expert's columns, or NULL
    float *gate, *up;       // (most products of this member, m); rows cut: its columns
    float *all;             // (n_prod, m) of all members, where rows are cut
    float *y;               // (n_prod, dim); rows cut: this member's columns
    float *sum;             // (n_tok, this member's columns), where rows are cut
    float *out;             // (n_tok, dim)
    float *given;           // (most rows, dim) of owners: inputs
    int32_t most;           // products of this member
    struct ffn_work shared; // of the shared expert
    float *shared_out;      // (n_tok, dim)
    float *shared_share;    // (n_tok)
    int32_t *first; // (2, members + 1) where each member's products begin; and of a second half
    // The host's, of groups that deal experts out: the sorting is done here. The first four are
    // those above, where the backend's memory is the host's the very same.
    struct moe_sorting {
        int32_t *ids, *at, *row, *expert;
        int32_t *src;       // (n_prod) the product's place in ids, sorted by expert alone
        int32_t *by_expert; // (n_prod) its expert, likewise
        uint8_t *by_member; // (n_prod) its member, likewise
        uint8_t *member;    // (n_prod) sorted: its member
        int32_t *count;     // (n_expert + 1) scratch
        uint64_t *load;     // (members) scratch
        float *block;       // (most rows, dim + n_used) of experts' groups: what travels
        int32_t *block_ids; // (most rows, n_used)
    } host;
};

// What a tensor group gathers, by columns.
enum pass_cut { CUT_HEADS, CUT_DIM, CUT_MIDDLE, CUT_EXPERT, CUT_SHARED, CUT_VOCAB, PASS_CUTS };

// One step's rows on their way through this stage's layers. All buffers belong to the stage and
// hold max_tok rows. Floats are memory of the backend, as are a moe_work's lists; the rest is the
// host's.
struct pass {
    struct kernels *k;
    const struct model_shape *shape;
    const struct kv *kv;
    const struct state *state;
    const struct stage_watch *watch; // NULL: nobody does
    void *seen;                      // the host's: what it is shown; NULL: the backend's is
    const struct share *share;
    struct group *group; // NULL: alone
    // Member i computes columns [cut[i], cut[i + 1]); [0, all) where this member computes them all.
    int64_t cut[PASS_CUTS][SHARE_MEMBERS_MAX + 1];
    void (*tick)(void *arg); // of stage_config
    void *tick_arg;
    err_t err; // other members sent what cannot be; of this step
    // (layers, n_expert) how often each was chosen; the backend's, where experts are dealt out the
    // host's.
    uint32_t *usage;
    float *road; // (layer_road_floats) the host's: what members hand each other; NULL: not needed
    int32_t n_tok, n_run;
    struct attn_run *runs[PASS_SIGHTS]; // (n_run) the same runs with the pages of each kind
    uint32_t *slots;                    // (n_run)
    struct rope rope[PASS_SIGHTS];
    float *cos_sin[PASS_SIGHTS]; // (n_tok, n_rot / 2, 2)
    float *q_scale;              // (n_tok), used if shape.q_beta

    float *x;                // (n_tok, dim) residual stream
    float *h;                // (n_tok, dim) what is between the residual stream and a matrix
    const struct part *next; // the layer that follows in this pass, or NULL
    // (n_wanted) tokens, ascending, about which the head will ask; NULL: all, or there is no head
    const int32_t *wanted;
    int32_t n_wanted;
    bool narrows;   // in the last layer: behind the mixer only these go on (layer_narrow)
    float *ordered; // (n_tok, cols) inputs in the order of a weight's columns; NULL: none has one
    struct attn_work attn;
    struct mla_work mla;
    struct delta_work delta;
    struct ffn_work ffn;
    struct moe_work moe;
};

// What the work space must hold.
struct pass_limits {
    const struct model_shape *shape;
    uint64_t max_tok, max_rows;
    uint64_t expert_cols; // of the widest stack whose columns have an order of their own, or 0
    const struct share *share;
    int32_t layer_from, layer_to;
    int64_t head_floats; // that a tensor group's members hand each other of the head, at once
};

// One half of a layer: adds to p->x (n_tok, dim) what it makes of p->h, which is norm(x), and
// leaves in p->h the norm that the other half wants; the second half that of p->next, if there is
// one. `index` counts the stage's own layers from 0.
typedef void layer_fn(struct pass *p, const struct part *w, int32_t index,
                      const struct model_layer *kind);

// Self-attention with rotary positions over the pages of the KV cache (Vaswani et al. 2017, Su et
// al. 2021, Ainslie et al. 2023); local layers look back over a window or a chunk only.
layer_fn layer_attn;
// Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434), always in the absorbed form.
layer_fn layer_mla;
// Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464).
layer_fn layer_delta;
// Dense gated feed-forward (Shazeer 2020).
layer_fn layer_ffn;
// A router and experts (Shazeer et al. 2017, arXiv 1701.06538), with or without a shared one.
layer_fn layer_moe;
// What the owner of experts does for each layer that has them, while the lead runs layer_moe.
layer_fn layer_moe_serve;
// The four steps of layer_moe, so that other rows' steps may come between them:
//   route   the products of h, sorted
//   give    owners get their rows; this member's products and the shared expert. Needs the same h
//   take    the others' products
//   end     x += norm(sum of products), and h for p->next
void layer_moe_route(struct pass *p, const struct part *w, int32_t index);
void layer_moe_give(struct pass *p, const struct part *w);
void layer_moe_take(struct pass *p);
void layer_moe_end(struct pass *p, const struct part *w);
// Once, after the carving, before any of them.
void layer_moe_open(struct pass *p, const struct pass_limits *l);
// The work space of the rows from `tok` on, beside that of the rows before them.
struct moe_work layer_moe_from(const struct pass *p, int32_t tok);
// The first half of a layer.
layer_fn layer_mix;
// Mixer and feed-forward part of one layer. Before the first one: layer_norm with SLOT_ATTN_NORM.
void layer_run(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind);

// Sizes or lays out (mem_carve) each kind's work space; layer_carve all that the model needs.
void layer_attn_carve(struct attn_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_mla_carve(struct mla_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_delta_carve(struct delta_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_ffn_carve(struct ffn_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_moe_carve(struct moe_work *w, const struct pass_limits *l, struct mem_plan *c);
// What lies in no other kind's memory: `seq`.
void layer_moe_carve_lasting(struct moe_work *w, const struct pass_limits *l, struct mem_plan *c);
void layer_carve(struct pass *p, const struct pass_limits *l, struct mem_plan *c);

// -- what the kinds share --

// y (n_tok, rows) = x W^T + bias.
struct projection {
    const struct weight *w;
    const float *bias; // (rows) or NULL
    float *y;
    int64_t rows; // 0: nothing to do
    int64_t ld;   // floats from row to row of y; 0: rows
    bool fine;    // gemm_job.fine: keys, values and gates, whose errors all that follows suffers
};
enum { PROJECTIONS_MAX = 4 };
// All projections of one x (n_tok, cols), at most PROJECTIONS_MAX. `ordered` (n_tok, cols) is
// scratch, needed only if a weight has its columns in another order.
void layer_project(struct kernels *k, float *ordered, const float *x, int32_t n_tok, int32_t cols,
                   const struct projection *list, int32_t n);
// h = norm(x)
void layer_norm(struct pass *p, const struct part *w, enum slot norm);
// The end of a half: x += residual_scale * norm(y + more), h = norm(x) for what follows. y and more
// (n_tok, dim), y is spent, more may be NULL; the first norm is left out where the part has none.
struct sum {
    float *y;
    const float *more;
};
void layer_add_mixed(struct pass *p, const struct part *w, const struct sum *sum);
void layer_add_ffn(struct pass *p, const struct part *w, const struct sum *sum);
struct glu layer_glu(const struct model_shape *s);
// Between halves of layers: whoever runs the pass may have other things on its way.
static inline void pass_tick(const struct pass *p)
{
    if (p->tick) p->tick(p->tick_arg);
}
// Shows the residual stream to whoever watches.
void pass_show(const struct pass *p, int32_t layer);

// -- members --

// Columns that this member computes.
static inline struct share_range pass_mine(const struct pass *p, enum pass_cut cut)
{
    const int32_t i = p->share->split == SPLIT_TENSOR ? p->share->member : 0;
    return (struct share_range){p->cut[cut][i], p->cut[cut][i + 1]};
}
// Whether columns are gathered at all.
static inline bool pass_gathers(const struct pass *p)
{
    return p->group && p->share->split == SPLIT_TENSOR;
}
// Columns of all members.
static inline int64_t pass_all(const struct pass *p, enum pass_cut cut)
{
    return p->cut[cut][pass_gathers(p) ? p->share->n_member : 1];
}
// Whether what members hand each other is taken as it lies; else it has to go over the host.
static inline bool pass_is_near(const struct pass *p)
{
    return p->k->is_host || (p->group && p->group->on_device);
}
// Where n floats of the backend's lie for the group, filled with them (fetch) or not; layer_return
// brings them back.
float *layer_fetch(const struct pass *p, float *x, int64_t n);
void layer_return(const struct pass *p, float *x, int64_t n);
static inline float *pass_road(const struct pass *p, float *x)
{
    return pass_is_near(p) ? x : p->road;
}
// y (n_row, all columns of the cut): this member has filled its columns; afterwards all are there.
void layer_gather(struct pass *p, enum pass_cut cut, float *y, int64_t n_row);
// Where a pass narrows: brings the wanted rows of y (n_tok, cols) and of the residual stream
// together at the front; from here on n_tok counts them alone. Once in a mixer, when all keys are
// stored.
void layer_narrow(struct pass *p, float *y, int64_t cols);
// y (n_tok, dim) = x (n_tok, cols) W^T + bias. is_cut: each member makes its rows of W.
void layer_out(struct pass *p, const struct projection *out, const float *x, int32_t cols,
               bool is_cut);
// A gated feed-forward part: y (n_tok, dim) = (act(h Wg) h Wu) Wd, middle and y cut.
struct gated {
    enum slot gate, up, down;
    enum pass_cut cut; // of the middle
    const struct ffn_work *work;
    const struct projection *beside; // one more of h, or NULL
    float *y;
};
void layer_gated(struct pass *p, const struct part *w, const struct gated *g);
void layer_gated_carve(struct ffn_work *w, const struct pass_limits *l, enum slot gate,
                       struct mem_carver *c);
