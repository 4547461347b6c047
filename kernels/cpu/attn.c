// attn: KV pages and attention.
//
// A page holds, for each KV head, its keys and then its values:
//     keys    (page_tok / 8, head_dim, 8): groups of eight positions side by side, a score each
//     values  (page_tok, v_stride), v_stride = head_dim_v rounded up to 8; none if v_in_k
// Q8_0: 8 bits each, with a scale for every 32 elements of a head's vector. In a group of keys, for
// each 32 of head_dim: float d[8], int8 q[32][8] (the last block may be shorter); of a position's
// values: float d[blocks], int8 q[v_stride]. F8_E4M3: the same with one scale for the whole vector.
// Softmax runs over segments of SEG_TOK absolute positions (leaf_attn.h), so a query's sums do not
// know where its run began, which page holds what, or who shares its pass.
#include "kernels/cpu/cpu.h"

#include <string.h>

static int32_t v_stride_of(const struct kv_view *kv)
{
    return (kv->head_dim_v + 7) / 8 * 8;
}

static int64_t keys_bytes(const struct kv_view *kv)
{
    return kv->page_tok / 8 * leaf_group_bytes(kv->dtype, kv->head_dim);
}

static int64_t head_bytes(const struct kv_view *kv)
{
    const int64_t value = kv->v_in_k ? 0 : leaf_value_bytes(kv->dtype, v_stride_of(kv));
    return keys_bytes(kv) + kv->page_tok * value;
}

uint64_t attn_kv_page_bytes(struct kernels *k, const struct kv_view *kv)
{
    const struct kernels_limits *l = &cpu_of(k)->lim;
    const int32_t page_tok = kv->page_tok;
    if (page_tok < 16 || page_tok > SEG_TOK || (page_tok & (page_tok - 1))) return 0;
    if (kv->dtype != DT_F16 && kv->dtype != DT_BF16 && kv->dtype != DT_F32 &&
        kv->dtype != DT_Q8_0 && kv->dtype != DT_F8_E4M3)
        return 0;
    if (kv->n_head_kv < 1 || kv->n_head_kv > l->max_head) return 0;
    if (kv->head_dim < 1 || kv->head_dim > l->max_head_dim) return 0;
    if (kv->head_dim_v < 1 || kv->head_dim_v > kv->head_dim) return 0;
    return (uint64_t)(kv->n_head_kv * head_bytes(kv) + 63) / 64 * 64;
}

// The group of keys that position `pos` belongs to, and its values, of one head.
static void *key_at(const struct kv_view *kv, const int32_t *pages, int32_t pos, int32_t head)
{
    const int32_t at = pos & (kv->page_tok - 1);
    char *p = (char *)kv->data + pages[pos / kv->page_tok] * kv->page_bytes + head * head_bytes(kv);
    return p + at / 8 * leaf_group_bytes(kv->dtype, kv->head_dim);
}

static void *value_at(const struct kv_view *kv, const int32_t *pages, int32_t pos, int32_t head)
{
    const int32_t at = pos & (kv->page_tok - 1);
    char *p = (char *)kv->data + pages[pos / kv->page_tok] * kv->page_bytes + head * head_bytes(kv);
    return p + keys_bytes(kv) + at * leaf_value_bytes(kv->dtype, v_stride_of(kv));
}

struct store_call {
    const struct kv_view *kv;
    const struct attn_run *run;
    const float *key, *value;
};

static void store_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct store_call *s = arg;
    const struct kv_view *kv = s->kv;
    for (int32_t i = (int32_t)from; i < to; i++) {
        int32_t pos = s->run->pos_from + i;
        for (int32_t h = 0; h < kv->n_head_kv; h++) {
            int64_t at = (int64_t)(s->run->tok_from + i) * kv->n_head_kv + h;
            c->isa->k_put(kv->dtype, s->key + at * kv->head_dim, kv->head_dim,
                          key_at(kv, s->run->pages, pos, h), pos % 8);
            if (kv->v_in_k) continue;
            c->isa->v_put(kv->dtype, s->value + at * kv->head_dim_v, kv->head_dim_v,
                          value_at(kv, s->run->pages, pos, h));
        }
    }
}

void attn_kv_store(struct kernels *k, const struct kv_view *kv, const struct attn_run *runs,
                   int32_t n_run, const float *key, const float *value)
{
    for (int32_t i = 0; i < n_run; i++) {
        struct store_call s = {kv, &runs[i], key, value};
        // Shares of whole pages at least: no two threads write to one cache line of keys often.
        cpu_for(cpu_of(k), runs[i].n_tok, 64, store_rows, &s);
    }
}

// A share: up to `block` query rows of one KV head of one run. Row i is token i / n, query head i %
// n of the n heads that read the KV head (`group`, of the first and the last one perhaps fewer), so
// positions ascend with rows. Shares are numbered as if all groups were full; some have no rows.
//
// An item is a share over all segments that it sees or, when there are too few shares for the
// threads, over one segment; then waves of wave_segs segments of each run go into part_attn and are
// merged there, in their order.
struct attn_call {
    struct cpu *c;
    const struct attn_args *a;
    int32_t group, block, v_stride;
    int32_t n_share;
    int64_t n_row; // of all KV heads of all runs
    int32_t wave,
        wave_segs; // split: first segment, counted from the first of each run; number or 0
};

struct attn_share {
    const struct attn_run *run;
    int32_t head_kv, row_from, n_row;
    int32_t head_at, n_head; // query heads that read it
    int64_t row_at;          // number of its first row among all
};

static int32_t share_pos(const struct attn_share *s, int32_t row)
{
    return s->run->pos_from + (s->row_from + row) / s->n_head;
}

// First position that a query at pos sees; never falls as pos grows.
static int32_t sight(const struct attn_args *a, int32_t pos)
{
    int32_t w = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
    int32_t c = a->chunk > 0 ? pos - pos % a->chunk : 0;
    return w > c ? w : c;
}

// Number of the (token, head) of row `row` of a share in q and out.
static int64_t share_at(const struct attn_call *ac, const struct attn_share *s, int32_t row)
{
    int32_t i = s->row_from + row;
    int64_t tok = s->run->tok_from + i / s->n_head;
    return tok * ac->a->n_head + s->head_at + i % s->n_head;
}

static int32_t clamp(int32_t x, int32_t lo, int32_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

// All rows of the share against the segment that begins at position `seg`.
static void share_segment(const struct attn_call *ac, const struct attn_share *s, int32_t seg,
                          struct cpu_scratch *t)
{
    const struct kv_view *kv = &ac->a->kv;
    struct leaf_attn l = {
        .kv_dtype = kv->dtype,
        .head_dim = kv->head_dim,
        .head_dim_v = kv->head_dim_v,
        .v_stride = ac->v_stride,
        .v_in_k = kv->v_in_k,
        .scale = ac->a->scale,
        .softcap = ac->a->softcap,
        .scratch = t->attn,
    };
    int32_t lo = clamp(sight(ac->a, share_pos(s, 0)) - seg, 0, SEG_TOK);
    int32_t hi = clamp(share_pos(s, s->n_row - 1) + 1 - seg, 0, SEG_TOK);
    for (int32_t g = lo / 16; g < (hi + 15) / 16; g++) {
        l.k[g] = key_at(kv, s->run->pages, seg + 16 * g, s->head_kv);
        if (!kv->v_in_k) l.v[g] = value_at(kv, s->run->pages, seg + 16 * g, s->head_kv);
    }
    for (int32_t from = 0; from < s->n_row; from += ATTN_ROWS) {
        l.n_row = s->n_row - from < ATTN_ROWS ? s->n_row - from : ATTN_ROWS;
        for (int32_t r = 0; r < l.n_row; r++) {
            int32_t row = from + r, pos = share_pos(s, row);
            l.q[r] = ac->a->q + share_at(ac, s, row) * kv->head_dim;
            l.lo[r] = clamp(sight(ac->a, pos) - seg, 0, SEG_TOK);
            l.hi[r] = clamp(pos + 1 - seg, 0, SEG_TOK);
            l.m[r] = &t->m[row];
            l.l[r] = &t->l[row];
            l.o[r] = t->o + (int64_t)row * ac->v_stride;
        }
        ac->c->isa->attn(&l);
    }
}

static int32_t run_rows(const struct attn_call *ac, const struct attn_run *run)
{
    return run->n_tok * ac->group;
}

// First segment that any query of the run sees, and how many there are.
static int32_t run_seg(const struct attn_call *ac, const struct attn_run *run)
{
    return sight(ac->a, run->pos_from) / SEG_TOK;
}
static int32_t run_segs(const struct attn_call *ac, const struct attn_run *run)
{
    return (run->pos_from + run->n_tok - 1) / SEG_TOK - run_seg(ac, run) + 1;
}

static struct attn_share share_of(const struct attn_call *ac, int32_t number)
{
    const int32_t *first = ac->c->share_at;
    int32_t lo = 0, hi = ac->a->n_run - 1;
    while (lo < hi) {
        int32_t mid = (lo + hi + 1) / 2;
        if (first[mid] <= number)
            lo = mid;
        else
            hi = mid - 1;
    }
    const struct attn_run *run = &ac->a->runs[lo];
    const int32_t rows = run_rows(ac, run), blocks = (rows + ac->block - 1) / ac->block;
    number -= first[lo];
    struct attn_share s = {
        .run = run, .head_kv = number / blocks, .row_from = number % blocks * ac->block};
    const int32_t first_head = s.head_kv * ac->group - ac->a->head_from;
    s.head_at = clamp(first_head, 0, ac->a->n_head);
    s.n_head = clamp(first_head + ac->group, 0, ac->a->n_head) - s.head_at;
    s.n_row = clamp(run->n_tok * s.n_head - s.row_from, 0, ac->block);
    s.row_at = ac->c->row_at[lo] + (int64_t)s.head_kv * rows + s.row_from;
    return s;
}

// The running softmax of a row and head before any key: of nothing, or of its sink, whose weight is
// e^0 of itself.
static void begin_row(const struct attn_call *ac, const struct attn_share *s, int32_t row, float *m,
                      float *l)
{
    const float *sinks = ac->a->sinks;
    *m = sinks ? sinks[share_at(ac, s, row) % ac->a->n_head] : -__builtin_inff();
    *l = sinks ? 1.0f : 0.0f;
}

static void put_row(const struct attn_call *ac, const struct attn_share *s, int32_t row, float sum,
                    const float *o)
{
    const int32_t n = ac->a->kv.head_dim_v;
    float *out = ac->a->out + share_at(ac, s, row) * n, inv = 1.0f / sum;
    for (int32_t d = 0; d < n; d++)
        out[d] = o[d] * inv;
}

static void attn_item(void *arg, int32_t item, int32_t thread)
{
    const struct attn_call *ac = arg;
    struct cpu_scratch *t = ac->c->scratch[thread];
    const struct attn_share s = share_of(ac, item);
    if (s.n_row == 0) return;
    const int32_t first = sight(ac->a, share_pos(&s, 0)) / SEG_TOK;
    for (int32_t r = 0; r < s.n_row; r++)
        begin_row(ac, &s, r, &t->m[r], &t->l[r]);
    memset(t->o, 0, (size_t)s.n_row * (size_t)ac->v_stride * sizeof(float));
    for (int32_t i = first; i * SEG_TOK <= share_pos(&s, s.n_row - 1); i++)
        share_segment(ac, &s, i * SEG_TOK, t);
    for (int32_t r = 0; r < s.n_row; r++)
        put_row(ac, &s, r, t->l[r], t->o + (int64_t)r * ac->v_stride);
}

// Partial softmax of a row (its number among all) over segment i of the wave: maximum, sum, output
// (v_stride). i = wave_segs: of all waves until now.
static float *part_of(const struct attn_call *ac, int64_t row, int32_t i)
{
    return ac->c->part_attn + (row * (ac->wave_segs + 1) + i) * (ac->v_stride + 2);
}

// One share and segment of a wave. Neighbouring items read the same keys.
static void wave_item(void *arg, int32_t item, int32_t thread)
{
    const struct attn_call *ac = arg;
    struct cpu_scratch *t = ac->c->scratch[thread];
    const struct attn_share s = share_of(ac, item % ac->n_share);
    const int32_t i = item / ac->n_share;
    if (s.n_row == 0 || ac->wave + i >= run_segs(ac, s.run)) return;
    const size_t bytes = (size_t)ac->v_stride * sizeof(float);
    for (int32_t r = 0; r < s.n_row; r++) {
        t->m[r] = -__builtin_inff();
        t->l[r] = 0.0f;
    }
    memset(t->o, 0, (size_t)s.n_row * bytes);
    share_segment(ac, &s, (run_seg(ac, s.run) + ac->wave + i) * SEG_TOK, t);
    for (int32_t r = 0; r < s.n_row; r++) {
        float *p = part_of(ac, s.row_at + r, i);
        p[0] = t->m[r];
        p[1] = t->l[r];
        memcpy(p + 2, t->o + (int64_t)r * ac->v_stride, bytes);
    }
}

// Merges a wave into what its rows have: the same steps as a share that sees all segments.
static void merge_item(void *arg, int32_t item, int32_t thread)
{
    (void)thread;
    const struct attn_call *ac = arg;
    const struct attn_share s = share_of(ac, item);
    const int32_t left = run_segs(ac, s.run) - ac->wave;
    if (left <= 0) return;
    for (int32_t r = 0; r < s.n_row; r++) {
        float *sum = part_of(ac, s.row_at + r, ac->wave_segs);
        if (ac->wave == 0) {
            begin_row(ac, &s, r, &sum[0], &sum[1]);
            memset(sum + 2, 0, (size_t)ac->v_stride * sizeof(float));
        }
        for (int32_t i = 0; i < ac->wave_segs && i < left; i++) {
            const float *p = part_of(ac, s.row_at + r, i);
            ac->c->isa->attn_merge(&sum[0], &sum[1], sum + 2, p[0], p[1], p + 2, ac->v_stride);
        }
        if (left <= ac->wave_segs) put_row(ac, &s, r, sum[1], sum + 2);
    }
}

// Numbers shares and rows.
static void count_shares(struct attn_call *ac)
{
    ac->n_share = 0;
    ac->n_row = 0;
    for (int32_t i = 0; i < ac->a->n_run; i++) {
        const int32_t rows = run_rows(ac, &ac->a->runs[i]), n = ac->a->kv.n_head_kv;
        ac->c->share_at[i] = ac->n_share;
        ac->c->row_at[i] = ac->n_row;
        ac->n_share += n * ((rows + ac->block - 1) / ac->block);
        ac->n_row += (int64_t)n * rows;
    }
}

// Whether threads would stand idle without a split, how many segments there are to split and how
// many of them fit a wave.
static void plan_waves(struct attn_call *ac, int32_t *n_seg)
{
    const int32_t n_threads = ac->c->lim.n_threads;
    *n_seg = 0;
    for (int32_t i = 0; i < ac->a->n_run; i++) {
        int32_t n = run_segs(ac, &ac->a->runs[i]);
        *n_seg = n > *n_seg ? n : *n_seg;
    }
    int64_t fit = (int64_t)n_threads * ATTN_PART_FLOATS / (ac->n_row * (ac->v_stride + 2)) - 1;
    if (n_threads == 1 || ac->n_share >= 4 * n_threads || *n_seg == 1 || fit < 1) return;
    ac->wave_segs = fit < *n_seg ? (int32_t)fit : *n_seg;
}

void attn_run_all(struct kernels *k, const struct attn_args *a)
{
    struct cpu *c = cpu_of(k);
    struct attn_call ac = {.c = c,
                           .a = a,
                           .group = a->group ? a->group : a->n_head / a->kv.n_head_kv,
                           .block = ATTN_BLOCK,
                           .v_stride = v_stride_of(&a->kv)};
    BUG_ON(a->n_run > c->lim.max_tok || (!a->group && a->n_head % a->kv.n_head_kv));
    BUG_ON(a->head_from + a->n_head > ac.group * a->kv.n_head_kv);
    BUG_ON(a->kv.head_dim > c->lim.max_head_dim || a->n_head > c->lim.max_head);
    if (a->n_run == 0) return;
    int32_t n_seg;
    count_shares(&ac);
    plan_waves(&ac, &n_seg);
    // Rows that share a pass save loads, so blocks shrink only as far as threads would stand idle.
    const int32_t enough = c->lim.n_threads == 1 ? 1 : 2 * c->lim.n_threads;
    while (ac.block > 1 && ac.n_share * (ac.wave_segs ? ac.wave_segs : 1) < enough) {
        ac.block /= 2;
        count_shares(&ac);
    }
    if (!ac.wave_segs) {
        pool_run(c->pool, ac.n_share, attn_item, &ac);
        return;
    }
    for (; ac.wave < n_seg; ac.wave += ac.wave_segs) {
        pool_run(c->pool, ac.n_share * ac.wave_segs, wave_item, &ac);
        pool_run(c->pool, ac.n_share, merge_item, &ac);
    }
}
