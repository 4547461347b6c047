#include "topology/cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void add_weight(struct cost_part *p, const struct model_weight *w)
{
    p->bytes += w->bytes;
    if (!w->is_matrix) return; // norms are read, not multiplied by
    uint64_t n = (uint64_t)w->n * (uint64_t)w->rows * (uint64_t)w->cols;
    if (dtype_info(w->dtype)->is_quantised)
        p->n_quant += n;
    else
        p->n_float += n;
}

static void add_part(struct cost_part *p, const struct cost_part *more)
{
    p->bytes += more->bytes;
    p->n_quant += more->n_quant;
    p->n_float += more->n_float;
}

static bool is_expert(enum slot s)
{
    return s == SLOT_MOE_GATE || s == SLOT_MOE_UP || s == SLOT_MOE_DOWN ||
           s == SLOT_MOE_GATE_BIAS || s == SLOT_MOE_UP_BIAS || s == SLOT_MOE_DOWN_BIAS;
}

static void add_weights(struct cost_model *out, const struct model *m)
{
    for (int32_t i = 0; i < m->n_weight; i++) {
        const struct model_weight *w = &m->weights[i];
        if (w->part == PART_MTP) continue; // only loaded where it is asked for
        struct cost_part *p = &out->shared;
        if (w->part == PART_EMBED) p = &out->embed;
        if (w->part == PART_HEAD) p = &out->head;
        if (w->part >= 0)
            p = is_expert(w->slot) ? &out->layers[w->part].experts : &out->layers[w->part].part;
        add_weight(p, w);
    }
    if (m->shape.tied_head) add_part(&out->head, &out->embed);
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
    out->tied_head = s->tied_head;
    out->row_floats = row_floats(s);
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
                             .kv_elem_bytes = 2};
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
        {"bytes of a kv element", a->kv_elem_bytes, 1, 4},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].v < rules[i].min || rules[i].v > rules[i].max)
            return err_say(why, ERR_INVALID, "%s: %lld, allowed %lld to %lld", rules[i].what,
                           (long long)rules[i].v, (long long)rules[i].min, (long long)rules[i].max);
    return OK;
}

struct cost_step cost_decode_step(const struct cost_ask *a)
{
    return (struct cost_step){a->batch, a->batch, a->batch, a->depth, a->kv_elem_bytes};
}

struct cost_step cost_prefill_step(const struct cost_ask *a)
{
    return (struct cost_step){a->chunk, 1, 1, a->depth, a->kv_elem_bytes};
}

// ---- memory

// Tokens that a local layer lets one see at most; 0: no bound.
static int64_t sight(const struct cost_model *m)
{
    bool is_window = m->window > 0 && (m->chunk <= 0 || m->window < m->chunk);
    return is_window ? m->window : m->chunk;
}

// What a local layer holds of `batch` requests: what each sees, the ends of two pages, and the rows
// of one step.
static int64_t local_tokens(const struct cost_model *m, const struct cost_ask *a)
{
    const int64_t page_tok = 32, bound = sight(m);
    if (a->local_tokens) return a->local_tokens;
    int64_t n = a->batch * (bound + 2 * page_tok) + a->chunk;
    return bound > 0 && n < a->kv_tokens ? n : a->kv_tokens;
}

// F32 buffers of the largest step, and on the last stage the logits of a decode step.
static uint64_t workspace_bytes(const struct cost_model *m, const struct cost_ask *a, bool is_last)
{
    uint64_t rows = (uint64_t)(a->chunk > a->batch ? a->chunk : a->batch);
    uint64_t logits = is_last ? (uint64_t)a->batch * (uint64_t)m->n_vocab : 0;
    return 4 * (rows * m->row_floats + logits);
}

uint64_t cost_reserve(const struct cluster_device *d)
{
    const uint64_t least = (uint64_t)8 << 30;
    if (!d->unified) return d->mem_free_bytes / 100 * 8;
    uint64_t share = d->mem_bytes / 100 * 8;
    return share < least ? least : share;
}

struct cost_memory cost_memory_of(const struct cost_model *m, const struct cost_ask *a,
                                  const struct cluster_device *d, int32_t from, int32_t to)
{
    bool is_first = from == 0, is_last = to == m->n_layer;
    struct cost_memory c = {.weights = m->shared.bytes};
    uint64_t n_state = (uint64_t)(a->n_state ? a->n_state : 3 * a->batch);
    uint64_t local = (uint64_t)local_tokens(m, a);
    for (int32_t i = from; i < to; i++) {
        const struct cost_layer *l = &m->layers[i];
        c.weights += l->part.bytes + l->experts.bytes;
        c.kv += l->kv_elems * a->kv_elem_bytes * (l->is_local ? local : (uint64_t)a->kv_tokens);
        c.state += l->state_bytes * n_state;
    }
    if (is_first) c.weights += m->embed.bytes;
    if (is_last) c.weights += m->head.bytes;
    if (is_first && is_last && m->tied_head) c.weights -= m->embed.bytes; // one copy serves both
    c.workspace = workspace_bytes(m, a, is_last);
    c.reserve = cost_reserve(d);
    return c;
}

uint64_t cost_memory_sum(const struct cost_memory *c)
{
    return c->weights + c->kv + c->state + c->workspace + c->reserve;
}

// ---- time

static int64_t whole_ns(double seconds)
{
    double ns = ceil(seconds * 1e9);
    return ns < 1e17 ? (int64_t)ns : (int64_t)1e17; // three years: sums cannot overflow
}

// A step of `rows` rows that reads the share `read` of the weights and multiplies by the share
// `math`.
static double part_seconds(const struct cost_part *p, const struct cluster_device *d, double rows,
                           double read, double math)
{
    double quant_rate = d->int8_ops_per_s > 0 ? d->int8_ops_per_s : d->f32_flops_per_s;
    double t_read = read * (double)p->bytes / d->read_bytes_per_s;
    double t_math = math * 2 * rows *
                    ((double)p->n_quant / quant_rate + (double)p->n_float / d->f32_flops_per_s);
    return t_read > t_math ? t_read : t_math;
}

// Each row passes n_used of n_expert; together they read those that any of them chose, taking the
// choices for independent.
static double expert_seconds(const struct cost_model *m, const struct cluster_device *d,
                             const struct cost_part *p, double rows)
{
    if (!p->bytes || m->n_expert <= 0) return 0;
    double share = (double)m->n_used / m->n_expert;
    return part_seconds(p, d, rows, 1 - pow(1 - share, rows), share);
}

static double mixer_seconds(const struct cost_model *m, const struct cluster_device *d,
                            const struct cost_step *s, const struct cost_layer *l)
{
    double seen = (double)s->depth + (double)s->rows / s->n_seq / 2; // mean over the rows
    double bound = (double)sight(m);
    if (l->is_local && bound > 0 && seen > bound) seen = bound;
    double kv = s->n_seq * seen * (double)l->kv_elems * s->kv_elem_bytes;
    double state = 2.0 * s->n_seq * (double)l->state_bytes; // read and written
    double read = (kv + state) / d->read_bytes_per_s;
    double math = s->rows * (seen * l->seen_flops + l->state_flops) / d->f32_flops_per_s;
    return read > math ? read : math;
}

int64_t cost_layer_ns(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *s, int32_t layer)
{
    const struct cost_layer *l = &m->layers[layer];
    return whole_ns(part_seconds(&l->part, d, s->rows, 1, 1) +
                    expert_seconds(m, d, &l->experts, s->rows) + mixer_seconds(m, d, s, l));
}

// One row of the table per token.
int64_t cost_embed_ns(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *s)
{
    double row = (double)m->embed.bytes / (m->n_vocab > 0 ? m->n_vocab : 1);
    return whole_ns(s->rows * (row + 4.0 * m->dim) / d->read_bytes_per_s);
}

int64_t cost_head_ns(const struct cost_model *m, const struct cluster_device *d,
                     const struct cost_step *s)
{
    return whole_ns(part_seconds(&m->head, d, s->logit_rows, 1, 1));
}

static double frame_seconds(const struct cost_model *m, const struct cluster_link *l,
                            const struct cost_step *s)
{
    return l->bytes_per_s > 0 ? 4.0 * s->rows * m->dim / l->bytes_per_s : 1e9;
}

int64_t cost_hop_busy_ns(const struct cost_model *m, const struct cluster_link *l,
                         const struct cost_step *s)
{
    return whole_ns(frame_seconds(m, l, s));
}

int64_t cost_hop_ns(const struct cost_model *m, const struct cluster_link *l,
                    const struct cost_step *s)
{
    return whole_ns(l->latency_us * 1e-6 + frame_seconds(m, l, s));
}
