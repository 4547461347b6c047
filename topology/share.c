#include "topology/share.h"

#include <string.h>

enum {
    // Rows of matrices are cut in such units: whole panels of every packed layout, so that nobody
    // computes rows of padding.
    UNIT_ROWS = 16,
    // Products of one expert that one member computes at a time: fewer would not pay for reading
    // the expert's weights once more. That costs about as much as READ_PRODUCTS of them.
    RUN_PRODUCTS = 32,
    READ_PRODUCTS = 4
};

struct share share_alone(void)
{
    return (struct share){.n_member = 1, .part = {SHARE_TOTAL}};
}

// Cumulated and rounded, so that the sum is right; then who got nothing takes one of the largest.
void share_parts(const double *speed, int32_t n, uint32_t *part)
{
    double total = 0, sum = 0;
    for (int32_t i = 0; i < n; i++)
        total += speed[i] > 0 ? speed[i] : 0;
    uint32_t at = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += total > 0 ? (speed[i] > 0 ? speed[i] / total : 0) : 1.0 / n;
        uint32_t to = i + 1 == n ? SHARE_TOTAL : (uint32_t)(sum * SHARE_TOTAL + 0.5);
        if (to > SHARE_TOTAL) to = SHARE_TOTAL;
        part[i] = to > at ? to - at : 0;
        at += part[i];
    }
    for (int32_t i = 0; i < n; i++) {
        if (part[i]) continue;
        int32_t largest = 0;
        for (int32_t j = 1; j < n; j++)
            if (part[j] > part[largest]) largest = j;
        part[largest]--;
        part[i] = 1;
    }
}

void share_cut(const struct share *s, int64_t n, int64_t *from)
{
    uint64_t sum = 0;
    from[0] = 0;
    for (int32_t i = 0; i < s->n_member; i++) {
        sum += s->part[i];
        from[i + 1] = (int64_t)(((uint64_t)n * sum + SHARE_TOTAL / 2) / SHARE_TOTAL);
    }
    from[s->n_member] = n;
}

struct share_range share_rows(const struct share *s, int32_t member, int64_t n_row, int64_t unit)
{
    int64_t from[SHARE_MEMBERS_MAX + 1];
    share_cut(s, (n_row + unit - 1) / unit, from);
    const int64_t begin = from[member] * unit, end = from[member + 1] * unit;
    return (struct share_range){begin < n_row ? begin : n_row, end < n_row ? end : n_row};
}

// -- which weights --

static enum share_axis attn_axis(const struct model_shape *m, enum slot slot)
{
    // A norm over the whole projection needs all heads of it.
    if (m->qk_norm == QK_NORM_ALL) return SHARE_WHOLE;
    switch (slot) {
    case SLOT_ATTN_Q:
    case SLOT_ATTN_Q_BIAS:
    case SLOT_ATTN_GATE:
    case SLOT_ATTN_SINKS:
        return SHARE_HEADS;
    case SLOT_ATTN_K:
    case SLOT_ATTN_V:
    case SLOT_ATTN_K_BIAS:
    case SLOT_ATTN_V_BIAS:
        return SHARE_KV;
    case SLOT_ATTN_OUT:
    case SLOT_ATTN_OUT_BIAS:
        return SHARE_DIM;
    default:
        return SHARE_WHOLE;
    }
}

static bool is_of_experts(enum slot slot)
{
    return slot >= SLOT_MOE_GATE && slot <= SLOT_MOE_DOWN_BIAS;
}

enum share_axis share_axis_of(const struct model_shape *m, const struct model_layer *layer,
                              enum slot slot, enum share_split split)
{
    if (split == SPLIT_NONE) return SHARE_WHOLE;
    if (split == SPLIT_EXPERTS) return is_of_experts(slot) ? SHARE_EXPERTS : SHARE_WHOLE;
    switch (slot) {
    case SLOT_FFN_GATE:
    case SLOT_FFN_UP:
    case SLOT_MOE_GATE:
    case SLOT_MOE_UP:
    case SLOT_MOE_GATE_BIAS:
    case SLOT_MOE_UP_BIAS:
    case SLOT_SHARED_GATE:
    case SLOT_SHARED_UP:
        return SHARE_MIDDLE;
    case SLOT_FFN_DOWN:
    case SLOT_MOE_DOWN:
    case SLOT_MOE_DOWN_BIAS:
    case SLOT_SHARED_DOWN:
        return SHARE_DIM;
    case SLOT_HEAD:
    case SLOT_HEAD_BIAS:
        return SHARE_VOCAB;
    default:
        return layer && layer->mixer == MIXER_ATTN ? attn_axis(m, slot) : SHARE_WHOLE;
    }
}

struct share_range share_heads(const struct share *s, int32_t member, const struct model_shape *m,
                               const struct model_layer *layer)
{
    if (!share_is_dense(s, member)) return (struct share_range){0, 0};
    if (share_axis_of(m, layer, SLOT_ATTN_Q, s->split) != SHARE_HEADS)
        return (struct share_range){0, m->n_head};
    return share_rows(s, member, m->n_head, 1);
}

struct share_range share_kv_heads(const struct share *s, int32_t member,
                                  const struct model_shape *m, const struct model_layer *layer)
{
    const struct share_range q = share_heads(s, member, m, layer);
    const int64_t group = m->n_head_kv > 0 ? m->n_head / m->n_head_kv : 0;
    if (group < 1 || q.from == q.to) return (struct share_range){0, 0};
    return (struct share_range){q.from / group, (q.to - 1) / group + 1};
}

// The rows of these heads, of a slot that has n_row rows for n_head of them.
static struct share_range rows_of_heads(struct share_range heads, int64_t n_row, int64_t n_head)
{
    const int64_t per = n_row / n_head;
    return (struct share_range){heads.from * per, heads.to * per};
}

struct share_range share_of(const struct share *s, int32_t member, const struct model_shape *m,
                            const struct model_layer *layer, enum slot slot)
{
    int64_t n, rows, cols;
    slot_size(m, layer, slot, &n, &rows, &cols);
    const int64_t n_row = slot_is_matrix(slot) || rows > 1 ? rows : cols;
    const enum share_axis axis = share_axis_of(m, layer, slot, s->split);
    if (axis == SHARE_EXPERTS) return share_rows(s, member, n, 1);
    if (!share_is_dense(s, member)) return (struct share_range){0, 0};
    switch (axis) {
    case SHARE_HEADS:
        return rows_of_heads(share_heads(s, member, m, layer), n_row, m->n_head);
    case SHARE_KV:
        return rows_of_heads(share_kv_heads(s, member, m, layer), n_row, m->n_head_kv);
    case SHARE_DIM:
    case SHARE_MIDDLE:
    case SHARE_VOCAB:
        return share_rows(s, member, n_row, UNIT_ROWS);
    default:
        return (struct share_range){0, n_row};
    }
}

// -- experts --

static bool has_table(const struct share *s, int32_t layer, int32_t expert)
{
    const struct share_experts *x = &s->experts;
    return layer >= x->layer_from && layer - x->layer_from < x->n_layer && expert < x->n_expert;
}

// Of an expert in the table.
static int32_t owner_of(const struct share *s, int32_t layer, int32_t expert)
{
    const int64_t l = layer - s->experts.layer_from;
    return s->experts.owner[l * s->experts.n_expert + expert];
}

// Of a cut that share_cut made.
static int32_t part_at(const int64_t *from, int64_t i)
{
    int32_t member = 0;
    while (i >= from[member + 1])
        member++;
    return member;
}

// Replicas are in the order of this.
static uint64_t replica_key(uint32_t layer, uint32_t expert)
{
    return (uint64_t)layer << 32 | expert;
}

// First replica of (layer, expert) or after it.
static const struct share_replica *replica_at(const struct share *s, int32_t layer, int32_t expert)
{
    const uint64_t key = replica_key((uint32_t)layer, (uint32_t)expert);
    uint32_t lo = 0, hi = s->experts.n_replica;
    while (lo < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        const struct share_replica *r = &s->experts.replicas[mid];
        if (replica_key(r->layer, r->expert) < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return s->experts.replicas + lo;
}

static bool is_replica(const struct share *s, const struct share_replica *r, int32_t layer,
                       int32_t expert)
{
    return r < s->experts.replicas + s->experts.n_replica &&
           replica_key(r->layer, r->expert) == replica_key((uint32_t)layer, (uint32_t)expert);
}

bool share_owns(const struct share *s, int32_t member, int32_t layer, int32_t expert, int32_t n)
{
    if (!has_table(s, layer, expert)) {
        int64_t from[SHARE_MEMBERS_MAX + 1];
        share_cut(s, n, from);
        return expert >= from[member] && expert < from[member + 1];
    }
    if (owner_of(s, layer, expert) == member) return true;
    const struct share_replica *r = replica_at(s, layer, expert);
    for (; is_replica(s, r, layer, expert); r++)
        if ((int32_t)r->member == member) return true;
    return false;
}

// Of the owner and those that hold copies the one that would have least to do with `cost` more, in
// proportion to its part; the owner, then the lowest, where there are several.
static int32_t least_busy(const struct share *s, int32_t layer, int32_t expert, uint64_t cost,
                          const uint64_t *load)
{
    int32_t best = owner_of(s, layer, expert);
    const struct share_replica *r = replica_at(s, layer, expert);
    for (; is_replica(s, r, layer, expert); r++) {
        const uint64_t theirs = (load[r->member] + cost) * s->part[best];
        if (theirs < (load[best] + cost) * s->part[r->member]) best = (int32_t)r->member;
    }
    return best;
}

enum { ANYONE = UINT8_MAX }; // of those that hold the expert

// Who has to compute this expert's products.
static uint8_t member_for(const struct share *s, const int64_t *from, int32_t layer, int32_t expert)
{
    if (!has_table(s, layer, expert)) return (uint8_t)part_at(from, expert);
    if (is_replica(s, replica_at(s, layer, expert), layer, expert)) return ANYONE;
    return (uint8_t)owner_of(s, layer, expert);
}

// Products from i on that are one run: of one expert, at most `most`.
static int32_t run_of(const int32_t *expert, int32_t i, int32_t n_prod, int32_t most)
{
    int32_t n = 1;
    while (n < most && i + n < n_prod && expert[i + n] == expert[i])
        n++;
    return n;
}

// Experts that one member alone holds come first: how the others are dealt out depends on them.
void share_assign(const struct share *s, int32_t layer, int32_t n_expert, const int32_t *expert,
                  int32_t n_prod, uint8_t *member, uint64_t *load)
{
    int64_t from[SHARE_MEMBERS_MAX + 1];
    bool is_open = false;
    share_cut(s, n_expert, from);
    memset(load, 0, (size_t)s->n_member * sizeof *load);
    for (int32_t i = 0, n; i < n_prod; i += n) {
        const uint8_t to = member_for(s, from, layer, expert[i]);
        n = run_of(expert, i, n_prod, n_prod);
        memset(member + i, to, (size_t)n);
        if (to == ANYONE)
            is_open = true;
        else
            load[to] += (uint64_t)n + READ_PRODUCTS;
    }
    for (int32_t i = 0, n; is_open && i < n_prod; i += n) {
        n = run_of(expert, i, n_prod, RUN_PRODUCTS);
        if (member[i] != ANYONE) continue;
        const uint64_t cost = (uint64_t)n + READ_PRODUCTS;
        const int32_t to = least_busy(s, layer, expert[i], cost, load);
        memset(member + i, to, (size_t)n);
        load[to] += cost;
    }
}

const char *share_split_name(enum share_split s)
{
    static const char *const names[SPLIT_COUNT] = {"none", "tensor", "experts"};
    return (unsigned)s < SPLIT_COUNT ? names[s] : "unknown";
}
