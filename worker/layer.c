#include "worker/layer.h"

static layer_fn *const mixers[] = {
    [MIXER_ATTN] = layer_attn,
    [MIXER_MLA] = layer_mla,
    [MIXER_DELTA] = layer_delta,
};
static layer_fn *const ffns[] = {
    [FFN_DENSE] = layer_ffn,
    [FFN_MOE] = layer_moe,
};

void layer_mix(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    mixers[kind->mixer](p, w, index, kind);
    pass_tick(p);
}

void layer_run(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    layer_mix(p, w, index, kind);
    ffns[kind->ffn](p, w, index, kind);
    pass_tick(p);
    pass_show(p, w->id);
}

void pass_show(const struct pass *p, int32_t layer)
{
    const int64_t n = (int64_t)p->n_tok * p->shape->dim;
    if (!p->watch || !p->watch->hidden) return;
    if (!p->k->is_host) p->k->ops->get(p->k, p->seen, p->x, (uint64_t)n * sizeof(float));
    p->watch->hidden(p->watch->arg, layer, p->n_tok, p->k->is_host ? p->x : p->seen);
}

// -- work space --

struct kinds {
    bool attn, mla, delta, ffn, moe;
};

static void add_kind(struct kinds *k, const struct model_layer *l)
{
    k->attn |= l->mixer == MIXER_ATTN;
    k->mla |= l->mixer == MIXER_MLA;
    k->delta |= l->mixer == MIXER_DELTA;
    k->ffn |= l->ffn == FFN_DENSE;
    k->moe |= l->ffn == FFN_MOE;
}

// The most that members hand each other at once.
static uint64_t road_floats(const struct pass_limits *l)
{
    const struct model_shape *s = l->shape;
    const struct share alone = share_alone();
    const struct model_layer attn = {.mixer = MIXER_ATTN};
    const enum slot slots[] = {SLOT_ATTN_Q, SLOT_FFN_DOWN, SLOT_FFN_GATE, SLOT_SHARED_GATE};
    const int64_t wide = share_deals_experts(l->share) ? s->dim : s->moe.dim; // of a product
    int64_t cols = 0, most = l->head_floats;
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        const int64_t all = share_of(&alone, 0, s, &attn, slots[i]).to;
        cols = all > cols ? all : cols;
    }
    const int64_t products = s->moe.n_used * wide;
    cols = products > cols ? products : cols;
    most = cols * (int64_t)l->max_tok > most ? cols * (int64_t)l->max_tok : most;
    return (uint64_t)most;
}

// Every kind starts at the same place; the largest decides where the next piece begins. But that of
// experts lies behind the others where rows may be at their experts while others are at attention
// (stage_halves). Owners of experts need no other.
void layer_carve(struct pass *p, const struct pass_limits *l, struct mem_plan *c)
{
    const struct model_shape *s = l->shape;
    struct kinds k = {0};
    for (int32_t i = 0; i < s->n_layer; i++)
        add_kind(&k, &s->layers[i]);
    if (s->has_mtp) add_kind(&k, &s->mtp);
    if (!share_is_dense(l->share, l->share->member)) k = (struct kinds){.moe = k.moe};

    if (k.moe) layer_moe_carve_lasting(&p->moe, l, c);
    struct mem_carver *const space = &c->kernels, each[4] = {*space, *space, *space, *space};
    uint64_t most = space->used;
    if (k.attn) layer_attn_carve(&p->attn, l, &each[0]);
    if (k.mla) layer_mla_carve(&p->mla, l, &each[1]);
    if (k.delta) layer_delta_carve(&p->delta, l, &each[2]);
    if (k.ffn) layer_ffn_carve(&p->ffn, l, &each[3]);
    for (int i = 0; i < 4; i++)
        if (each[i].used > most) most = each[i].used;
    if (l->share->split == SPLIT_EXPERTS) space->used = most;
    if (k.moe) layer_moe_carve(&p->moe, l, c);
    if (space->used < most) space->used = most;
    const bool needs_road = l->share->n_member > 1 && !c->is_one;
    p->road = needs_road ? mem_carve(&c->host, road_floats(l), sizeof *p->road) : NULL;
}

// -- what the kinds share --

void layer_project(struct kernels *k, float *ordered, const float *x, int32_t n_tok, int32_t cols,
                   const struct projection *list, int32_t n)
{
    struct gemm_job jobs[PROJECTIONS_MAX];
    int32_t n_job = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct projection *one = &list[i];
        const struct gemm_job job = {.w = &one->w->view,
                                     .bias = one->bias,
                                     .y = one->y,
                                     .ldy = one->ld ? one->ld : one->rows,
                                     .fine = one->fine};
        if (one->rows == 0) continue;
        if (!one->w->order) {
            jobs[n_job++] = job;
            continue;
        }
        k->ops->gather(k, x, one->w->order, n_tok, cols, ordered);
        k->ops->gemm(k, ordered, n_tok, cols, &job, 1);
    }
    if (n_job) k->ops->gemm(k, x, n_tok, cols, jobs, n_job);
}

// post, next (dim) or NULL
static void add(struct pass *p, const struct sum *sum, const float *post, const float *next,
                float *out)
{
    const struct add_norm a = {
        .x = p->x,
        .y = sum->y,
        .more = sum->more,
        .post = post,
        .scale = p->shape->residual_scale,
        .w = next,
        .out = out,
        .dim = p->shape->dim,
        .eps = p->shape->norm_eps,
    };
    p->k->ops->add_norm(p->k, &a, p->n_tok);
}

void layer_norm(struct pass *p, const struct part *w, enum slot norm)
{
    // Not rms_norm, whose sums may have another order.
    const struct sum nothing = {0};
    add(p, &nothing, NULL, part_vector(w, norm), p->h);
}

void layer_add_mixed(struct pass *p, const struct part *w, const struct sum *sum)
{
    add(p, sum, part_vector(w, SLOT_ATTN_POST_NORM), part_vector(w, SLOT_FFN_NORM), p->h);
}

void layer_add_ffn(struct pass *p, const struct part *w, const struct sum *sum)
{
    const float *next = p->next ? part_vector(p->next, SLOT_ATTN_NORM) : NULL;
    add(p, sum, part_vector(w, SLOT_FFN_POST_NORM), next, p->next ? p->h : NULL);
}

struct glu layer_glu(const struct model_shape *s)
{
    static const enum glu_kind kinds[] = {
        [ACT_SILU] = GLU_SILU,
        [ACT_GELU_TANH] = GLU_GELU_TANH,
        [ACT_GELU] = GLU_GELU,
        [ACT_SWIGLU_OAI] = GLU_SWIGLU_OAI,
    };
    return (struct glu){.kind = kinds[s->act], .alpha = s->act_alpha, .limit = s->act_limit};
}

// -- members --

float *layer_fetch(const struct pass *p, float *x, int64_t n)
{
    if (pass_is_near(p)) return x;
    p->k->ops->get(p->k, p->road, x, (uint64_t)n * sizeof *x);
    return p->road;
}

void layer_return(const struct pass *p, float *x, int64_t n)
{
    if (!pass_is_near(p)) p->k->ops->put(p->k, x, p->road, (uint64_t)n * sizeof *x);
}

void layer_gather(struct pass *p, enum pass_cut cut, float *y, int64_t n_row)
{
    const int64_t all = pass_all(p, cut), n = n_row * all;
    float *road = layer_fetch(p, y, n);
    p->group->ops->gather(p->group, road, n_row, all, p->cut[cut], -1);
    layer_return(p, y, n);
}

void layer_narrow(struct pass *p, float *y, int64_t cols)
{
    const struct kernels_ops *op = p->k->ops;
    const int64_t dim = p->shape->dim;
    if (!p->narrows) return;
    for (int32_t i = 0, k; i < p->n_wanted; i += k) {
        const int64_t from = p->wanted[i], by = from - i;
        // Neighbours move together, but not so many that they would meet their own places.
        for (k = 1; k < by && i + k < p->n_wanted && p->wanted[i + k] == from + k;)
            k++;
        if (by == 0) continue;
        op->copy(p->k, y + i * cols, cols, y + from * cols, cols, k, cols);
        op->copy(p->k, p->x + i * dim, dim, p->x + from * dim, dim, k, dim);
    }
    p->n_tok = p->n_wanted;
}

void layer_out(struct pass *p, const struct projection *out, const float *x, int32_t cols,
               bool is_cut)
{
    struct projection mine = *out;
    mine.ld = mine.rows = p->shape->dim;
    if (is_cut) {
        const struct share_range r = pass_mine(p, CUT_DIM);
        mine.y += r.from;
        mine.rows = r.to - r.from;
    }
    layer_project(p->k, p->ordered, x, p->n_tok, cols, &mine, 1);
    if (is_cut && pass_gathers(p)) layer_gather(p, CUT_DIM, out->y, p->n_tok);
}
