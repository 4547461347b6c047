#include "worker/stage.h"
#include "worker/head.h"
#include "worker/layer.h"

#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 1024, BACKEND_BYTES_PER_THREAD = 1 << 20 };

struct stage {
    struct stage_config config; // config.settings is what kv and head point to
    const struct arch *arch;
    struct kernels *kernels;
    struct weights weights;
    struct kv kv;
    struct head head;
    struct pass pass;
    struct mem work;       // everything below, and the buffers of kv, head and pass
    int32_t *ids;          // (max_tok)
    int32_t *pos;          // (max_tok)
    struct attn_run *runs; // (max_rows)
    uint8_t *fresh;        // (n_slot) bound by the step under check; all 0 between checks
    struct stage_sizes sizes;
};

// -- what it will take --

static int32_t max_of(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static struct kernels_limits limits_of(const struct stage_config *c)
{
    const struct model_shape *s = &c->model->shape;
    const struct plan_settings *p = &c->settings;
    const int32_t q_dim = s->n_head * s->head_dim;
    const int32_t wide = max_of(max_of(s->dim, s->ffn_dim), q_dim);
    return (struct kernels_limits){
        .n_threads = c->n_threads,
        .precision = (enum precision)p->precision,
        .max_tok = (int32_t)p->max_tok,
        .max_cols = wide,
        .max_rows = max_of(wide, s->n_vocab),
        .max_head = s->n_head,
        .max_head_dim = s->head_dim,
        .max_ctx = (int32_t)p->ctx,
    };
}

static struct kv_config kv_config_of(const struct stage_config *c, struct kernels *k)
{
    const struct model_shape *s = &c->model->shape;
    const struct plan_settings *p = &c->settings;
    return (struct kv_config){
        .settings = p,
        .n_layer = c->layer_to - c->layer_from,
        .n_head_kv = s->n_head_kv,
        .head_dim = s->head_dim,
        .page_bytes = k->ops->kv_page_bytes(k, (int32_t)p->page_tok, s->n_head_kv, s->head_dim,
                                            (enum dtype)p->kv_dtype),
    };
}

// Sizes (base NULL) or lays out all work space.
static void carve(struct stage *s, struct mem_carver *c)
{
    const struct model_shape *m = &s->config.model->shape;
    const struct plan_settings *p = &s->config.settings;
    const struct kv_config kv = kv_config_of(&s->config, s->kernels);
    const uint64_t n = p->max_tok, q = (uint64_t)m->n_head * (uint64_t)m->head_dim;
    const uint64_t kvd = (uint64_t)m->n_head_kv * (uint64_t)m->head_dim;
    s->ids = mem_carve(c, n, sizeof *s->ids);
    s->pos = mem_carve(c, n, sizeof *s->pos);
    s->runs = mem_carve(c, p->max_rows, sizeof *s->runs);
    s->fresh = mem_carve(c, p->n_slot, 1);
    s->pass.h = mem_carve(c, n * (uint64_t)m->dim, sizeof(float));
    s->pass.q = mem_carve(c, n * q, sizeof(float));
    s->pass.key = mem_carve(c, n * kvd, sizeof(float));
    s->pass.val = mem_carve(c, n * kvd, sizeof(float));
    s->pass.att = mem_carve(c, n * q, sizeof(float));
    s->pass.gate = mem_carve(c, n * (uint64_t)m->ffn_dim, sizeof(float));
    s->pass.up = mem_carve(c, n * (uint64_t)m->ffn_dim, sizeof(float));
    for (int i = 0; i < PASS_ROPES; i++)
        s->pass.cos_sin[i] = mem_carve(c, n * (uint64_t)m->head_dim, sizeof(float));
    const struct mem pages = s->kv.pages;
    kv_carve(&s->kv, &kv, c);
    s->kv.pages = pages;
    if (s->config.head) head_carve(&s->head, m, p, c);
}

// The backend's own scratch is not told by its table: quantised activations, partial sums, and some
// space for each thread.
static uint64_t backend_bytes(const struct stage_config *c)
{
    const struct kernels_limits l = limits_of(c);
    return (uint64_t)l.max_tok * (uint64_t)l.max_cols * 2 +
           (uint64_t)l.n_threads * BACKEND_BYTES_PER_THREAD;
}

static err_t count_sizes(struct stage *s, struct stage_sizes *out, struct err_text *why)
{
    const struct kv_config kv = kv_config_of(&s->config, s->kernels);
    struct mem_carver carver = {0};
    struct stage_sizes sizes = {0};
    if (kv.page_bytes == 0)
        return err_say(why, ERR_MODEL, "no kernel for keys and values of %d heads of %d",
                       kv.n_head_kv, kv.head_dim);
    err_t e = weights_bytes(&s->config, s->kernels, &sizes.weight_bytes, why);
    if (e) return e;
    carve(s, &carver);
    sizes.kv_bytes = kv_bytes(&kv);
    sizes.work_bytes = carver.used + backend_bytes(&s->config);
    if (s->config.head)
        sizes.work_bytes += penalty_bytes(s->config.settings.n_slot, s->config.settings.ctx);
    *out = sizes;
    return OK;
}

static err_t check_config(const struct stage_config *c, struct err_text *why)
{
    const struct model_shape *s = &c->model->shape;
    if (!arch_find(s->arch))
        return err_say(why, ERR_MODEL, "no forward pass for architecture %s", s->arch);
    if (c->layer_from >= c->layer_to || c->layer_to > (uint32_t)s->n_layer)
        return err_say(why, ERR_CONFIG, "layers %u to %u of a model of %d", c->layer_from,
                       c->layer_to, s->n_layer);
    if (c->n_threads < 1 || c->n_threads > THREADS_MAX)
        return err_say(why, ERR_CONFIG, "%d threads, allowed are 1 to %d", c->n_threads,
                       THREADS_MAX);
    return kv_check_settings(&c->settings, why);
}

err_t stage_sizes(const struct stage_config *c, struct stage_sizes *out, struct err_text *why)
{
    err_t e = check_config(c, why);
    if (e) return e;
    // The smallest backend of the kind: only its layouts are asked for.
    struct stage s = {.config = *c};
    struct kernels_limits l = limits_of(c);
    l.n_threads = 1;
    l.max_tok = 1;
    e = kernels_open_cpu(c->isa, &l, &s.kernels, why);
    if (e) return e;
    e = count_sizes(&s, out, why);
    s.kernels->ops->close(s.kernels);
    return e;
}

// -- open and close --

// Packed bytes mean the same only to the same kind of backend at the same precision.
static bool can_take_over(const struct stage *s, const struct stage *old)
{
    return old->config.settings.precision == s->config.settings.precision &&
           old->kernels->ops == s->kernels->ops &&
           !memcmp(old->config.model->hash, s->config.model->hash, sizeof s->config.model->hash);
}

static void fill_pass(struct stage *s)
{
    const struct model_shape *m = &s->config.model->shape;
    const struct part *shared = weights_part(&s->weights, PART_SHARED);
    const struct model_rope *ropes[PASS_ROPES] = {
        [PASS_GLOBAL] = &m->rope, [PASS_LOCAL] = &m->rope_local};
    s->pass.k = s->kernels;
    s->pass.arch = s->arch;
    s->pass.shape = m;
    s->pass.kv = &s->kv;
    s->pass.runs = s->runs;
    for (int i = 0; i < PASS_ROPES; i++)
        s->pass.rope[i] = (struct rope){
            .kind = s->arch->rope,
            .n_rot = ropes[i]->n_rot,
            .theta = ropes[i]->theta,
            .freq_scale = ropes[i]->freq_scale,
            .attn_factor = ropes[i]->attn_factor,
            .freq_factors = i == PASS_GLOBAL ? part_vector(shared, SLOT_ROPE_FREQS) : NULL,
        };
}

static void fill_head(struct stage *s)
{
    const bool is_tied = s->config.model->shape.tied_head;
    const struct part *head = weights_part(&s->weights, PART_HEAD);
    const struct part *table = is_tied ? weights_part(&s->weights, PART_EMBED) : head;
    s->head.k = s->kernels;
    s->head.norm = part_vector(head, SLOT_FINAL_NORM);
    s->head.matrix = part_matrix(table, is_tied ? SLOT_EMBED : SLOT_HEAD);
}

static err_t open_parts(struct stage *s, struct stage *reuse, struct err_text *why)
{
    const struct stage_config *c = &s->config;
    const struct kernels_limits limits = limits_of(c);
    err_t e = kernels_open_cpu(c->isa, &limits, &s->kernels, why);
    if (!e) e = count_sizes(s, &s->sizes, why);
    if (e) return e;
    // What the old stage held besides weights goes first: both need not fit at once.
    struct weights *old = NULL;
    if (reuse) {
        kv_close(&reuse->kv);
        penalty_close(&reuse->head.penalty);
        mem_give(&reuse->work);
        if (can_take_over(s, reuse))
            old = &reuse->weights;
        else
            weights_free(&reuse->weights);
    }
    e = weights_load(c, s->kernels, old, &s->weights, why);
    if (e) return e;
    struct mem_carver count = {0};
    carve(s, &count);
    e = mem_take(count.used, MEM_TOUCH, "work space", &s->work, why);
    if (e) return e;
    struct mem_carver carver = {.base = s->work.data};
    carve(s, &carver);
    const struct kv_config kv = kv_config_of(c, s->kernels);
    e = kv_open(&s->kv, &kv, why);
    if (!e && c->head) e = penalty_open(&s->head.penalty, c->settings.n_slot, c->settings.ctx, why);
    return e;
}

err_t stage_open(const struct stage_config *c, struct stage *reuse, struct stage **out,
                 struct err_text *why)
{
    struct stage *s = NULL;
    err_t e = check_config(c, why);
    if (!e) {
        s = calloc(1, sizeof *s);
        if (!s) e = err_say(why, ERR_MEMORY, "no memory for a stage");
    }
    if (!e) {
        s->config = *c;
        s->arch = arch_find(c->model->shape.arch);
        e = open_parts(s, reuse, why);
    }
    if (reuse) stage_close(reuse);
    if (e) {
        stage_close(s);
        return e;
    }
    s->config.load = NULL; // the caller's, only while loading
    fill_pass(s);
    if (c->head) fill_head(s);
    *out = s;
    return OK;
}

void stage_close(struct stage *s)
{
    if (!s) return;
    weights_free(&s->weights);
    kv_close(&s->kv);
    penalty_close(&s->head.penalty);
    mem_give(&s->work);
    if (s->kernels) s->kernels->ops->close(s->kernels);
    free(s);
}

struct stage_sizes stage_sizes_get(const struct stage *s)
{
    return s->sizes;
}

const struct stage_config *stage_config_get(const struct stage *s)
{
    return &s->config;
}

void stage_reset(struct stage *s)
{
    kv_reset(&s->kv);
    if (s->config.head) head_reset(&s->head);
}

void stage_tap(struct stage *s, stage_tap_fn *fn, void *arg)
{
    s->head.tap = fn;
    s->head.tap_arg = arg;
}

uint64_t stage_progress(const struct stage *s)
{
    return s->kernels->ops->progress(s->kernels);
}

// -- check --

static err_t check_binds(const struct stage *s, const struct step *st, struct err_text *why)
{
    const uint32_t n_slot = s->config.settings.n_slot;
    for (uint32_t i = 0; i < st->n_bind; i++) {
        const struct step_bind *b = &st->binds[i];
        if (b->slot >= n_slot)
            return err_say(why, ERR_LINK_PROTOCOL, "step: bind of slot %u of %u", b->slot, n_slot);
        if (s->fresh[b->slot])
            return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u is bound twice", b->slot);
        s->fresh[b->slot] = 1;
        err_t e = s->config.head ? head_check_bind(&s->head, b, why) : OK;
        if (e) return e;
    }
    return OK;
}

static err_t check_ids(const struct stage *s, const struct step_row *r, struct err_text *why)
{
    const int32_t n_vocab = s->config.model->shape.n_vocab;
    if (r->flags & ROW_CHAIN) {
        if (r->n_tok == 1 && !s->fresh[r->slot]) return OK;
        return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u chains %u tokens%s", r->slot,
                       r->n_tok, s->fresh[r->slot] ? " of a new sequence" : "");
    }
    for (uint32_t i = 0; i < r->n_tok; i++)
        if (r->ids[i] < 0 || r->ids[i] >= n_vocab)
            return err_say(why, ERR_LINK_PROTOCOL, "step: id %d, vocabulary is %d", r->ids[i],
                           n_vocab);
    return OK;
}

static err_t check_row(const struct stage *s, const struct step_row *r, struct err_text *why)
{
    const struct plan_settings *p = &s->config.settings;
    const bool scores = r->flags & ROW_SCORE;
    if (r->n_tok < 1 || r->n_tok > p->max_tok || (uint64_t)r->pos + r->n_tok > p->ctx)
        return err_say(why, ERR_LINK_PROTOCOL, "step: %u tokens at position %u, context is %u",
                       r->n_tok, r->pos, p->ctx);
    if (scores && (r->next_id < -1 || r->next_id >= s->config.model->shape.n_vocab))
        return err_say(why, ERR_LINK_PROTOCOL, "step: next id %d, vocabulary is %d", r->next_id,
                       s->config.model->shape.n_vocab);
    if (!(r->flags & ROW_CHAIN) != (r->ids != NULL))
        return err_say(why, ERR_LINK_PROTOCOL, "step: a row has ids or is chained, not both");
    err_t e = r->slot < p->n_slot ? kv_check_row(&s->kv, r, s->fresh[r->slot], why)
                                  : kv_check_row(&s->kv, r, false, why);
    if (!e) e = check_ids(s, r, why);
    if (!e && r->flags & ROW_CHAIN && s->config.head) e = head_check_chain(&s->head, r, why);
    return e;
}

static err_t check_rows(const struct stage *s, const struct step *st, struct err_text *why)
{
    const struct plan_settings *p = &s->config.settings;
    uint64_t n_tok = 0;
    for (uint32_t i = 0; i < st->n_row; i++) {
        err_t e = check_row(s, &st->rows[i], why);
        if (e) return e;
        n_tok += st->rows[i].n_tok;
        if (n_tok > p->max_tok)
            return err_say(why, ERR_LINK_PROTOCOL, "step: more than %u tokens", p->max_tok);
        for (uint32_t j = 0; j < i; j++)
            if (st->rows[j].slot == st->rows[i].slot)
                return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u has two rows",
                               st->rows[i].slot);
    }
    return OK;
}

err_t stage_check(const struct stage *s, const struct step *st, struct err_text *why)
{
    const struct plan_settings *p = &s->config.settings;
    if (st->n_row < 1 || st->n_row > p->max_rows)
        return err_say(why, ERR_LINK_PROTOCOL, "step: %u rows, allowed are 1 to %u", st->n_row,
                       p->max_rows);
    if (st->n_bind > p->n_slot)
        return err_say(why, ERR_LINK_PROTOCOL, "step: %u binds for %u slots", st->n_bind,
                       p->n_slot);
    err_t e = check_binds(s, st, why);
    if (!e) e = check_rows(s, st, why);
    for (uint32_t i = 0; i < st->n_bind; i++)
        if (st->binds[i].slot < p->n_slot) s->fresh[st->binds[i].slot] = 0;
    return e;
}

// -- run --

uint32_t stage_n_tok(const struct step *st)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < st->n_row; i++)
        n += st->rows[i].n_tok;
    return n;
}

// Enters the step into the slots: binds, pages, ids and positions of its tokens.
static void enter(struct stage *s, const struct step *st, const int32_t *chained)
{
    for (uint32_t i = 0; i < st->n_bind; i++) {
        kv_bind(&s->kv, st->binds[i].slot);
        if (s->config.head) head_bind(&s->head, &st->binds[i]);
    }
    int32_t at = 0;
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *r = &st->rows[i];
        s->runs[i] = kv_extend(&s->kv, r, at);
        for (uint32_t j = 0; j < r->n_tok; j++, at++) {
            s->pos[at] = (int32_t)(r->pos + j);
            if (s->config.embed) s->ids[at] = r->ids ? r->ids[j] : *chained++;
        }
    }
    s->pass.n_tok = at;
    s->pass.n_run = (int32_t)st->n_row;
}

static void embed(struct stage *s)
{
    const struct kernels_ops *op = s->kernels->ops;
    const struct model_shape *m = &s->config.model->shape;
    const struct part *table = weights_part(&s->weights, PART_EMBED);
    op->embed(s->kernels, part_matrix(table, SLOT_EMBED), s->ids, s->pass.n_tok, s->pass.x);
    if (m->embed_scale != 1)
        op->scale(s->kernels, s->pass.x, m->embed_scale, (int64_t)s->pass.n_tok * m->dim);
}

static void run_layers(struct stage *s)
{
    struct pass *p = &s->pass;
    const bool has_local = p->shape->window > 0;
    p->k->ops->rope_table(p->k, &p->rope[PASS_GLOBAL], s->pos, p->n_tok, p->cos_sin[PASS_GLOBAL]);
    if (has_local)
        p->k->ops->rope_table(p->k, &p->rope[PASS_LOCAL], s->pos, p->n_tok, p->cos_sin[PASS_LOCAL]);
    const int32_t n = (int32_t)(s->config.layer_to - s->config.layer_from);
    for (int32_t i = 0; i < n; i++) {
        const struct part *w = &s->weights.parts[i];
        s->arch->mixer(p, w, i, w->id);
        s->arch->ffn(p, w, i, w->id);
    }
}

err_t stage_run(struct stage *s, const struct step *st, float *x, const int32_t *chained,
                struct arena *arena, struct step_result *result)
{
    enter(s, st, chained);
    s->pass.x = x;
    if (s->config.embed) embed(s);
    run_layers(s);
    return s->config.head ? head_run(&s->head, st, x, arena, result) : OK;
}
