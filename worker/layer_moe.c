#include "worker/layer_moe.h"

#include <string.h>

// -- work space --

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// Of one layer's experts, those that this member holds at most.
static int64_t most_held(const struct pass_limits *l)
{
    const int32_t n = l->shape->moe.n_expert;
    int64_t most = 0;
    for (int32_t i = l->layer_from; i < l->layer_to; i++) {
        int64_t held = 0;
        for (int32_t e = 0; e < n && l->shape->layers[i].ffn == FFN_MOE; e++)
            held += share_owns(l->share, l->share->member, i, e, n);
        if (held > most) most = held;
    }
    return most;
}

int64_t moe_products_max(const struct pass_limits *l)
{
    const int64_t used = l->shape->moe.n_used;
    const bool some = share_deals_experts(l->share);
    return (int64_t)l->max_tok * (some ? smaller(used, most_held(l)) : used);
}

int64_t moe_rows_max(const struct pass_limits *l)
{
    return (int64_t)l->max_tok * (l->shape->moe.weigh_input ? l->shape->moe.n_used : 1);
}

// What only those who route need; where experts are dealt out they sort on the host.
static void carve_dense(struct moe_work *w, const struct pass_limits *l, struct mem_plan *plan)
{
    const struct model_shape *s = l->shape;
    const struct model_moe *m = &s->moe;
    const uint64_t n = l->max_tok, n_prod = n * (uint64_t)m->n_used, dim = (uint64_t)s->dim;
    struct mem_carver *c = &plan->kernels, *host = &plan->host;
    w->logits = mem_carve(c, n * (uint64_t)m->n_expert, sizeof(float));
    w->ids = mem_carve(c, n_prod, sizeof *w->ids);
    w->weights = mem_carve(c, n_prod, sizeof(float));
    w->at = mem_carve(c, n_prod, sizeof *w->at);
    w->first = mem_carve(host, 2 * (SHARE_MEMBERS_MAX + 1), sizeof *w->first);
    if (share_deals_experts(l->share)) {
        w->host.ids = mem_mirror(plan, w->ids, n_prod, sizeof *w->ids);
        w->host.at = mem_mirror(plan, w->at, n_prod, sizeof *w->at);
        w->host.src = mem_carve(host, n_prod, sizeof *w->host.src);
        w->host.by_expert = mem_carve(host, n_prod, sizeof *w->host.by_expert);
        w->host.by_member = mem_carve(host, n_prod, sizeof *w->host.by_member);
        w->host.member = mem_carve(host, n_prod, sizeof *w->host.member);
        w->host.load = mem_carve(host, SHARE_MEMBERS_MAX, sizeof *w->host.load);
    }
    w->x = m->weigh_input ? mem_carve(c, n_prod * dim, sizeof(float)) : NULL;
    w->out = mem_carve(c, n * dim, sizeof(float));
    if (!m->shared_dim) return;
    layer_gated_carve(&w->shared, l, SLOT_SHARED_GATE, c);
    w->shared_out = mem_carve(c, n * dim, sizeof(float));
    w->shared_share = mem_carve(c, n, sizeof(float));
}

// Products listed at most.
static uint64_t most_listed(const struct pass_limits *l)
{
    const bool is_dense = share_is_dense(l->share, l->share->member);
    return is_dense ? l->max_tok * (uint64_t)l->shape->moe.n_used : (uint64_t)moe_products_max(l);
}

void layer_moe_carve_lasting(struct moe_work *w, const struct pass_limits *l, struct mem_plan *plan)
{
    w->seq = mem_carve(&plan->kernels, most_listed(l), sizeof *w->seq);
}

// Rows of each expert's matrix that this member computes.
static uint64_t n_row_of(const struct pass_limits *l, enum slot slot)
{
    const struct model_layer moe = {.ffn = FFN_MOE};
    const struct share alone = share_alone();
    const bool is_cut = l->share->split == SPLIT_TENSOR;
    const struct share_range r =
        share_of(is_cut ? l->share : &alone, is_cut ? l->share->member : 0, l->shape, &moe, slot);
    return (uint64_t)(r.to - r.from);
}

void layer_moe_carve(struct moe_work *w, const struct pass_limits *l, struct mem_plan *plan)
{
    const struct model_moe *m = &l->shape->moe;
    const uint64_t mine = (uint64_t)moe_products_max(l);
    const uint64_t n_prod = most_listed(l), n_used = (uint64_t)m->n_used;
    struct mem_carver *c = &plan->kernels, *host = &plan->host;
    w->most = (int32_t)mine;
    w->row = mem_carve(c, n_prod, sizeof *w->row);
    w->expert = mem_carve(c, n_prod, sizeof *w->expert);
    w->ordered = l->expert_cols ? mem_carve(c, mine * l->expert_cols, sizeof(float)) : NULL;
    const uint64_t middle = n_row_of(l, SLOT_MOE_GATE), cols = n_row_of(l, SLOT_MOE_DOWN);
    w->gate = mem_carve(c, mine * middle, sizeof(float));
    w->up = mem_carve(c, mine * middle, sizeof(float));
    w->y = mem_carve(c, n_prod * cols, sizeof(float));
    if (l->share->split == SPLIT_TENSOR) {
        w->all = mem_carve(c, n_prod * (uint64_t)m->dim, sizeof(float));
        w->sum = mem_carve(c, l->max_tok * cols, sizeof(float));
    }
    if (share_deals_experts(l->share)) {
        const uint64_t dim = (uint64_t)l->shape->dim, rows = (uint64_t)moe_rows_max(l);
        w->host.row = mem_mirror(plan, w->row, n_prod, sizeof *w->row);
        w->host.expert = mem_mirror(plan, w->expert, n_prod, sizeof *w->expert);
        w->host.count = mem_carve(host, (uint64_t)m->n_expert + 1, sizeof *w->host.count);
        w->host.block = mem_carve(host, rows * (dim + n_used), sizeof(float));
        w->host.block_ids = mem_carve(host, rows * n_used, sizeof *w->host.block_ids);
        w->given = plan->is_one ? w->host.block : mem_carve(c, rows * dim, sizeof(float));
    }
    if (share_is_dense(l->share, l->share->member)) carve_dense(w, l, plan);
}

void layer_moe_open(struct pass *p, const struct pass_limits *l)
{
    const uint64_t n = most_listed(l);
    int32_t some[256];
    for (uint64_t at = 0, take; at < n && p->moe.seq; at += take) {
        take = n - at < 256 ? n - at : 256;
        for (uint64_t i = 0; i < take; i++)
            some[i] = (int32_t)(at + i);
        p->k->ops->put(p->k, p->moe.seq + at, some, take * sizeof *some);
    }
}

// -- routing --

// To whoever watches.
static void show_experts(struct pass *p, int32_t layer)
{
    const struct moe_work *b = &p->moe;
    const size_t n = (size_t)p->n_tok * (size_t)p->shape->moe.n_used;
    const int32_t *ids = b->ids;
    const float *weights = b->weights;
    if (!p->watch || !p->watch->experts) return;
    if (!p->k->is_host) {
        int32_t *seen = p->seen;
        p->k->ops->get(p->k, seen, ids, n * sizeof *ids);
        p->k->ops->get(p->k, seen + n, weights, n * sizeof *weights);
        ids = seen;
        weights = (const float *)(const void *)(seen + n);
    }
    p->watch->experts(p->watch->arg, layer, p->n_tok, ids, weights);
}

// ids, weights (n_tok, n_used) of h, and sorted as `sort` says, unless it is NULL
static void choose(struct pass *p, const struct part *w, const struct route_sort *sort)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_work *b = &p->moe;
    const struct projection router = {.w = part_weight(w, SLOT_MOE_ROUTER),
                                      .bias = part_vector(w, SLOT_MOE_ROUTER_BIAS),
                                      .y = b->logits,
                                      .rows = m->n_expert,
                                      .fine = true};
    layer_project(p->k, p->ordered, p->h, p->n_tok, p->shape->dim, &router, 1);
    const struct route_args route = {
        .logits = b->logits,
        .correction = part_vector(w, SLOT_MOE_CORRECTION),
        .n_expert = m->n_expert,
        .n_used = m->n_used,
        .n_group = m->n_group,
        .n_group_used = m->n_group_used,
        .sigmoid = m->sigmoid,
        .late_softmax = m->late_softmax,
        .normalise = m->normalise,
        .group_by_two = m->group_by_two,
        .scale = m->scale,
        .ids = b->ids,
        .weights = b->weights,
        .sort = sort,
    };
    p->k->ops->route(p->k, &route, p->n_tok);
    show_experts(p, w->id);
}

// By expert, tokens in order within each (counting sort). Leaves in count[e] how many there are of
// the experts up to e.
static void sort_by_expert(struct pass *p)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_sorting *b = &p->moe.host;
    const int32_t n = p->n_tok * m->n_used;
    memset(b->count, 0, ((size_t)m->n_expert + 1) * sizeof *b->count);
    for (int32_t i = 0; i < n; i++)
        b->count[b->ids[i] + 1]++;
    for (int32_t e = 0; e < m->n_expert; e++)
        b->count[e + 1] += b->count[e];
    for (int32_t i = 0; i < n; i++) {
        const int32_t at = b->count[b->ids[i]]++;
        b->src[at] = i;
        b->by_expert[at] = b->ids[i];
    }
}

// And then by member.
static void sort_by_member(struct pass *p, const struct part *w)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_sorting *b = &p->moe.host;
    const int32_t n = p->n_tok * m->n_used, n_member = p->share->n_member;
    int32_t next[SHARE_MEMBERS_MAX], *first = p->moe.first;
    share_assign(p->share, w->id, m->n_expert, b->by_expert, n, b->by_member, b->load);
    memset(first, 0, ((size_t)n_member + 1) * sizeof *first);
    for (int32_t i = 0; i < n; i++)
        first[b->by_member[i] + 1]++;
    for (int32_t i = 0; i < n_member; i++) {
        next[i] = first[i];
        first[i + 1] += first[i];
    }
    for (int32_t i = 0; i < n; i++) {
        const int32_t at = next[b->by_member[i]]++, src = b->src[i];
        const bool is_mine = b->by_member[i] == p->share->member;
        b->at[src] = at;
        b->row[at] = src / m->n_used;
        b->member[at] = b->by_member[i];
        b->expert[at] = is_mine && w->place ? w->place[b->by_expert[i]] : b->by_expert[i];
    }
}

// Experts of one layer; the prediction head's are not counted.
static uint32_t *usage_of(const struct pass *p, const struct part *w, int32_t index)
{
    return w->id < 0 ? NULL : p->usage + (int64_t)index * p->shape->moe.n_expert;
}

static void bring(const struct pass *p, int32_t *to, const int32_t *from, int32_t n)
{
    if (!p->k->is_host) p->k->ops->put(p->k, to, from, (uint64_t)n * sizeof *to);
}

// On the host.
static void sort_among_members(struct pass *p, const struct part *w, int32_t index)
{
    const struct moe_work *b = &p->moe;
    const int32_t n = p->n_tok * p->shape->moe.n_used;
    uint32_t *usage = usage_of(p, w, index);
    if (!p->k->is_host) p->k->ops->get(p->k, b->host.ids, b->ids, (uint64_t)n * sizeof *b->ids);
    sort_by_expert(p);
    sort_by_member(p, w);
    bring(p, b->at, b->host.at, n);
    bring(p, b->row, b->host.row, n);
    bring(p, b->expert, b->host.expert, n);
    for (int32_t i = 0; i < n && usage; i++)
        usage[b->host.ids[i]]++;
}

static void choose_sorted(struct pass *p, const struct part *w, int32_t index)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_work *b = &p->moe;
    if (share_deals_experts(p->share)) {
        choose(p, w, NULL);
        sort_among_members(p, w, index);
        return;
    }
    const struct route_sort sort = {
        .ids = b->ids,
        .n_expert = m->n_expert,
        .n_used = m->n_used,
        .at = b->at,
        .row = b->row,
        .expert = b->expert,
        .count = usage_of(p, w, index),
    };
    choose(p, w, &sort);
    b->first[0] = 0;
    b->first[1] = p->n_tok * m->n_used;
}

// -- computing --

struct product {
    enum slot slot, bias;
    const float *x;
    const int32_t *row;
    int32_t n_x;
    float *y; // (n, rows)
};

// y = x W^T (+ bias), each product with its expert's weight
static void multiply(struct pass *p, const struct part *part, const struct moe_products *a,
                     const struct product *one)
{
    const struct weight *w = part_weight(part, one->slot); // (experts here, rows, cols)
    const struct moe_work *b = &p->moe;
    if (w->order) // each product's input with its columns as its expert has them
        p->k->ops->gather_experts(p->k, one->x, one->row, w->order, a->place, a->n,
                                  (int32_t)w->view.shape[2], b->ordered);
    const struct expert_gemm g = {
        .w = &w->view,
        .factors = w->factors,
        .bias = part_vector(part, one->bias),
        .x = w->order ? b->ordered : one->x,
        .n = a->n,
        .n_x = w->order ? a->n : one->n_x,
        .row = w->order ? b->seq : one->row,
        .expert = a->place,
        .y = one->y,
    };
    p->k->ops->gemm_experts(p->k, &g);
}

static struct expert_stack stack_of(const struct part *part, enum slot slot, enum slot bias)
{
    const struct weight *w = part_weight(part, slot);
    return (struct expert_stack){&w->view, w->factors, part_vector(part, bias)};
}

// Nobody else computes products, so their sum can be made at once.
static bool is_alone(const struct pass *p)
{
    return p->share->n_member == 1;
}

// only_middle: into gate what goes into the last product.
static void compute_plain(struct pass *p, const struct part *w, const struct moe_products *a,
                          bool only_middle)
{
    const struct moe_work *b = &p->moe;
    const struct expert_stack none = {0}, down = stack_of(w, SLOT_MOE_DOWN, SLOT_MOE_DOWN_BIAS);
    const struct expert_ffn f = {
        .gate = stack_of(w, SLOT_MOE_GATE, SLOT_MOE_GATE_BIAS),
        .up = stack_of(w, SLOT_MOE_UP, SLOT_MOE_UP_BIAS),
        .down = only_middle ? none : down,
        .glu = layer_glu(p->shape),
        .x = a->x,
        .n = a->n,
        .n_x = a->n_x,
        .row = a->row,
        .expert = a->place,
        .seq = b->seq,
        .middle = {b->gate, b->up},
        .y = a->y,
        .at = b->at,
        .weights = b->weights,
        .n_tok = p->n_tok,
        .n_used = p->shape->moe.n_used,
        .out = is_alone(p) ? b->out : NULL,
    };
    p->k->ops->expert_ffn(p->k, &f);
}

static bool is_ordered(const struct part *w)
{
    return part_weight(w, SLOT_MOE_GATE)->order || part_weight(w, SLOT_MOE_UP)->order ||
           part_weight(w, SLOT_MOE_DOWN)->order;
}

// gate (n, m) = act(x Wg) (x Wu), of this member's rows of m, one operation at a time
static void make_middle(struct pass *p, const struct part *w, const struct moe_products *a)
{
    const struct moe_work *b = &p->moe;
    struct product one = {SLOT_MOE_GATE, SLOT_MOE_GATE_BIAS, .x = a->x,
                          .row = a->row, .n_x = a->n_x,      .y = b->gate};
    multiply(p, w, a, &one);
    one.slot = SLOT_MOE_UP;
    one.bias = SLOT_MOE_UP_BIAS;
    one.y = b->up;
    multiply(p, w, a, &one);
    const struct glu glu = layer_glu(p->shape);
    const int64_t m = part_matrix(w, SLOT_MOE_GATE)->shape[1];
    p->k->ops->glu(p->k, &glu, b->gate, b->up, a->n * m, b->gate);
}

// y (n, dim) = middle (n, m) Wd, of this member's rows of dim
static void multiply_out(struct pass *p, const struct part *w, const struct moe_products *a,
                         const float *middle)
{
    const struct product down = {SLOT_MOE_DOWN, SLOT_MOE_DOWN_BIAS, middle, p->moe.seq, a->n, a->y};
    multiply(p, w, a, &down);
}

void moe_compute(struct pass *p, const struct part *w, const struct moe_products *a)
{
    if (a->n == 0) return;
    if (!is_ordered(w)) {
        compute_plain(p, w, a, false);
        return;
    }
    make_middle(p, w, a);
    multiply_out(p, w, a, p->moe.gate);
}

// The products of a tensor group: each member makes its columns of every middle, and of every sum.
static void compute_columns(struct pass *p, const struct part *w, const struct moe_products *a)
{
    const struct moe_work *b = &p->moe;
    const struct share_range middle = pass_mine(p, CUT_EXPERT), out = pass_mine(p, CUT_DIM);
    const int64_t n_middle = middle.to - middle.from, n_out = out.to - out.from;
    const int64_t all = pass_all(p, CUT_EXPERT), dim = p->shape->dim;
    if (n_middle) {
        if (is_ordered(w))
            make_middle(p, w, a);
        else
            compute_plain(p, w, a, true);
        p->k->ops->copy(p->k, b->all + middle.from, all, b->gate, n_middle, a->n, n_middle);
    }
    layer_gather(p, CUT_EXPERT, b->all, a->n);
    if (n_out) {
        multiply_out(p, w, a, b->all);
        p->k->ops->combine(p->k, b->y, b->at, b->weights, p->n_tok, p->shape->moe.n_used,
                           (int32_t)n_out, b->sum);
        p->k->ops->copy(p->k, b->out + out.from, dim, b->sum, n_out, p->n_tok, n_out);
    }
    layer_gather(p, CUT_DIM, b->out, p->n_tok);
}

// y of this member's products; in a tensor group out of all of them
static void compute_mine(struct pass *p, const struct part *w)
{
    const struct moe_work *b = &p->moe;
    const int32_t me = share_deals_experts(p->share) ? p->share->member : 0;
    const int32_t from = b->first[me], n = b->first[me + 1] - from;
    const int64_t at = (int64_t)from * p->shape->dim;
    const bool weighed = p->shape->moe.weigh_input;
    const struct moe_products mine = {
        .x = weighed ? b->x + at : p->h,
        .n_x = weighed ? n : p->n_tok,
        .n = n,
        .row = weighed ? b->seq : b->row + from,
        .place = b->expert + from,
        .y = b->y + at,
    };
    if (pass_gathers(p))
        compute_columns(p, w, &mine);
    else
        moe_compute(p, w, &mine);
}

// shared_out = the expert that every token passes, its share a sigmoid where it has a router
static void compute_shared(struct pass *p, const struct part *w)
{
    const struct moe_work *b = &p->moe;
    const struct weight *router = part_weight(w, SLOT_SHARED_ROUTER); // (1, dim)
    const struct projection share = {.w = router, .y = b->shared_share, .rows = 1, .fine = true};
    const struct gated g = {.gate = SLOT_SHARED_GATE,
                            .up = SLOT_SHARED_UP,
                            .down = SLOT_SHARED_DOWN,
                            .cut = CUT_SHARED,
                            .work = &b->shared,
                            .beside = router->view.data ? &share : NULL,
                            .y = b->shared_out};
    layer_gated(p, w, &g);
    if (g.beside)
        p->k->ops->gate_rows(p->k, b->shared_out, b->shared_share, p->n_tok, p->shape->dim);
}

static bool has_owners(const struct pass *p)
{
    return p->group && share_deals_experts(p->share);
}

void layer_moe_route(struct pass *p, const struct part *w, int32_t index)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_work *b = &p->moe;
    choose_sorted(p, w, index);
    if (m->weigh_input) // llama4
        p->k->ops->spread(p->k, p->h, b->at, b->weights, p->n_tok, m->n_used, p->shape->dim, b->x);
}

void layer_moe_give(struct pass *p, const struct part *w)
{
    if (has_owners(p)) moe_send(p);
    compute_mine(p, w);
    if (p->shape->moe.shared_dim) compute_shared(p, w);
}

void layer_moe_take(struct pass *p)
{
    if (has_owners(p)) moe_receive(p);
}

void layer_moe_end(struct pass *p, const struct part *w)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_work *b = &p->moe;
    const bool is_there = pass_gathers(p) || (is_alone(p) && !is_ordered(w));
    if (!is_there)
        p->k->ops->combine(p->k, b->y, b->at, b->weights, p->n_tok, m->n_used, p->shape->dim,
                           b->out);
    const struct sum sum = {.y = b->out, .more = m->shared_dim ? b->shared_out : NULL};
    layer_add_ffn(p, w, &sum);
}

void layer_moe(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    (void)kind; // all layers alike
    layer_moe_route(p, w, index);
    layer_moe_give(p, w);
    layer_moe_take(p);
    layer_moe_end(p, w);
}

struct moe_work layer_moe_from(const struct pass *p, int32_t tok)
{
    const struct model_moe *m = &p->shape->moe;
    struct moe_work w = p->moe;
    const int64_t prod = (int64_t)tok * m->n_used, dim = p->shape->dim;
    w.logits += (int64_t)tok * m->n_expert;
    w.ids += prod;
    w.weights += prod;
    w.at += prod;
    w.row += prod;
    w.expert += prod;
    w.host.ids += prod;
    w.host.at += prod;
    w.host.row += prod;
    w.host.expert += prod;
    w.host.member += prod;
    w.first += SHARE_MEMBERS_MAX + 1;
    if (w.x) w.x += prod * dim;
    w.y += prod * dim;
    w.out += tok * dim;
    if (!m->shared_dim) return w;
    w.shared_out += tok * dim;
    w.shared_share += tok;
    return w;
}
