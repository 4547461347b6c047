#include "worker/stage_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// -- open and close --

// Packed bytes mean the same only to the same kind of backend at the same precision.
static bool can_take_over(const struct stage *s, const struct stage *old)
{
    return old->config.settings.precision == s->config.settings.precision &&
           old->kernels->ops == s->kernels->ops && old->kernels->device == s->kernels->device &&
           !memcmp(old->config.model->hash, s->config.model->hash, sizeof s->config.model->hash);
}

// Divisors of the rotation frequencies: a tensor of the model's file, or a list of its metadata;
// both may know another one for long contexts. Local layers share the tensor unless they turn in a
// way of their own.
static const double *freq_factors(struct stage *s, const struct model_rope *r)
{
    const struct part *shared = weights_part(&s->weights, PART_SHARED);
    const bool is_long = r->long_from > 0 && s->config.settings.ctx > (uint32_t)r->long_from;
    const float *from_file = part_vector(shared, SLOT_ROPE_FREQS);
    if (is_long && part_vector(shared, SLOT_ROPE_FREQS_LONG))
        from_file = part_vector(shared, SLOT_ROPE_FREQS_LONG);
    const bool is_own = r->theta != s->config.model->shape.rope.theta;
    if (!from_file || is_own) return is_long && r->long_factors ? r->long_factors : r->factors;
    for (int32_t i = 0; i < r->n_rot / 2; i++) {
        float f;
        s->kernels->ops->get(s->kernels, &f, from_file + i, sizeof f);
        s->freqs[i] = (double)f;
    }
    return s->freqs;
}

// Where each member's columns begin; a member that computes them all has [0, all).
static void fill_cuts(struct stage *s)
{
    const enum slot slots[PASS_CUTS] = {
        [CUT_HEADS] = SLOT_ATTN_Q,    [CUT_DIM] = SLOT_FFN_DOWN,       [CUT_MIDDLE] = SLOT_FFN_GATE,
        [CUT_EXPERT] = SLOT_MOE_GATE, [CUT_SHARED] = SLOT_SHARED_GATE, [CUT_VOCAB] = SLOT_HEAD};
    const struct model_layer attn = {.mixer = MIXER_ATTN};
    const struct share alone = share_alone();
    const struct share *share = s->config.share.split == SPLIT_TENSOR ? &s->config.share : &alone;
    for (int cut = 0; cut < PASS_CUTS; cut++)
        for (int32_t i = 0; i < share->n_member; i++) {
            const struct share_range r =
                share_of(share, i, &s->config.model->shape, &attn, slots[cut]);
            s->pass.cut[cut][i] = r.from;
            s->pass.cut[cut][i + 1] = r.to;
        }
}

static void fill_ropes(struct stage *s)
{
    const struct model_shape *m = &s->config.model->shape;
    const struct model_rope *ropes[PASS_SIGHTS] = {
        [PASS_GLOBAL] = &m->rope, [PASS_LOCAL] = &m->rope_local};
    for (int i = 0; i < PASS_SIGHTS; i++)
        s->pass.rope[i] = (struct rope){
            .kind = ropes[i]->interleaved ? ROPE_INTERLEAVED : ROPE_NEOX,
            .n_rot = ropes[i]->n_rot,
            .theta = ropes[i]->theta,
            .freq_scale = ropes[i]->freq_scale,
            .attn_factor = ropes[i]->attn_factor,
            .freq_factors = freq_factors(s, ropes[i]),
        };
}

static void fill_pass(struct stage *s)
{
    s->pass.k = s->kernels;
    s->pass.shape = &s->config.model->shape;
    s->pass.kv = &s->kv;
    s->pass.state = &s->state;
    s->pass.share = &s->config.share;
    s->pass.group = s->config.group;
    s->pass.tick = s->config.tick;
    s->pass.tick_arg = s->config.tick_arg;
    const struct pass_limits limits = stage_pass_limits(s);
    layer_moe_open(&s->pass, &limits);
    if (!stage_is_dense(&s->config)) return;
    fill_cuts(s);
    fill_ropes(s);
}

// The output matrix, of which this member holds its rows: where it is the embedding table too, all
// rows may be there.
static struct weight head_matrix(const struct stage *s, const struct weight *held)
{
    const struct share_range mine = pass_mine(&s->pass, CUT_VOCAB);
    struct weight w = *held;
    if (mine.from > w.rows.from)
        w.view.data = (char *)w.view.data + s->kernels->ops->weight_bytes(s->kernels, w.view.dtype,
                                                                          mine.from - w.rows.from,
                                                                          w.view.shape[1]);
    w.view.shape[0] = mine.to - mine.from;
    w.rows = mine;
    return w;
}

static void fill_head(struct stage *s)
{
    const bool is_tied = s->config.model->shape.tied_head;
    const struct part *head = weights_part(&s->weights, PART_HEAD);
    const struct part *table = is_tied ? weights_part(&s->weights, PART_EMBED) : head;
    s->head.k = s->kernels;
    s->head.norm = part_vector(head, SLOT_FINAL_NORM);
    s->head.pass = &s->pass;
    s->head.matrix = head_matrix(s, part_weight(table, is_tied ? SLOT_EMBED : SLOT_HEAD));
    s->head.matrix_bias = part_vector(head, SLOT_HEAD_BIAS);
}

static err_t open_parts(struct stage *s, struct stage *reuse, struct err_text *why)
{
    const struct stage_config *c = &s->config;
    const struct kernels_limits limits = stage_limits(c);
    if ((c->share.n_member > 1) != !!c->group ||
        (c->group &&
         (c->group->n_member != c->share.n_member || c->group->member != c->share.member)))
        return err_say(why, ERR_CONFIG, "member %d of %d has another group", c->share.member,
                       c->share.n_member);
    err_t e = kernels_open(c->device, &limits, &s->kernels, why);
    if (!e && c->profile) {
        struct kernels *inner = s->kernels;
        s->kernels = NULL;
        e = kernels_profile_open(inner, &s->kernels);
        if (e) e = err_say(why, e, "no memory for a profile");
    }
    if (!e) e = stage_count(s, &s->sizes, why);
    if (e) return e;
    // What the old stage held besides weights goes first: both need not fit at once.
    struct weights *old = NULL;
    if (reuse) {
        kv_close(&reuse->kv);
        state_close(&reuse->state);
        penalty_close(&reuse->head.penalty);
        mem_give(&reuse->work);
        mem_give(&reuse->host);
        if (can_take_over(s, reuse))
            old = &reuse->weights;
        else
            weights_free(&reuse->weights);
    }
    struct mem_plan plan = {0};
    stage_carve(s, &plan);
    e = mem_take_of(s->kernels, plan.kernels.used, "work space", &s->work, why);
    if (!e) e = mem_take(plan.host.used, "lists of a step", &s->host, why);
    if (e) return e;
    plan = (struct mem_plan){.kernels.base = s->work.data, .host.base = s->host.data};
    stage_carve(s, &plan);
    const struct kv_config kv = stage_kv_config(s);
    const struct state_config state = stage_state_config(s);
    e = kv_open(&s->kv, &kv, why);
    if (!e) e = state_open(&s->state, &state, why);
    const struct mem *const beside[] = {&s->work, &s->host, &s->kv.pages, &s->state.places, NULL};
    if (!e) e = weights_load(c, s->kernels, old, beside, &s->weights, why);
    if (!e && stage_samples(c))
        e = penalty_open(&s->head.penalty, c->settings.n_slot, c->settings.ctx, why);
    return e;
}

static err_t copy_tables(struct stage *s, struct err_text *why)
{
    struct share_experts *t = &s->config.share.experts;
    const size_t n_owner = (size_t)t->n_layer * (size_t)t->n_expert;
    const size_t n_replica = t->n_replica * sizeof *t->replicas;
    if (n_owner + n_replica == 0) return OK;
    char *tables = malloc(n_replica + n_owner);
    if (!tables) return err_say(why, ERR_MEMORY, "no memory for a table of experts");
    if (n_replica) memcpy(tables, t->replicas, n_replica);
    if (n_owner) memcpy(tables + n_replica, t->owner, n_owner);
    t->replicas = (const struct share_replica *)(void *)tables;
    t->owner = (const uint8_t *)tables + n_replica;
    s->tables = tables;
    return OK;
}

err_t stage_open(const struct stage_config *c, struct stage *reuse, struct stage **out,
                 struct err_text *why)
{
    struct stage *s = NULL;
    const struct stage_config mine = stage_config_of(c);
    err_t e = stage_check_config(&mine, why);
    if (!e) {
        s = calloc(1, sizeof *s);
        if (!s) e = err_say(why, ERR_MEMORY, "no memory for a stage");
    }
    if (!e) {
        s->config = mine;
        e = copy_tables(s, why);
    }
    if (!e) e = open_parts(s, reuse, why);
    if (reuse) stage_close(reuse);
    if (e) {
        stage_close(s);
        return e;
    }
    s->config.load = NULL; // the caller's, only while loading
    fill_pass(s);
    if (c->head && stage_is_dense(&mine)) fill_head(s);
    *out = s;
    return OK;
}

void stage_close(struct stage *s)
{
    if (!s) return;
    weights_free(&s->weights);
    kv_close(&s->kv);
    state_close(&s->state);
    penalty_close(&s->head.penalty);
    mem_give(&s->work);
    mem_give(&s->host);
    free(s->seen);
    if (s->kernels) s->kernels->ops->close(s->kernels);
    free(s->tables);
    free(s);
}

void stage_join(struct stage *s, struct group *group)
{
    s->config.group = s->pass.group = group;
}

void stage_stay(struct stage *s, bool comes, bool goes)
{
    s->comes = comes;
    s->goes = goes;
}

float *stage_x(const struct stage *s)
{
    return s->x;
}

struct kernels *stage_kernels(const struct stage *s)
{
    return s->kernels;
}

struct stage_sizes stage_sizes_get(const struct stage *s)
{
    return s->sizes;
}

void stage_taken(const struct stage *s, struct kernels_bytes *out)
{
    s->kernels->ops->taken_bytes(s->kernels, out);
}

uint64_t stage_busy_ns(const struct stage *s)
{
    return s->kernels->ops->busy_ns(s->kernels);
}

const struct stage_config *stage_config_get(const struct stage *s)
{
    return &s->config;
}

void stage_reset(struct stage *s)
{
    kv_reset(&s->kv);
    if (stage_samples(&s->config)) head_reset(&s->head);
}

void stage_tap(struct stage *s, stage_tap_fn *fn, void *arg)
{
    s->head.tap = fn;
    s->head.tap_arg = arg;
}

err_t stage_watch(struct stage *s, const struct stage_watch *watch)
{
    const struct model_shape *m = &s->config.model->shape;
    const size_t row = (size_t)(m->dim > 2 * m->moe.n_used ? m->dim : 2 * m->moe.n_used);
    if (watch && !s->kernels->is_host && !s->seen) {
        s->seen = malloc(s->config.settings.max_tok * row * sizeof(float));
        if (!s->seen) return ERR_MEMORY;
    }
    s->watch = watch ? *watch : (struct stage_watch){0};
    s->pass.watch = watch ? &s->watch : NULL;
    s->pass.seen = s->seen;
    return OK;
}

err_t stage_status(const struct stage *s, struct err_text *why)
{
    return s->kernels->ops->status(s->kernels, why);
}

void stage_profile(struct stage *s, struct kernels_profile *out)
{
    kernels_profile_take(s->kernels, out);
}

uint64_t stage_progress(const struct stage *s)
{
    return s->kernels->ops->progress(s->kernels);
}

// -- run --

uint32_t stage_n_tok(const struct step *st)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < st->n_row; i++)
        n += st->rows[i].n_tok;
    return n;
}

// 1 + q_beta * ln(1 + floor((p + q_shift) / q_span)) of each token's position p.
static void fill_q_scale(struct stage *s)
{
    const struct model_shape *m = &s->config.model->shape;
    for (int32_t i = 0; i < s->pass.n_tok; i++) {
        const int32_t spans = (s->pos[i] + m->q_shift) / m->q_span;
        s->q_scale[i] = (float)(1 + (double)m->q_beta * log1p(spans));
    }
    if (s->q_scale == s->pass.q_scale) return;
    s->kernels->ops->put(s->kernels, s->pass.q_scale, s->q_scale,
                         (uint64_t)s->pass.n_tok * sizeof *s->q_scale);
}

// Enters the step into the slots: binds, pages, ids and positions of its tokens.
static void enter(struct stage *s, const struct step *st, const int32_t *chained)
{
    struct pass *p = &s->pass;
    const bool embeds = s->config.embed && stage_is_dense(&s->config);
    for (uint32_t i = 0; i < st->n_bind; i++) {
        kv_bind(&s->kv, st->binds[i].slot);
        state_bind(&s->state, &st->binds[i]);
        if (stage_samples(&s->config)) head_bind(&s->head, &st->binds[i]);
    }
    int32_t at = 0;
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *r = &st->rows[i];
        kv_extend(&s->kv, r, at, &p->runs[PASS_GLOBAL][i], &p->runs[PASS_LOCAL][i]);
        p->slots[i] = r->slot;
        for (uint32_t j = 0; j < r->n_tok; j++, at++) {
            s->pos[at] = (int32_t)(r->pos + j);
            if (embeds) s->ids[at] = r->ids ? r->ids[j] : *chained++;
        }
    }
    p->n_tok = at;
    p->n_run = (int32_t)st->n_row;
    if (stage_is_dense(&s->config) && p->shape->q_beta != 0) fill_q_scale(s);
}

static void add_list(struct kernels_step *k, const struct attn_run *runs, const uint32_t *slots,
                     int32_t n_run)
{
    k->runs[k->n_list] = runs;
    k->slots[k->n_list] = slots;
    k->n_run[k->n_list++] = n_run;
}

// Whether what the members of a tensor group hand each other can be repeated with the rest.
static bool is_recordable(const struct stage *s)
{
    const struct pass *p = &s->pass;
    int64_t widest = 0;
    if (!p->group) return true;
    if (!pass_gathers(p)) return false;
    for (int cut = 0; cut < PASS_CUTS; cut++) {
        const int64_t per_tok = cut == CUT_EXPERT ? p->shape->moe.n_used : 1;
        const int64_t cols = per_tok * pass_all(p, (enum pass_cut)cut);
        if ((cut != CUT_VOCAB || s->config.head) && cols > widest) widest = cols;
    }
    return p->group->ops->is_recordable(p->group, p->n_tok, widest);
}

// Tells the backend what all operations of the step share. A step in which each sequence goes on by
// one token, and which nobody looks into, is like any other of as many rows.
static bool enter_kernels(struct stage *s, const int32_t *ids, bool is_plain)
{
    const struct pass *p = &s->pass;
    const bool is_decode = p->n_run == p->n_tok && !p->watch && is_recordable(s) && is_plain;
    struct kernels_step k = {.ids = ids,
                             .pos = s->pos,
                             .n_tok = p->n_tok,
                             .page_tok = (int32_t)s->config.settings.page_tok,
                             .key = is_decode ? (uint64_t)p->n_tok : 0};
    for (int i = 0; i < PASS_SIGHTS && stage_is_dense(&s->config); i++)
        add_list(&k, p->runs[i], p->slots, p->n_run);
    for (int h = 0; h < 2 && stage_has_halves(s) && stage_is_dense(&s->config); h++)
        for (int i = 0; i < PASS_SIGHTS; i++)
            add_list(&k, s->halves[h].runs[i], s->halves[h].slots, s->halves[h].n_run);
    return s->kernels->ops->enter(s->kernels, &k);
}

// out (n_tok, dim)
static void embed(struct stage *s, const int32_t *ids, float *out)
{
    const struct kernels_ops *op = s->kernels->ops;
    const struct model_shape *m = &s->config.model->shape;
    const struct part *table = weights_part(&s->weights, PART_EMBED);
    op->embed(s->kernels, part_matrix(table, SLOT_EMBED), ids, s->pass.n_tok, out);
    if (m->embed_scale != 1)
        op->scale(s->kernels, out, m->embed_scale, (int64_t)s->pass.n_tok * m->dim);
}

static int32_t n_own(const struct stage *s)
{
    return (int32_t)(s->config.layer_to - s->config.layer_from);
}

// Experts of this member for the layers that the lead runs.
static void serve(struct stage *s)
{
    struct pass *p = &s->pass;
    const int n_half = stage_has_halves(s) ? 2 : 1;
    for (int32_t i = 0; i < n_own(s); i++) {
        const struct part *w = &s->weights.parts[i];
        const struct model_layer *kind = &p->shape->layers[w->id];
        for (int h = 0; h < n_half && kind->ffn == FFN_MOE && !p->err; h++)
            layer_moe_serve(p, w, i, kind);
    }
}

// What of the step the host does not look into; p->x is the backend's.
static void run_layers(struct stage *s, bool with_logits)
{
    struct pass *p = &s->pass;
    for (int i = 0; i < PASS_SIGHTS; i++)
        p->k->ops->rope_table(p->k, &p->rope[i], s->pos, p->n_tok, p->cos_sin[i]);
    if (s->config.embed) {
        embed(s, s->ids, p->x);
        pass_show(p, PART_EMBED);
    }
    const bool in_halves = stage_has_halves(s);
    if (in_halves)
        stage_run_halves(s);
    else
        layer_norm(p, s->weights.parts, SLOT_ATTN_NORM);
    for (int32_t i = 0; i < n_own(s) && !in_halves; i++) {
        const struct part *w = &s->weights.parts[i];
        p->next = i + 1 < n_own(s) ? w + 1 : NULL;
        if (p->next)
            layer_run(p, w, i, &p->shape->layers[w->id]);
        else
            stage_run_last(s, w, i, &p->shape->layers[w->id]);
    }
    if (with_logits) head_ahead(&s->head, p->x, (uint32_t)p->n_tok);
}

// x (n_tok, dim) on the host
static err_t run_dense(struct stage *s, const struct step *st, float *x, struct arena *arena,
                       struct step_result *result)
{
    struct pass *p = &s->pass;
    const struct stage_config *c = &s->config;
    const struct kernels_ops *op = s->kernels->ops;
    const uint64_t bytes = (uint64_t)p->n_tok * (uint64_t)p->shape->dim * sizeof *x;
    const bool is_ahead = c->head && head_is_ahead(&s->head, st);
    s->head.is_ahead = is_ahead;
    p->x = s->x ? s->x : x;
    if (s->x && !c->embed && !s->comes) op->put(s->kernels, s->x, x, bytes);
    if (stage_has_halves(s)) stage_cut_halves(s);
    stage_find_wanted(s, st);
    if (!enter_kernels(s, c->embed ? s->ids : NULL, is_ahead || !c->head)) run_layers(s, is_ahead);
    op->leave(s->kernels);
    for (uint32_t i = 0; i < st->n_row; i++)
        state_save(&s->state, &st->rows[i]);
    if (s->x && !c->head && !s->goes) op->get(s->kernels, x, s->x, bytes);
    return c->head ? head_run(&s->head, st, p->x, arena, result) : OK;
}

err_t stage_run(struct stage *s, const struct step *st, float *x, const int32_t *chained,
                struct arena *arena, struct step_result *result)
{
    struct group *g = s->config.group;
    err_t e = OK;
    s->pass.err = OK;
    if (g) g->ops->begin(g, st->number);
    enter(s, st, chained);
    if (stage_is_dense(&s->config)) {
        e = run_dense(s, st, x, arena, result);
    } else {
        enter_kernels(s, NULL, false);
        serve(s);
        s->kernels->ops->leave(s->kernels);
    }
    const err_t device_err = stage_status(s, NULL);
    if (device_err) e = device_err;
    if (g) {
        const err_t group_err = g->ops->status(g, NULL);
        e = s->pass.err ? s->pass.err : group_err ? group_err : e;
    }
    return e;
}

bool stage_usage(struct stage *s, uint32_t *count)
{
    const struct kernels_ops *op = s->kernels->ops;
    const size_t n = (size_t)stage_n_usage(s), bytes = n * sizeof *count;
    bool is_used = false;
    if (n == 0) return false;
    const bool is_host = share_deals_experts(&s->config.share);
    if (is_host)
        memcpy(count, s->pass.usage, bytes);
    else
        op->get(s->kernels, count, s->pass.usage, bytes);
    for (size_t i = 0; i < n; i++)
        is_used |= count[i] != 0;
    if (!is_used) return false;
    if (is_host)
        memset(s->pass.usage, 0, bytes);
    else
        op->zero(s->kernels, s->pass.usage, bytes);
    return true;
}

void stage_mtp(struct stage *s, const float *x, const int32_t *next_ids, float *logits)
{
    struct pass *p = &s->pass;
    const struct kernels_ops *op = s->kernels->ops;
    const int32_t n = p->n_tok, dim = p->shape->dim, n_vocab = p->shape->n_vocab;
    const int32_t block = (int32_t)s->head.block;
    const float eps = p->shape->norm_eps;
    const struct part *w = weights_part(&s->weights, PART_MTP);
    if (s->x) x = s->x;
    enter_kernels(s, next_ids, false);

    // in = [norm(embedding of the next token), norm(final norm(x))]
    op->rms_norm(s->kernels, x, s->head.norm, n, dim, eps, s->mtp_h);
    op->rms_norm(s->kernels, s->mtp_h, part_vector(w, SLOT_MTP_HIDDEN_NORM), n, dim, eps, s->mtp_h);
    embed(s, next_ids, s->mtp_e);
    op->rms_norm(s->kernels, s->mtp_e, part_vector(w, SLOT_MTP_EMBED_NORM), n, dim, eps, s->mtp_e);
    op->copy(s->kernels, s->mtp_in, 2 * dim, s->mtp_e, dim, n, dim);
    op->copy(s->kernels, s->mtp_in + dim, 2 * dim, s->mtp_h, dim, n, dim);

    // one layer over in Wfc, then the output matrix
    const struct projection fc = {.w = part_weight(w, SLOT_MTP_FC), .y = s->mtp_x, .rows = dim};
    layer_project(s->kernels, p->ordered, s->mtp_in, n, 2 * dim, &fc, 1);
    p->x = s->mtp_x;
    p->next = NULL;
    layer_norm(p, w, SLOT_ATTN_NORM);
    layer_run(p, w, n_own(s), &p->shape->mtp);
    op->rms_norm(s->kernels, s->mtp_x, part_vector(w, SLOT_MTP_NORM), n, dim, eps, s->mtp_h);
    for (int32_t i = 0; i < n; i += block) {
        const int32_t take = n - i < block ? n - i : block;
        head_logits(&s->head, s->mtp_h + (int64_t)i * dim, take, s->head.logits);
        op->get(s->kernels, logits + (int64_t)i * n_vocab, s->head.logits,
                (uint64_t)take * (uint64_t)n_vocab * sizeof *logits);
    }
    op->leave(s->kernels);
}
