#include "topology/cost_priv.h"

#include <math.h>
#include <string.h>

// Work of one member in one layer, by use, in seconds.
struct work {
    double s[COST_USES];
};

static const uint8_t kind_of_use[COST_USES] = {
    [COST_IN] = COST_OF_ATTENTION,
    [COST_OUT] = COST_OF_ATTENTION,
    [COST_UP] = COST_OF_FFN,
    [COST_DOWN] = COST_OF_FFN,
    [COST_ROUTER] = COST_OF_EXPERTS,
    [COST_EXPERT] = COST_OF_EXPERTS,
    [COST_SHARED_UP] = COST_OF_EXPERTS,
    [COST_SHARED_DOWN] = COST_OF_EXPERTS,
    [COST_LOGITS] = COST_OF_ENDS,
};

static int64_t whole_ns(double seconds)
{
    double ns = ceil(seconds * 1e9);
    return ns < 1e17 ? (int64_t)ns : (int64_t)1e17; // three years: sums cannot overflow
}

struct cost_group cost_group_alone(const struct cluster_device *d)
{
    return (struct cost_group){.share = share_alone(), .devices = {d}};
}

// ---- one operation on one device

// Arithmetic with weights of a type. A GPU's tensor cores take floats of 16 bits at half the rate
// of integers of 8.
static double peak_of(const struct cluster_device *d, enum dtype t)
{
    const bool is_half = t == DT_F16 || t == DT_BF16;
    if (d->int8_ops_per_s > 0 && dtype_info(t)->is_quantised) return d->int8_ops_per_s;
    if (d->kind == CLUSTER_CUDA && is_half && d->int8_ops_per_s / 2 > d->f32_flops_per_s)
        return d->int8_ops_per_s / 2;
    return d->f32_flops_per_s;
}

// Some rows, `part` of all, of a matrix or of each of a stack's, with `rows` inputs each.
static double product_seconds(const struct cluster_device *d, const struct cost_matrix *w,
                              double rows, double part)
{
    const double n = part * (double)w->n * (double)w->rows * (double)w->cols;
    const bool is_quant = dtype_info((enum dtype)w->dtype)->is_quantised;
    const double terms = w->fine && is_quant ? 2 : 1;
    const struct rates_type *rate = rates_find(&d->rates, (enum dtype)w->dtype);
    if (rate) return rates_seconds(rate, rows * terms, n);
    const double peak = peak_of(d, (enum dtype)w->dtype);
    const double t_read = part * (double)w->bytes / d->read_bytes_per_s;
    const double t_math = 2 * rows * terms * n / peak;
    return t_read > t_math ? t_read : t_math;
}

// Rows of one sequence share what they read: from 16 on attention is as fast as it gets. A row
// alone is computed by four heads of one key/value head at once, whether there are so many or not.
static double attention_rate(const struct cost_model *m, const struct cluster_device *d,
                             const struct cost_step *s)
{
    const int32_t lanes = 4, heads = m->n_head_kv > 0 ? m->n_head / m->n_head_kv : 0;
    const double busy = heads > 0 ? (double)heads / ((heads + lanes - 1) / lanes * lanes) : 1;
    const double rows = (double)s->rows / s->n_seq, full = 16;
    const struct rates *r = &d->rates;
    if (!r->n_type) return d->f32_flops_per_s;
    const double some = rows < full ? (rows - 1) / (full - 1) : 1;
    const double one = r->attn_one_flops_per_s * busy;
    return one + some * (r->attn_many_flops_per_s - one);
}

// `heads` and `kv`: the member's part of each.
static double mixer_seconds(const struct cost_model *m, const struct cluster_device *d,
                            const struct cost_step *s, const struct cost_layer *l, double heads,
                            double kv_part)
{
    double seen = (double)s->depth + (double)s->rows / s->n_seq / 2; // mean over the rows
    const double bound = (double)cost_sight(m);
    if (l->is_local && bound > 0 && seen > bound) seen = bound;
    const double kv = s->n_seq * seen * (double)l->kv_elems * s->kv_elem_bits / 8 * kv_part;
    const double state = 2.0 * s->n_seq * (double)l->state_bytes; // read and written
    const double read = (kv + state) / d->read_bytes_per_s;
    const double math = s->rows * (seen * l->seen_flops * heads / attention_rate(m, d, s) +
                                   l->state_flops / d->f32_flops_per_s);
    return read > math ? read : math;
}

// ---- experts

// Mean of the largest of n equal shares of what is dealt out at random, in standard deviations of
// one share above its mean: the largest of n normal variables (1 to 16), times sqrt(n / (n - 1))
// because their sum is given.
static double surplus(int32_t n)
{
    static const double of_normal[] = {0,     0,     0.564, 0.846, 1.029, 1.163,
                                       1.267, 1.352, 1.424, 1.485, 1.539, 1.586,
                                       1.629, 1.668, 1.703, 1.736, 1.766};
    return n < 2 ? 0 : of_normal[n] * sqrt((double)n / (n - 1));
}

// Experts that `rows` rows choose at least once, of those that one of n_member members has (`held`,
// of all), taking the choices for independent; the busiest member's, where there are several.
static double experts_hit(const struct cost_model *m, double rows, double held, int32_t n_member)
{
    const double chosen = 1 - pow(1 - (double)m->n_used / m->n_expert, rows), n = m->n_expert;
    const double spread = sqrt(held * chosen * (1 - chosen) * (1 - held / n));
    const double hit = held * chosen + surplus(n_member) * spread;
    return hit < held ? hit : held;
}

// One matrix of each expert that is hit, of a member that has `mine` of all: so many of the experts
// where they are dealt out, else so many rows of each.
static double expert_seconds(const struct cost_model *m, const struct cluster_device *d,
                             const struct cost_matrix *w, double rows, double mine,
                             const struct share *share)
{
    const bool is_dealt = share_deals_experts(share);
    const double held = is_dealt ? mine * m->n_expert : m->n_expert;
    const int32_t n_member = is_dealt ? share->n_member : 1;
    const double hit = experts_hit(m, rows, held, n_member);
    const double mean = held * (1 - pow(1 - (double)m->n_used / m->n_expert, rows));
    if (!(mean > 0)) return 0;
    const double each = rows * m->n_used * (held / m->n_expert) / mean; // rows of one that is hit
    return product_seconds(d, w, each, hit / m->n_expert * (is_dealt ? 1 : mine));
}

// ---- one member

// Calls of the backend that a use comes to, where it has any: gate, up and down of experts are
// three, other matrices of one use share their input and go together.
static int n_call(enum cost_use use)
{
    return use == COST_EXPERT ? 3 : 1;
}

// What the layer takes in a step beyond its operations. What one row has of it is of the number of
// operations, which a member of a group has all of; the rest grows with their work.
static double beyond_seconds(const struct pace *p, const struct cost_step *s, double part)
{
    const double all = pace_layer_s(p, s->rows, s->n_seq), one = pace_layer_s(p, 1, 1);
    const double fixed = all > one && one > 0 ? one : 0;
    return fixed + part * (all - fixed);
}

// Norms, rotations, activations: half before the feed-forward, half in it. Of what a tensor group
// divides each does its part.
static double other_seconds(const struct cost_model *m, const struct cluster_device *d,
                            const struct cost_step *s, double part)
{
    const struct rates *r = &d->rates;
    const double beyond = beyond_seconds(&d->pace, s, part);
    if (!r->n_type) return beyond / 2;
    const double more = 1e-9 * r->float_ns * (s->rows - 1) * (double)m->row_floats;
    const double seqs = 1e-6 * r->seq_us * (s->n_seq - 1);
    return (1e-6 * r->layer_us + seqs + more * (1 + part) / 2 + beyond) / 2;
}

// Of the last layer's rows only those that the head is asked about (one at least) go on behind the
// mixer, where one has it alone: worker/stage_wanted.
static struct cost_step step_behind(const struct cost_model *m, const struct cost_group *g,
                                    const struct cost_step *s, int32_t layer)
{
    struct cost_step behind = *s;
    const int32_t wanted = s->logit_rows > 1 ? s->logit_rows : 1;
    if (layer + 1 < m->n_layer || g->share.n_member > 1 || wanted >= s->rows) return behind;
    behind.rows = wanted;
    if (behind.n_seq > wanted) behind.n_seq = wanted;
    return behind;
}

static void member_work(const struct cost_model *m, const struct cost_group *g, int32_t member,
                        const struct cost_step *s, int32_t layer, struct work *out)
{
    const struct cost_step behind = step_behind(m, g, s, layer);
    struct share share = g->share;
    share.member = member;
    const struct cluster_device *d = g->devices[member];
    const struct cost_layer *l = &m->layers[layer];
    const double part = (double)share.part[member] / SHARE_TOTAL;
    bool used[COST_USES] = {false};
    double heads = 1, kv = 1;
    memset(out, 0, sizeof *out);
    for (int32_t i = 0; i < l->n_matrix; i++) {
        const struct cost_matrix *w = &l->matrices[i];
        const double mine = (double)cost_rows_of(m, &share, layer, w) / (double)(w->n * w->rows);
        if (!(mine > 0)) continue;
        if (w->axis == SHARE_HEADS && share.split == SPLIT_TENSOR) heads = mine;
        if (w->axis == SHARE_KV && share.split == SPLIT_TENSOR) kv = mine;
        const double rows = w->use == COST_IN ? s->rows : behind.rows;
        used[w->use] = true;
        out->s[w->use] += w->use == COST_EXPERT ? expert_seconds(m, d, w, rows, mine, &share)
                                                : product_seconds(d, w, rows, mine);
    }
    for (int u = 0; d->rates.n_type && u < COST_USES; u++)
        if (used[u]) out->s[u] += 1e-6 * d->rates.product_us * n_call((enum cost_use)u);
    if (!share_is_dense(&g->share, member)) return;
    out->s[COST_IN] += mixer_seconds(m, d, s, l, heads, kv) + other_seconds(m, d, s, part);
    out->s[used[COST_UP] ? COST_UP : COST_ROUTER] += other_seconds(m, d, &behind, part);
    for (int u = 0; u < COST_USES; u++)
        out->s[u] = fmax(out->s[u], 0); // what is beyond the operations may be less than nothing
}

// ---- groups

// All have all of n_row x n_col floats after it; root: only the lead.
static double gather_seconds(const struct cost_group *g, double n_row, double n_col, bool root)
{
    const double bytes = 4 * n_row * n_col, n = g->share.n_member;
    double most = 0;
    for (int32_t i = 0; i < g->share.n_member; i++) {
        const double part = (double)g->share.part[i] / SHARE_TOTAL;
        const double in = (1 - part) * bytes, out = root ? 0 : part * (n - 1) * bytes;
        if (root && i > 0) continue;
        most = fmax(most, fmax(in, out));
    }
    return g->link.latency_us * 1e-6 + most / g->link.bytes_per_s;
}

static const struct cost_matrix *matrix_of(const struct cost_layer *l, enum cost_use use)
{
    for (int32_t i = 0; i < l->n_matrix; i++)
        if (l->matrices[i].use == use) return &l->matrices[i];
    return NULL;
}

// The last of an expert's products.
static const struct cost_matrix *expert_out(const struct cost_layer *l)
{
    const struct cost_matrix *out = NULL;
    for (int32_t i = 0; i < l->n_matrix; i++)
        if (l->matrices[i].use == COST_EXPERT && l->matrices[i].axis == SHARE_DIM)
            out = &l->matrices[i];
    return out;
}

// What the members of a tensor group hand each other in one layer: what each half makes in its
// middle and at its end, where it is divided at all; of experts the middles of all products, and
// what their sums come to.
static double tensor_exchange(const struct cost_model *m, const struct cost_group *g,
                              const struct cost_step *s, const struct cost_layer *l)
{
    static const enum cost_use ends[] = {COST_OUT, COST_DOWN, COST_SHARED_DOWN};
    double t = 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const struct cost_matrix *w = matrix_of(l, ends[i]);
        if (!w || w->axis == SHARE_WHOLE) continue;
        t += gather_seconds(g, s->rows, (double)w->cols, false);
        t += gather_seconds(g, s->rows, (double)w->rows, false);
    }
    const struct cost_matrix *expert = expert_out(l);
    if (expert) {
        t += gather_seconds(g, (double)s->rows * m->n_used, (double)expert->cols, false);
        t += gather_seconds(g, s->rows, (double)expert->rows, false);
    }
    return t;
}

// To every owner the rows that chose its experts, back every product, all through the lead's link.
static double experts_exchange(const struct cost_model *m, const struct cost_group *g,
                               const struct cost_step *s)
{
    double rows = 0;
    for (int32_t i = 1; i < g->share.n_member; i++) {
        const double part = (double)g->share.part[i] / SHARE_TOTAL;
        rows += s->rows * (1 - pow(1 - part, m->n_used)) + s->rows * m->n_used * part;
    }
    return 2e-6 * g->link.latency_us + 4 * rows * m->dim / g->link.bytes_per_s;
}

static void add_kind(struct cost_time *t, enum cost_kind kind, double seconds)
{
    const int64_t ns = whole_ns(seconds);
    t->kinds[kind] += ns;
    t->ns += ns;
}

// The lead's dense part, then the experts: the lead's own and the shared one while the owners have
// theirs.
static void add_expert_group(const struct cost_model *m, const struct cost_group *g,
                             const struct cost_step *s, const struct cost_layer *l,
                             const struct work *w, struct cost_time *add)
{
    for (int u = COST_IN; u <= COST_ROUTER; u++)
        add_kind(add, kind_of_use[u], w[0].s[u]);
    if (!matrix_of(l, COST_EXPERT)) return;
    const double lead = w[0].s[COST_EXPERT] + w[0].s[COST_SHARED_UP] + w[0].s[COST_SHARED_DOWN];
    double owner = 0;
    for (int32_t i = 1; i < g->share.n_member; i++)
        owner = fmax(owner, w[i].s[COST_EXPERT]);
    const double work = fmax(lead, owner), all = fmax(lead, owner + experts_exchange(m, g, s));
    add_kind(add, COST_OF_EXPERTS, work);
    add_kind(add, COST_OF_EXCHANGE, all - work);
}

void cost_time_layer(const struct cost_model *m, const struct cost_group *g,
                     const struct cost_step *s, int32_t layer, struct cost_time *add)
{
    const struct cost_layer *l = &m->layers[layer];
    const int32_t n = g->share.n_member;
    struct work w[SHARE_MEMBERS_MAX];
    for (int32_t i = 0; i < n; i++) {
        double sum = 0;
        member_work(m, g, i, s, layer, &w[i]);
        for (int u = 0; u < COST_USES; u++)
            sum += w[i].s[u];
        add->own[i] += whole_ns(sum);
        if (share_deals_experts(&g->share)) add->experts[i] += whole_ns(w[i].s[COST_EXPERT]);
    }
    if (n > 1 && g->share.split == SPLIT_EXPERTS) {
        add_expert_group(m, g, s, l, w, add);
        return;
    }
    for (int u = 0; u < COST_USES; u++) {
        double most = 0;
        for (int32_t i = 0; i < n; i++)
            most = fmax(most, w[i].s[u]);
        add_kind(add, kind_of_use[u], most);
    }
    if (n > 1) add_kind(add, COST_OF_EXCHANGE, tensor_exchange(m, g, s, l));
}

// One row of the table per token; every member that takes part in the dense work reads it.
void cost_time_embed(const struct cost_model *m, const struct cost_group *g,
                     const struct cost_step *s, struct cost_time *add)
{
    const double row = (double)m->embed_bytes / (m->n_vocab > 0 ? m->n_vocab : 1);
    double most = 0;
    for (int32_t i = 0; i < g->share.n_member; i++) {
        if (!share_is_dense(&g->share, i)) continue;
        const double t = s->rows * (row + 4.0 * m->dim) / g->devices[i]->read_bytes_per_s;
        add->own[i] += whole_ns(t);
        most = fmax(most, t);
    }
    add_kind(add, COST_OF_ENDS, most);
}

void cost_time_head(const struct cost_model *m, const struct cost_group *g,
                    const struct cost_step *s, struct cost_time *add)
{
    if (!m->head.bytes || !s->logit_rows) return;
    struct share share = g->share;
    double most = 0;
    for (share.member = 0; share.member < share.n_member; share.member++) {
        const struct cluster_device *d = g->devices[share.member];
        const int64_t rows = cost_rows_of(m, &share, m->n_layer, &m->head);
        if (!rows) continue;
        double t = product_seconds(d, &m->head, s->logit_rows, (double)rows / (double)m->head.rows);
        if (d->rates.n_type) t += 1e-6 * d->rates.product_us;
        if (d->rates.n_type && share.member == 0)
            t += 1e-9 * d->rates.logit_ns * s->logit_rows * m->n_vocab;
        t += (double)rows / (double)m->head.rows * pace_head_s(&d->pace, s->logit_rows);
        if (t < 0) t = 0;
        add->own[share.member] += whole_ns(t);
        most = fmax(most, t);
    }
    add_kind(add, COST_OF_ENDS, most);
    if (share.n_member > 1 && share.split == SPLIT_TENSOR && m->head.axis != SHARE_WHOLE)
        add_kind(add, COST_OF_EXCHANGE, gather_seconds(g, s->logit_rows, m->n_vocab, true));
}

static void add_time(struct cost_time *t, const struct cost_time *more)
{
    t->ns += more->ns;
    for (int i = 0; i < COST_KINDS; i++)
        t->kinds[i] += more->kinds[i];
    for (int i = 0; i < SHARE_MEMBERS_MAX; i++) {
        t->own[i] += more->own[i];
        t->experts[i] += more->experts[i];
    }
}

struct cost_time cost_time_of(const struct cost_model *m, const struct cost_group *g,
                              const struct cost_step *s, int32_t from, int32_t to)
{
    struct cost_time t = {0};
    struct cost_time layer = {0};
    if (from == 0) cost_time_embed(m, g, s, &t);
    for (int32_t i = from; i < to; i++) {
        const bool is_alike = i > from && i + 1 < m->n_layer && // the last one has fewer rows
                              !memcmp(&m->layers[i], &m->layers[i - 1], sizeof *m->layers);
        if (!is_alike) {
            memset(&layer, 0, sizeof layer);
            cost_time_layer(m, g, s, i, &layer);
        }
        add_time(&t, &layer);
    }
    if (to == m->n_layer) cost_time_head(m, g, s, &t);
    return t;
}

// ---- one device alone

int64_t cost_layer_ns(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *s, int32_t layer)
{
    const struct cost_group g = cost_group_alone(d);
    struct cost_time t = {0};
    cost_time_layer(m, &g, s, layer, &t);
    return t.ns;
}

int64_t cost_embed_ns(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *s)
{
    const struct cost_group g = cost_group_alone(d);
    struct cost_time t = {0};
    cost_time_embed(m, &g, s, &t);
    return t.ns;
}

int64_t cost_head_ns(const struct cost_model *m, const struct cluster_device *d,
                     const struct cost_step *s)
{
    const struct cost_group g = cost_group_alone(d);
    struct cost_time t = {0};
    cost_time_head(m, &g, s, &t);
    return t.ns;
}

// ---- hops

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
