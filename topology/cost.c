#include "topology/cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void add_tensor(struct cost_part *p, const struct model_tensor *t)
{
    uint64_t n = 1;
    for (int32_t i = 0; i < t->n_dim; i++)
        n *= (uint64_t)t->shape[i];
    p->bytes += t->bytes;
    if (t->n_dim < 2) return; // norms are read, not multiplied by
    if (dtype_info(t->dtype)->is_quantised)
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

void cost_of_model(const struct model *m, struct cost_model *out)
{
    const struct model_shape *s = &m->shape;
    memset(out, 0, sizeof *out);
    memcpy(out->hash, m->hash, sizeof out->hash);
    snprintf(out->name, sizeof out->name, "%s", s->name);
    out->n_layer = s->n_layer;
    out->dim = s->dim;
    out->ffn_dim = s->ffn_dim;
    out->n_vocab = s->n_vocab;
    out->n_head = s->n_head;
    out->n_head_kv = s->n_head_kv;
    out->head_dim = s->head_dim;
    out->window = s->window;
    out->tied_head = s->tied_head;
    memcpy(out->is_local, s->is_local, sizeof out->is_local);
    for (int32_t i = 0; i < m->n_tensor; i++) {
        const struct model_tensor *t = &m->tensors[i];
        add_tensor(t->part == PART_EMBED    ? &out->embed
                   : t->part == PART_HEAD   ? &out->head
                   : t->part == PART_SHARED ? &out->shared
                                            : &out->layers[t->part],
                   t);
    }
    if (s->tied_head) add_part(&out->head, &out->embed);
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

static uint64_t kv_token_bytes(const struct cost_model *m, uint32_t elem_bytes)
{
    return (uint64_t)2 * (uint64_t)m->n_head_kv * (uint64_t)m->head_dim * elem_bytes;
}

// F32 buffers of the largest step: residual stream, its norm, q, k, v, attention output, gate and
// up; frames in and out; and on the last stage the logits of a decode step.
static uint64_t workspace_bytes(const struct cost_model *m, const struct cost_ask *a, bool is_last)
{
    uint64_t rows = (uint64_t)(a->chunk > a->batch ? a->chunk : a->batch);
    uint64_t q = (uint64_t)m->n_head * (uint64_t)m->head_dim;
    uint64_t kv = (uint64_t)m->n_head_kv * (uint64_t)m->head_dim;
    uint64_t row = 4 * (uint64_t)m->dim + 2 * q + 2 * kv + 2 * (uint64_t)m->ffn_dim;
    uint64_t logits = is_last ? (uint64_t)a->batch * (uint64_t)m->n_vocab : 0;
    return 4 * (rows * row + logits);
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
    for (int32_t i = from; i < to; i++)
        c.weights += m->layers[i].bytes;
    if (is_first) c.weights += m->embed.bytes;
    if (is_last) c.weights += m->head.bytes;
    if (is_first && is_last && m->tied_head) c.weights -= m->embed.bytes; // one copy serves both
    c.kv = (uint64_t)a->kv_tokens * (uint64_t)(to - from) * kv_token_bytes(m, a->kv_elem_bytes);
    c.workspace = workspace_bytes(m, a, is_last);
    c.reserve = cost_reserve(d);
    return c;
}

uint64_t cost_memory_sum(const struct cost_memory *c)
{
    return c->weights + c->kv + c->workspace + c->reserve;
}

// ---- time

static int64_t whole_ns(double seconds)
{
    double ns = ceil(seconds * 1e9);
    return ns < 1e17 ? (int64_t)ns : (int64_t)1e17; // three years: sums cannot overflow
}

static double part_seconds(const struct cost_part *p, const struct cluster_device *d, double rows)
{
    double quant_rate = d->int8_ops_per_s > 0 ? d->int8_ops_per_s : d->f32_flops_per_s;
    double read = (double)p->bytes / d->read_bytes_per_s;
    double math =
        2 * rows * ((double)p->n_quant / quant_rate + (double)p->n_float / d->f32_flops_per_s);
    return read > math ? read : math;
}

int64_t cost_layer_ns(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *s, int32_t layer)
{
    double seen = (double)s->depth + (double)s->rows / s->n_seq / 2; // mean over the rows
    if (m->is_local[layer] && m->window > 0 && seen > m->window) seen = m->window;
    double kv = s->n_seq * seen * (double)kv_token_bytes(m, s->kv_elem_bytes);
    double read = kv / d->read_bytes_per_s;
    double math = 4.0 * s->rows * seen * m->n_head * m->head_dim / d->f32_flops_per_s;
    return whole_ns(part_seconds(&m->layers[layer], d, s->rows) + (read > math ? read : math));
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
    return whole_ns(part_seconds(&m->head, d, s->logit_rows));
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
