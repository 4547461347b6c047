// The model as the formulas see it, and its bytes. Times are in cost_time.c.
#include "topology/cost_priv.h"
#include "topology/near.h"

#include <stdio.h>
#include <string.h>

enum { UNIT_ROWS = 16 }; // share.c cuts rows in such units

static bool is_of_experts(enum slot s)
{
    return s >= SLOT_MOE_GATE && s <= SLOT_MOE_DOWN_BIAS;
}

static enum cost_use use_of(enum slot s)
{
    switch (s) {
    case SLOT_ATTN_OUT:
        return COST_OUT;
    case SLOT_FFN_GATE:
    case SLOT_FFN_UP:
        return COST_UP;
    case SLOT_FFN_DOWN:
        return COST_DOWN;
    case SLOT_MOE_ROUTER:
        return COST_ROUTER;
    case SLOT_MOE_GATE:
    case SLOT_MOE_UP:
    case SLOT_MOE_DOWN:
        return COST_EXPERT;
    case SLOT_SHARED_ROUTER:
    case SLOT_SHARED_GATE:
    case SLOT_SHARED_UP:
        return COST_SHARED_UP;
    case SLOT_SHARED_DOWN:
        return COST_SHARED_DOWN;
    case SLOT_HEAD:
    case SLOT_EMBED:
        return COST_LOGITS;
    default:
        return COST_IN;
    }
}

// Those that worker/layer_*.c multiplies by as two terms of 8 bits (kernels.h, gemm_job.fine).
static bool is_fine(enum slot s)
{
    return s == SLOT_ATTN_K || s == SLOT_ATTN_V || s == SLOT_MOE_ROUTER || s == SLOT_SHARED_ROUTER;
}

static struct cost_matrix matrix_of(const struct model_shape *s, const struct model_layer *layer,
                                    const struct model_weight *w)
{
    const enum share_axis axis = share_axis_of(s, layer, w->slot, SPLIT_TENSOR);
    int64_t unit = UNIT_ROWS;
    if (axis == SHARE_HEADS) unit = w->rows / s->n_head;
    if (axis == SHARE_KV) unit = w->rows / s->n_head_kv;
    return (struct cost_matrix){.n = w->n,
                                .rows = w->rows,
                                .cols = w->cols,
                                .bytes = w->bytes,
                                .dtype = (uint8_t)w->dtype,
                                .use = (uint8_t)use_of(w->slot),
                                .axis = (uint8_t)axis,
                                .unit = (int32_t)unit,
                                .fine = is_fine(w->slot)};
}

static void add_to_layer(struct cost_layer *l, const struct model_shape *s,
                         const struct model_layer *layer, const struct model_weight *w)
{
    if (!w->is_matrix) {
        *(is_of_experts(w->slot) ? &l->expert_vector_bytes : &l->vector_bytes) += w->bytes;
        return;
    }
    BUG_ON(l->n_matrix == COST_MATRICES_MAX); // no layer has more kinds of matrices
    l->matrices[l->n_matrix++] = matrix_of(s, layer, w);
}

static void add_weights(struct cost_model *out, const struct model *m)
{
    const struct model_shape *s = &m->shape;
    for (int32_t i = 0; i < m->n_weight; i++) {
        const struct model_weight *w = &m->weights[i];
        if (w->part >= 0)
            add_to_layer(&out->layers[w->part], s, &s->layers[w->part], w);
        else if (w->part == PART_EMBED)
            out->embed_bytes += w->bytes;
        else if (w->part == PART_SHARED)
            out->shared_bytes += w->bytes;
        else if (w->part == PART_HEAD && w->slot == SLOT_HEAD)
            out->head = matrix_of(s, NULL, w);
        else if (w->part == PART_HEAD)
            out->head_vector_bytes += w->bytes;
        // PART_MTP is only loaded where it is asked for.
        if (w->slot != SLOT_EMBED || !s->tied_head) continue;
        out->head = matrix_of(s, NULL, w);
        out->head.axis = SHARE_VOCAB;
    }
}

// Keys, values and state of a layer, and the arithmetic with them, a multiplication and an addition
// counting as two.
static void fill_mixer(struct cost_layer *l, const struct model *m, int32_t layer)
{
    const struct model_shape *s = &m->shape;
    const struct model_delta *d = &s->delta;
    l->is_local = s->layers[layer].is_local;
    l->kv_elems = model_kv_bytes(m, layer, 1);
    l->state_bytes = model_state_bytes(m, layer);
    switch (s->layers[layer].mixer) {
    case MIXER_MLA: // absorbed: one latent vector is key and value
        l->seen_flops = 2.0 * s->n_head * (2 * s->mla.kv_rank + s->mla.rope_dim);
        break;
    case MIXER_DELTA: // decay, S^T k, rank-one update, S^T q
        l->state_flops = 7.0 * d->n_head_v * d->dim_k * d->dim_v;
        break;
    default:
        l->seen_flops = 4.0 * s->n_head * s->head_dim;
    }
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

// F32 buffers of one row: residual stream, its norm and frames in and out; what a mixer has between
// its matrices; what a feed-forward has. The widest of each kind that the model has.
static uint64_t row_floats(const struct model_shape *s)
{
    const struct model_mla *a = &s->mla;
    const struct model_delta *d = &s->delta;
    const uint64_t head = (uint64_t)s->n_head;
    const uint64_t latent = (uint64_t)(a->kv_rank + a->rope_dim);
    const uint64_t k = (uint64_t)d->n_head_k * (uint64_t)d->dim_k;
    const uint64_t v = (uint64_t)d->n_head_v * (uint64_t)d->dim_v;
    const uint64_t attn = (3 * head + 2 * (uint64_t)s->n_head_kv) * (uint64_t)s->head_dim;
    const uint64_t mla = (uint64_t)a->q_rank + head * (uint64_t)(a->nope_dim + a->rope_dim) +
                         head * (latent + (uint64_t)(a->kv_rank + a->v_dim)) + latent;
    const uint64_t delta = 2 * (2 * k + v) + 2 * v + 2 * (uint64_t)d->n_head_v;
    const uint64_t moe = (uint64_t)s->moe.n_used * (uint64_t)(2 * s->moe.dim + s->dim) +
                         (uint64_t)s->moe.n_expert + 2 * (uint64_t)s->moe.shared_dim;
    uint64_t mixer = 0, ffn = 0;
    for (int32_t i = 0; i < s->n_layer; i++) {
        const struct model_layer *l = &s->layers[i];
        mixer = larger(mixer, l->mixer == MIXER_MLA ? mla : l->mixer == MIXER_DELTA ? delta : attn);
        ffn = larger(ffn, l->ffn == FFN_MOE ? moe : 2 * (uint64_t)s->ffn_dim);
    }
    return 4 * (uint64_t)s->dim + mixer + ffn;
}

void cost_of_model(const struct model *m, struct cost_model *out)
{
    const struct model_shape *s = &m->shape;
    memset(out, 0, sizeof *out);
    memcpy(out->hash, m->hash, sizeof out->hash);
    snprintf(out->name, sizeof out->name, "%s", s->name);
    out->n_layer = s->n_layer;
    out->dim = s->dim;
    out->n_vocab = s->n_vocab;
    out->window = s->window;
    out->chunk = s->chunk;
    out->n_expert = s->moe.n_expert;
    out->n_used = s->moe.n_used;
    out->n_head = s->n_head;
    out->n_head_kv = s->n_head_kv;
    out->tied_head = s->tied_head;
    out->row_floats = row_floats(s);
    out->wide_bytes = near_row_bytes(s);
    for (int32_t i = 0; i < m->n_weight; i++)
        if (m->weights[i].is_matrix && m->weights[i].cols > out->max_cols)
            out->max_cols = m->weights[i].cols;
    for (int32_t i = 0; i < s->n_layer; i++)
        fill_mixer(&out->layers[i], m, i);
    add_weights(out, m);
}

struct cost_ask cost_ask_of(int64_t ctx, int32_t batch)
{
    return (struct cost_ask){.kv_tokens = ctx * batch,
                             .depth = ctx / 2,
                             .batch = batch,
                             .chunk = ctx < 512 ? (int32_t)ctx : 512,
                             .kv_elem_bits = 16};
}

err_t cost_ask_check(const struct cost_ask *a, struct err_text *why)
{
    const struct {
        const char *what;
        int64_t v, min, max;
    } rules[] = {
        {"kv tokens", a->kv_tokens, 1, COST_KV_TOKENS_MAX},
        {"local kv tokens", a->local_tokens, 0, COST_KV_TOKENS_MAX},
        {"recurrent states", a->n_state, 0, COST_ROWS_MAX},
        {"depth", a->depth, 0, a->kv_tokens},
        {"batch", a->batch, 1, COST_ROWS_MAX},
        {"chunk", a->chunk, 1, COST_ROWS_MAX},
        {"bits of a kv element", a->kv_elem_bits, 1, 32},
        {"steps in flight", a->in_flight, 0, COST_ROWS_MAX},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].v < rules[i].min || rules[i].v > rules[i].max)
            return err_say(why, ERR_INVALID, "%s: %lld, allowed %lld to %lld", rules[i].what,
                           (long long)rules[i].v, (long long)rules[i].min, (long long)rules[i].max);
    return OK;
}

struct cost_step cost_decode_step(const struct cost_ask *a)
{
    return (struct cost_step){a->batch, a->batch, a->batch, a->depth, a->kv_elem_bits};
}

struct cost_step cost_prefill_step(const struct cost_ask *a)
{
    return (struct cost_step){a->chunk, 1, 1, a->depth, a->kv_elem_bits};
}

// ---- what a member has of a weight

struct share_range cost_kv_heads(const struct cost_model *m, const struct share *s)
{
    const struct share_range q = share_rows(s, s->member, m->n_head, 1);
    const int64_t group = m->n_head / m->n_head_kv;
    if (q.from == q.to) return (struct share_range){0, 0};
    return (struct share_range){q.from / group, (q.to - 1) / group + 1};
}

static int64_t experts_held(const struct cost_model *m, const struct share *s, int32_t layer)
{
    int64_t n = 0;
    if (layer >= s->experts.n_layer) {
        const struct share_range r = share_rows(s, s->member, m->n_expert, 1);
        return r.to - r.from;
    }
    for (int32_t e = 0; e < m->n_expert; e++)
        n += share_owns(s, s->member, layer, e, m->n_expert);
    return n;
}

int64_t cost_rows_of(const struct cost_model *m, const struct share *s, int32_t layer,
                     const struct cost_matrix *w)
{
    struct share_range r = {0, w->rows};
    if (share_deals_experts(s) && w->use == COST_EXPERT) return experts_held(m, s, layer) * w->rows;
    if (!share_is_dense(s, s->member)) return 0;
    if (s->split == SPLIT_TENSOR && w->axis == SHARE_KV) {
        r = cost_kv_heads(m, s);
        return (r.to - r.from) * w->unit;
    }
    if (s->split == SPLIT_TENSOR && w->axis != SHARE_WHOLE)
        r = share_rows(s, s->member, w->rows, w->unit);
    return (r.to - r.from) * w->n;
}

// ---- memory

// Tokens that a local layer lets one see at most; 0: no bound.
int64_t cost_sight(const struct cost_model *m)
{
    bool is_window = m->window > 0 && (m->chunk <= 0 || m->window < m->chunk);
    return is_window ? m->window : m->chunk;
}

// What a local layer holds of `batch` requests: what each sees, the ends of two pages, and the rows
// of one step.
static int64_t local_tokens(const struct cost_model *m, const struct cost_ask *a)
{
    const int64_t page_tok = 32, bound = cost_sight(m);
    if (a->local_tokens) return a->local_tokens;
    int64_t n = a->batch * (bound + 2 * page_tok) + a->chunk;
    return bound > 0 && n < a->kv_tokens ? n : a->kv_tokens;
}

static uint64_t rows_of_step(const struct cost_ask *a)
{
    return (uint64_t)(a->chunk > a->batch ? a->chunk : a->batch);
}

// What a backend takes for itself: the inputs of products in 8 bits, as they are, with what they
// leave over, and gathered for experts; a GPU's also the partial sums of attention (32 MiB),
// weights expanded to 16 bits (64), its library of products (32) and the lists of steps (8).
static uint64_t scratch_bytes(const struct cost_model *m, const struct cost_ask *a,
                              const struct cluster_device *d)
{
    enum { BLOCK_COLS = 32, BLOCK_BYTES = 56, GPU_MIB = 32 + 64 + 32 + 8 };
    const uint64_t rows = rows_of_step(a) * (m->n_expert ? 1 + 2 * (uint64_t)m->n_used : 2);
    const uint64_t row = ((uint64_t)m->max_cols / BLOCK_COLS + 1) * BLOCK_BYTES;
    return rows * row + (d->kind == CLUSTER_CUDA ? (uint64_t)GPU_MIB << 20 : 0);
}

// F32 buffers of the largest step; on the last stage what the head does at a time (worker/head):
// inputs, one of them ordered, and logits.
static uint64_t workspace_bytes(const struct cost_model *m, const struct cost_ask *a,
                                const struct cluster_device *d, bool is_last)
{
    const uint64_t block = d->kind == CLUSTER_CUDA ? 128 : 32, rows = rows_of_step(a);
    const uint64_t head = (uint64_t)m->n_vocab + 2 * (uint64_t)m->dim;
    const uint64_t ends = is_last ? (rows < block ? rows : block) * head : 0;
    return 4 * (rows * m->row_floats + ends) + scratch_bytes(m, a, d);
}

// As worker/compute opens its port (one frame per step on its way each way and two more, and one in
// front of the first stage) and proto/link/group its own; and what devices have for handing on past
// the host.
static uint64_t comms_bytes(const struct cost_model *m, const struct cost_ask *a,
                            const struct cluster_device *d, const struct share *s, bool is_first,
                            bool is_last)
{
    const uint64_t row = 4 * (uint64_t)m->dim;
    const struct near_stage near = {.share = s,
                                    .is_first = is_first,
                                    .is_last = is_last,
                                    .wide_bytes = m->wide_bytes > row ? m->wide_bytes : row,
                                    .row_bytes = row,
                                    .max_tok = rows_of_step(a),
                                    .nccl = true,
                                    .peers = true};
    const uint64_t frame = 4 * rows_of_step(a) * (uint64_t)m->dim;
    const uint64_t n_frame = (uint64_t)(a->in_flight ? a->in_flight : 2) + 2;
    uint64_t bytes = is_first ? frame : 0;
    if (!is_first || !is_last) bytes += 2 * n_frame * frame;
    if (s->n_member > 1) bytes += (2 * (2 * (uint64_t)s->n_member + 1)) << 20;
    return d->kind == CLUSTER_CUDA ? bytes + near_bytes(&near) : bytes;
}

uint64_t cost_reserve(const struct cluster_device *d)
{
    const uint64_t least = (uint64_t)8 << 30;
    if (!d->unified) return d->mem_free_bytes / 100 * 8;
    uint64_t share = d->mem_bytes / 100 * 8;
    return share < least ? least : share;
}

static uint64_t part_bytes(uint64_t bytes, int64_t part, int64_t of)
{
    return of > 0 ? (uint64_t)((double)bytes / (double)of * (double)part + 0.5) : 0;
}

static bool has_cut_heads(const struct cost_layer *l, const struct share *s)
{
    if (s->split != SPLIT_TENSOR) return false;
    for (int32_t i = 0; i < l->n_matrix; i++)
        if (l->matrices[i].axis == SHARE_KV) return true;
    return false;
}

void cost_memory_layer(const struct cost_model *m, const struct cost_ask *a, const struct share *s,
                       int32_t layer, struct cost_memory *add)
{
    const struct cost_layer *l = &m->layers[layer];
    const bool alone = s->n_member == 1;
    for (int32_t i = 0; i < l->n_matrix; i++) {
        const struct cost_matrix *w = &l->matrices[i];
        add->weights +=
            alone ? w->bytes : part_bytes(w->bytes, cost_rows_of(m, s, layer, w), w->n * w->rows);
    }
    if (share_deals_experts(s))
        add->weights += part_bytes(l->expert_vector_bytes, experts_held(m, s, layer), m->n_expert);
    else // biases are cut as the rows they belong to
        add->weights += alone ? l->expert_vector_bytes
                              : part_bytes(l->expert_vector_bytes, s->part[s->member], SHARE_TOTAL);
    if (!share_is_dense(s, s->member)) return;
    uint64_t kv = l->kv_elems * a->kv_elem_bits / 8 *
                  (l->is_local ? (uint64_t)local_tokens(m, a) : (uint64_t)a->kv_tokens);
    if (has_cut_heads(l, s)) {
        const struct share_range heads = cost_kv_heads(m, s);
        kv = part_bytes(kv, heads.to - heads.from, m->n_head_kv);
    }
    add->weights += l->vector_bytes;
    add->kv += kv;
    add->state += l->state_bytes * (uint64_t)(a->n_state ? a->n_state : 3 * a->batch);
}

void cost_memory_ends(const struct cost_model *m, const struct cost_ask *a,
                      const struct cluster_device *d, const struct share *s, bool is_first,
                      bool is_last, struct cost_memory *add)
{
    add->workspace += workspace_bytes(m, a, d, is_last);
    add->comms += comms_bytes(m, a, d, s, is_first, is_last);
    add->reserve += cost_reserve(d);
    if (!share_is_dense(s, s->member)) return;
    add->weights += m->shared_bytes;
    if (is_first) add->weights += m->embed_bytes;
    if (!is_last) return;
    add->weights += m->head_vector_bytes;
    if (is_first && m->tied_head) return; // one copy serves both
    add->weights += part_bytes(m->head.bytes, cost_rows_of(m, s, m->n_layer, &m->head),
                               m->head.n * m->head.rows);
}

struct cost_memory cost_memory_share(const struct cost_model *m, const struct cost_ask *a,
                                     const struct cluster_device *d, int32_t from, int32_t to,
                                     const struct share *s)
{
    struct cost_memory c = {0};
    for (int32_t i = from; i < to; i++)
        cost_memory_layer(m, a, s, i, &c);
    cost_memory_ends(m, a, d, s, from == 0, to == m->n_layer, &c);
    return c;
}

struct cost_memory cost_memory_of(const struct cost_model *m, const struct cost_ask *a,
                                  const struct cluster_device *d, int32_t from, int32_t to)
{
    const struct share alone = share_alone();
    return cost_memory_share(m, a, d, from, to, &alone);
}

uint64_t cost_memory_sum(const struct cost_memory *c)
{
    return c->weights + c->kv + c->state + c->workspace + c->comms + c->reserve;
}
