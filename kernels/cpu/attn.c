// attn: KV pages and attention.
//
// A page holds, for each KV head, its keys and then its values:
//     keys    (page_tok / 8, head_dim, 8): eight positions side by side, a score each
//     values  (page_tok, v_stride), v_stride = head_dim rounded up to 8
// Softmax runs over segments of SEG_TOK absolute positions (leaf_attn.h), so a query's sums do not
// know where its run began, which page holds what, or who shares its pass.
#include "kernels/cpu/cpu.h"

#include <string.h>

static int32_t v_stride_of(int32_t head_dim)
{
    return (head_dim + 7) / 8 * 8;
}

static int64_t elem_bytes(enum dtype t)
{
    return t == DT_F16 ? 2 : 4;
}

static int64_t head_bytes(int32_t page_tok, int32_t head_dim, enum dtype t)
{
    return (int64_t)page_tok * (head_dim + v_stride_of(head_dim)) * elem_bytes(t);
}

uint64_t attn_kv_page_bytes(struct kernels *k, int32_t page_tok, int32_t n_head_kv,
                            int32_t head_dim, enum dtype t)
{
    const struct kernels_limits *l = &cpu_of(k)->lim;
    if (page_tok < 16 || page_tok > SEG_TOK || (page_tok & (page_tok - 1))) return 0;
    if (t != DT_F16 && t != DT_F32) return 0;
    if (n_head_kv < 1 || n_head_kv > l->max_head || head_dim < 1 || head_dim > l->max_head_dim)
        return 0;
    return (uint64_t)(n_head_kv * head_bytes(page_tok, head_dim, t) + 63) / 64 * 64;
}

// Keys and values of position `pos` (of its 8 for keys) of one head.
static void *key_at(const struct kv_view *kv, const int32_t *pages, int32_t pos, int32_t head)
{
    const int32_t at = pos & (kv->page_tok - 1);
    char *p = (char *)kv->data + pages[pos / kv->page_tok] * kv->page_bytes +
              head * head_bytes(kv->page_tok, kv->head_dim, kv->dtype);
    return p + ((int64_t)(at / 8) * 8 * kv->head_dim + at % 8) * elem_bytes(kv->dtype);
}

static void *value_at(const struct kv_view *kv, const int32_t *pages, int32_t pos, int32_t head)
{
    const int32_t at = pos & (kv->page_tok - 1);
    char *p = (char *)kv->data + pages[pos / kv->page_tok] * kv->page_bytes +
              head * head_bytes(kv->page_tok, kv->head_dim, kv->dtype);
    p += (int64_t)kv->page_tok * kv->head_dim * elem_bytes(kv->dtype);
    return p + (int64_t)at * v_stride_of(kv->head_dim) * elem_bytes(kv->dtype);
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
            int64_t at = ((int64_t)(s->run->tok_from + i) * kv->n_head_kv + h) * kv->head_dim;
            c->isa->kv_put(kv->dtype, s->key + at, s->value + at, kv->head_dim,
                           key_at(kv, s->run->pages, pos, h), value_at(kv, s->run->pages, pos, h));
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

// A share: up to `block` query rows of one KV head of one run, over all segments that they see or,
// when there are too few shares for the threads, over one segment. Row i is token i / group, query
// head i % group of the KV head's group, so positions ascend with rows.
struct attn_call {
    struct cpu *c;
    const struct attn_args *a;
    int32_t group, block;
    bool is_split; // a segment at a time, into c->part_attn
};

struct attn_share {
    const struct attn_run *run;
    int32_t head_kv, row_from, n_row;
    int32_t seg, n_seg; // begin of the first segment, number
    int64_t part;       // split: first partial of the run
};

static int32_t share_pos(const struct attn_call *ac, const struct attn_share *s, int32_t row)
{
    return s->run->pos_from + (s->row_from + row) / ac->group;
}

static int32_t share_lo(const struct attn_call *ac, int32_t pos)
{
    int32_t w = ac->a->window;
    return w > 0 && pos >= w ? pos - w + 1 : 0;
}

// Element at which row `row` of a share begins in q and out.
static int64_t share_at(const struct attn_call *ac, const struct attn_share *s, int32_t row)
{
    int32_t i = s->row_from + row;
    int64_t tok = s->run->tok_from + i / ac->group;
    int32_t head = s->head_kv * ac->group + i % ac->group;
    return (tok * ac->a->n_head + head) * ac->a->kv.head_dim;
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
    const int32_t vs = v_stride_of(kv->head_dim);
    struct leaf_attn l = {
        .kv_dtype = kv->dtype,
        .head_dim = kv->head_dim,
        .v_stride = vs,
        .scale = ac->a->scale,
        .softcap = ac->a->softcap,
        .scratch = t->attn,
    };
    int32_t lo = clamp(share_lo(ac, share_pos(ac, s, 0)) - seg, 0, SEG_TOK);
    int32_t hi = clamp(share_pos(ac, s, s->n_row - 1) + 1 - seg, 0, SEG_TOK);
    for (int32_t g = lo / 16; g < (hi + 15) / 16; g++) {
        l.k[g] = key_at(kv, s->run->pages, seg + 16 * g, s->head_kv);
        l.v[g] = value_at(kv, s->run->pages, seg + 16 * g, s->head_kv);
    }
    for (int32_t from = 0; from < s->n_row; from += ATTN_ROWS) {
        l.n_row = s->n_row - from < ATTN_ROWS ? s->n_row - from : ATTN_ROWS;
        for (int32_t r = 0; r < l.n_row; r++) {
            int32_t row = from + r, pos = share_pos(ac, s, row);
            l.q[r] = ac->a->q + share_at(ac, s, row);
            l.lo[r] = clamp(share_lo(ac, pos) - seg, 0, SEG_TOK);
            l.hi[r] = clamp(pos + 1 - seg, 0, SEG_TOK);
            l.m[r] = &t->m[row];
            l.l[r] = &t->l[row];
            l.o[r] = t->o + (int64_t)row * vs;
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
    return share_lo(ac, run->pos_from) / SEG_TOK;
}
static int32_t run_segs(const struct attn_call *ac, const struct attn_run *run)
{
    return (run->pos_from + run->n_tok - 1) / SEG_TOK - run_seg(ac, run) + 1;
}

static struct attn_share share_of(const struct attn_call *ac, int32_t item)
{
    const int32_t *first = ac->c->item_at;
    int32_t lo = 0, hi = ac->a->n_run - 1;
    while (lo < hi) {
        int32_t mid = (lo + hi + 1) / 2;
        if (first[mid] <= item)
            lo = mid;
        else
            hi = mid - 1;
    }
    struct attn_share s = {.run = &ac->a->runs[lo], .part = ac->c->part_at[lo]};
    int32_t rows = run_rows(ac, s.run), blocks = (rows + ac->block - 1) / ac->block;
    int32_t segs = ac->is_split ? run_segs(ac, s.run) : 1;
    item -= first[lo];
    s.head_kv = item / (blocks * segs);
    s.row_from = item / segs % blocks * ac->block;
    s.n_row = rows - s.row_from < ac->block ? rows - s.row_from : ac->block;
    if (ac->is_split) {
        s.seg = (run_seg(ac, s.run) + item % segs) * SEG_TOK;
        s.n_seg = 1;
    } else {
        s.seg = share_lo(ac, share_pos(ac, &s, 0)) / SEG_TOK * SEG_TOK;
        s.n_seg = (share_pos(ac, &s, s.n_row - 1) - s.seg) / SEG_TOK + 1;
    }
    return s;
}

// Partial softmax of one row and segment of a run: maximum, sum, output (v_stride).
static float *part_of(const struct attn_call *ac, const struct attn_share *s, int32_t row,
                      int32_t seg)
{
    int64_t i = (int64_t)s->head_kv * run_rows(ac, s->run) + row;
    i = s->part + i * run_segs(ac, s->run) + seg;
    return ac->c->part_attn + i * (v_stride_of(ac->a->kv.head_dim) + 2);
}

static void put_row(const struct attn_call *ac, const struct attn_share *s, int32_t row, float sum,
                    const float *o)
{
    float *out = ac->a->out + share_at(ac, s, row), inv = 1.0f / sum;
    for (int32_t d = 0; d < ac->a->kv.head_dim; d++)
        out[d] = o[d] * inv;
}

static void attn_item(void *arg, int32_t item, int32_t thread)
{
    const struct attn_call *ac = arg;
    struct cpu_scratch *t = ac->c->scratch[thread];
    const size_t vs = (size_t)v_stride_of(ac->a->kv.head_dim);
    const struct attn_share s = share_of(ac, item);
    for (int32_t r = 0; r < s.n_row; r++) {
        t->m[r] = -__builtin_inff();
        t->l[r] = 0.0f;
    }
    memset(t->o, 0, (size_t)s.n_row * vs * sizeof(float));
    for (int32_t i = 0; i < s.n_seg; i++)
        share_segment(ac, &s, s.seg + i * SEG_TOK, t);
    for (int32_t r = 0; r < s.n_row; r++) {
        const float *o = t->o + (size_t)r * vs;
        if (!ac->is_split) {
            put_row(ac, &s, r, t->l[r], o);
            continue;
        }
        float *p = part_of(ac, &s, s.row_from + r, s.seg / SEG_TOK - run_seg(ac, s.run));
        p[0] = t->m[r];
        p[1] = t->l[r];
        memcpy(p + 2, o, vs * sizeof(float));
    }
}

// Merges the segments of one KV head of one run, in their order: the same steps as a share that
// sees them all.
static void merge_item(void *arg, int32_t item, int32_t thread)
{
    const struct attn_call *ac = arg;
    struct cpu_scratch *t = ac->c->scratch[thread];
    const int32_t vs = v_stride_of(ac->a->kv.head_dim), i = item / ac->a->kv.n_head_kv;
    const struct attn_share s = {
        .run = &ac->a->runs[i], .part = ac->c->part_at[i], .head_kv = item % ac->a->kv.n_head_kv};
    for (int32_t r = 0; r < run_rows(ac, s.run); r++) {
        float m = -__builtin_inff(), l = 0.0f;
        memset(t->o, 0, (size_t)vs * sizeof(float));
        for (int32_t seg = 0; seg < run_segs(ac, s.run); seg++) {
            const float *p = part_of(ac, &s, r, seg);
            ac->c->isa->attn_merge(&m, &l, t->o, p[0], p[1], p + 2, vs);
        }
        put_row(ac, &s, r, l, t->o);
    }
}

// Numbers the shares; returns how many there are. n_part: partial softmaxes that a split needs.
static int32_t count_shares(const struct attn_call *ac, int64_t *n_part)
{
    int32_t n = 0;
    *n_part = 0;
    for (int32_t i = 0; i < ac->a->n_run; i++) {
        const struct attn_run *run = &ac->a->runs[i];
        int32_t rows = run_rows(ac, run), segs = run_segs(ac, run);
        ac->c->item_at[i] = n;
        ac->c->part_at[i] = (int32_t)*n_part;
        n += ac->a->kv.n_head_kv * ((rows + ac->block - 1) / ac->block) * (ac->is_split ? segs : 1);
        *n_part += (int64_t)ac->a->kv.n_head_kv * rows * segs;
    }
    return n;
}

void attn_run_all(struct kernels *k, const struct attn_args *a)
{
    struct cpu *c = cpu_of(k);
    struct attn_call ac = {c, a, a->n_head / a->kv.n_head_kv, ATTN_BLOCK, false};
    BUG_ON(a->n_run > c->lim.max_tok || a->n_head % a->kv.n_head_kv);
    BUG_ON(a->kv.head_dim > c->lim.max_head_dim || a->n_head > c->lim.max_head);
    int64_t n_part;
    int32_t n = count_shares(&ac, &n_part), few = 4 * c->lim.n_threads;
    bool can_split = n_part * (v_stride_of(a->kv.head_dim) + 2) <= ATTN_PART_FLOATS;
    if (c->lim.n_threads > 1 && n < few && can_split && n_part > (int64_t)a->n_head * a->n_run) {
        ac.is_split = true;
        n = count_shares(&ac, &n_part);
    }
    // Rows that share a pass save loads, so blocks shrink only as far as threads would stand idle.
    while (ac.block > 1 && n < 2 * c->lim.n_threads) {
        ac.block /= 2;
        n = count_shares(&ac, &n_part);
    }
    pool_run(c->pool, n, attn_item, &ac);
    if (ac.is_split) pool_run(c->pool, a->n_run * a->kv.n_head_kv, merge_item, &ac);
}
