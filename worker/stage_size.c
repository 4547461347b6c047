#include "worker/source.h"
#include "worker/stage_priv.h"

enum { THREADS_MAX = 1024 };

static int32_t max_of(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int32_t n_product(const struct stage_config *c)
{
    return (int32_t)c->settings.max_tok * c->model->shape.moe.n_used;
}

struct kernels_limits stage_limits(const struct stage_config *c)
{
    const struct model *m = c->model;
    const struct plan_settings *p = &c->settings;
    struct kernels_limits l = {
        .n_threads = c->n_threads,
        .precision = p->precision == PRECISION_EXACT ? PRECISION_EXACT : PRECISION_FAST,
        .deterministic = p->precision == PLAN_DETERMINISTIC,
        .max_tok = (int32_t)p->max_tok,
        .max_cols = m->shape.dim,
        .max_rows = m->shape.n_vocab,
        .max_head = m->shape.n_head,
        .max_head_dim = max_of(m->shape.head_dim, m->shape.mla.kv_rank + m->shape.mla.rope_dim),
        .max_ctx = (int32_t)p->ctx,
        .max_expert_rows = n_product(c),
        .eager = c->eager,
    };
    for (int32_t i = 0; i < m->n_weight; i++) {
        if (!m->weights[i].is_matrix) continue;
        l.max_cols = max_of(l.max_cols, (int32_t)m->weights[i].cols);
        l.max_rows = max_of(l.max_rows, (int32_t)m->weights[i].rows);
    }
    return l;
}

struct kv_config stage_kv_config(const struct stage *s)
{
    return (struct kv_config){
        .settings = &s->config.settings,
        .shape = &s->config.model->shape,
        .layer_from = s->config.layer_from,
        .layer_to = s->config.layer_to,
        .mtp = s->config.mtp,
        .share = &s->config.share,
        .kernels = s->kernels,
    };
}

struct state_config stage_state_config(const struct stage *s)
{
    const bool is_dense = stage_is_dense(&s->config);
    return (struct state_config){
        .settings = &s->config.settings,
        .shape = &s->config.model->shape,
        .layer_from = s->config.layer_from,
        .layer_to = is_dense ? s->config.layer_to : s->config.layer_from, // owners: none
        .kernels = s->kernels,
    };
}

// Columns of the widest matrix, alone or of a stack, that has them in an order of its own.
static uint64_t ordered_cols(const struct model *m, bool of_stacks)
{
    int64_t cols = 0;
    for (int32_t i = 0; i < m->n_weight; i++) {
        const struct model_weight *w = &m->weights[i];
        if ((w->n > 1) == of_stacks && source_may_order(w) && w->cols > cols) cols = w->cols;
    }
    return (uint64_t)cols;
}

uint64_t stage_n_usage(const struct stage *s)
{
    const struct stage_config *c = &s->config;
    return (uint64_t)(c->layer_to - c->layer_from) * (uint64_t)c->model->shape.moe.n_expert;
}

struct pass_limits stage_pass_limits(const struct stage *s)
{
    const struct model_shape *m = &s->config.model->shape;
    const int64_t logits = s->config.head ? (int64_t)HEAD_BLOCK_DEVICE * m->n_vocab : 0;
    return (struct pass_limits){.shape = m,
                                .max_tok = s->config.settings.max_tok,
                                .max_rows = s->config.settings.max_rows,
                                .expert_cols = ordered_cols(s->config.model, true),
                                .share = &s->config.share,
                                .layer_from = (int32_t)s->config.layer_from,
                                .layer_to = (int32_t)s->config.layer_to,
                                .head_floats = s->config.share.split == SPLIT_TENSOR ? logits : 0};
}

static void carve_pass(struct stage *s, struct mem_plan *plan)
{
    const struct model_shape *m = &s->config.model->shape;
    const struct plan_settings *p = &s->config.settings;
    const uint64_t n = p->max_tok, cols = ordered_cols(s->config.model, false);
    const struct pass_limits limits = stage_pass_limits(s);
    struct mem_carver *c = &plan->kernels, *host = &plan->host;
    const int32_t n_rot[PASS_SIGHTS] = {m->rope.n_rot, m->rope_local.n_rot};
    struct pass *pass = &s->pass;
    for (int i = 0; i < PASS_SIGHTS; i++) {
        pass->runs[i] = mem_carve(host, p->max_rows, sizeof *pass->runs[i]);
        if (stage_is_dense(&s->config))
            pass->cos_sin[i] = mem_carve(c, n * (uint64_t)n_rot[i], sizeof(float));
    }
    pass->slots = mem_carve(host, p->max_rows, sizeof *pass->slots);
    for (int h = 0; h < 2 && s->config.share.split == SPLIT_EXPERTS; h++) {
        s->halves[h].slots = mem_carve(host, p->max_rows, sizeof *s->halves[h].slots);
        for (int i = 0; i < PASS_SIGHTS; i++)
            s->halves[h].runs[i] = mem_carve(host, p->max_rows, sizeof *s->halves[h].runs[i]);
    }
    pass->usage = mem_carve(share_deals_experts(&s->config.share) ? host : c, stage_n_usage(s),
                            sizeof *pass->usage);
    if (stage_is_dense(&s->config)) {
        pass->q_scale = mem_carve(c, n, sizeof(float));
        s->q_scale = mem_mirror(plan, pass->q_scale, n, sizeof(float));
        s->x = plan->is_one ? NULL : mem_carve(c, n * (uint64_t)m->dim, sizeof(float));
        pass->h = mem_carve(c, n * (uint64_t)m->dim, sizeof(float));
        pass->ordered = cols ? mem_carve(c, n * cols, sizeof(float)) : NULL;
    }
    layer_carve(pass, &limits, plan);
}

void stage_carve(struct stage *s, struct mem_plan *plan)
{
    struct mem_carver *c = &plan->kernels, *host = &plan->host;
    const struct model_shape *m = &s->config.model->shape;
    const struct plan_settings *p = &s->config.settings;
    const struct kv_config kv = stage_kv_config(s);
    const uint64_t n = p->max_tok, wide = n * (uint64_t)m->dim;
    plan->is_one = s->kernels->is_host;
    s->ids = mem_carve(host, n, sizeof *s->ids);
    s->pos = mem_carve(host, n, sizeof *s->pos);
    s->wanted = mem_carve(host, n, sizeof *s->wanted);
    s->freqs = mem_carve(host, (uint64_t)m->rope.n_rot / 2, sizeof *s->freqs);
    s->fresh = mem_carve(host, p->n_slot, sizeof *s->fresh);
    carve_pass(s, plan);
    kv_carve(&s->kv, &kv, host);
    if (s->config.head && stage_is_dense(&s->config)) {
        s->head.is_lead = stage_samples(&s->config);
        head_carve(&s->head, m, p, plan);
    }
    if (!s->config.mtp) return;
    s->mtp_x = mem_carve(c, wide, sizeof(float));
    s->mtp_h = mem_carve(c, wide, sizeof(float));
    s->mtp_e = mem_carve(c, wide, sizeof(float));
    s->mtp_in = mem_carve(c, 2 * wide, sizeof(float));
}

err_t stage_count(struct stage *s, struct stage_sizes *out, struct err_text *why)
{
    const struct kv_config kv = stage_kv_config(s);
    const struct state_config state = stage_state_config(s);
    const struct kernels_limits limits = stage_limits(&s->config);
    struct kernels_bytes scratch;
    struct mem_plan plan = {0};
    struct stage_sizes sizes = {0};
    err_t e = kv_bytes(&kv, &sizes.kv_bytes, why);
    if (!e) e = weights_bytes(&s->config, s->kernels, &sizes.weight_bytes, why);
    if (e) return e;
    stage_carve(s, &plan);
    sizes.kv_bytes += state_bytes(&state);
    s->kernels->ops->scratch_bytes(s->kernels, &limits, &scratch);
    sizes.work_bytes = plan.kernels.used + scratch.own;
    sizes.host_bytes = plan.host.used + scratch.host;
    if (stage_samples(&s->config))
        sizes.host_bytes += penalty_bytes(s->config.settings.n_slot, s->config.settings.ctx);
    if (s->kernels->is_host) { // all of it is one
        sizes.work_bytes += sizes.host_bytes;
        sizes.host_bytes = 0;
    }
    *out = sizes;
    return OK;
}

static bool has_experts(const struct stage_config *c)
{
    for (uint32_t i = c->layer_from; i < c->layer_to; i++)
        if (c->model->shape.layers[i].ffn == FFN_MOE) return true;
    return false;
}

// Of the table of experts: what it names exists.
static err_t check_table(const struct stage_config *c, struct err_text *why)
{
    const struct share_experts *t = &c->share.experts;
    const int32_t n_member = c->share.n_member, n_expert = c->model->shape.moe.n_expert;
    if (t->n_layer == 0 && t->n_replica == 0) return OK;
    if (t->n_expert != n_expert || t->layer_from < 0 || t->n_layer < 0 ||
        t->layer_from + t->n_layer > c->model->shape.n_layer)
        return err_say(why, ERR_CONFIG,
                       "a table of %d experts in layers %d to %d, the model has %d", t->n_expert,
                       t->layer_from, t->layer_from + t->n_layer, n_expert);
    for (int64_t i = 0; i < (int64_t)t->n_layer * n_expert; i++)
        if (t->owner[i] >= n_member)
            return err_say(why, ERR_CONFIG, "an expert of member %d of %d", t->owner[i], n_member);
    for (uint32_t i = 0; i < t->n_replica; i++)
        if (t->replicas[i].member >= (uint32_t)n_member)
            return err_say(why, ERR_CONFIG, "a copy of an expert for member %u of %d",
                           t->replicas[i].member, n_member);
    return OK;
}

static err_t check_share(const struct stage_config *c, struct err_text *why)
{
    const struct share *s = &c->share;
    uint64_t sum = 0;
    if (s->n_member < 1 || s->n_member > SHARE_MEMBERS_MAX || s->member < 0 ||
        s->member >= s->n_member)
        return err_say(why, ERR_CONFIG, "member %d of %d, at most %d share a stage", s->member,
                       s->n_member, SHARE_MEMBERS_MAX);
    if ((s->n_member > 1) != (s->split == SPLIT_TENSOR || s->split == SPLIT_EXPERTS))
        return err_say(why, ERR_CONFIG, "%d members split by %s", s->n_member,
                       share_split_name(s->split));
    for (int32_t i = 0; i < s->n_member; i++)
        sum += s->part[i];
    if (sum != SHARE_TOTAL)
        return err_say(why, ERR_CONFIG, "the members' parts are %llu of %d together",
                       (unsigned long long)sum, SHARE_TOTAL);
    if (s->split == SPLIT_EXPERTS && !has_experts(c))
        return err_say(why, ERR_CONFIG, "layers without experts cannot be split by experts");
    if (s->n_member > 1 && c->mtp)
        return err_say(why, ERR_CONFIG, "a prediction head in a group of members");
    return check_table(c, why);
}

struct stage_config stage_config_of(const struct stage_config *c)
{
    struct stage_config mine = *c;
    if (mine.share.n_member == 0) mine.share = share_alone();
    return mine;
}

err_t stage_check_config(const struct stage_config *c, struct err_text *why)
{
    const struct model_shape *s = &c->model->shape;
    if (c->layer_from >= c->layer_to || c->layer_to > (uint32_t)s->n_layer)
        return err_say(why, ERR_CONFIG, "layers %u to %u of a model of %d", c->layer_from,
                       c->layer_to, s->n_layer);
    if (c->mtp && !(c->head && s->has_mtp))
        return err_say(why, ERR_CONFIG, "a prediction head %s",
                       c->head ? "of a model that has none" : "without the output head");
    if (c->n_threads < 1 || c->n_threads > THREADS_MAX)
        return err_say(why, ERR_CONFIG, "%d threads, allowed are 1 to %d", c->n_threads,
                       THREADS_MAX);
    err_t e = check_share(c, why);
    if (!e) e = kv_check_settings(&c->settings, why);
    if (e) return e;
    // Products of tokens and experts are counted in 32 bits.
    if ((int64_t)c->settings.max_tok * s->moe.n_used > INT32_MAX / 2)
        return err_say(why, ERR_CONFIG, "setting max_tok is %u, too large for %d experts a token",
                       c->settings.max_tok, s->moe.n_used);
    return OK;
}

err_t stage_sizes(const struct stage_config *c, struct stage_sizes *out, struct err_text *why)
{
    struct stage s = {.config = stage_config_of(c)};
    err_t e = stage_check_config(&s.config, why);
    if (e) return e;
    // The smallest backend of the kind: only its layouts are asked for.
    struct kernels_limits l = stage_limits(c);
    l.n_threads = 1;
    l.max_tok = 1;
    l.max_expert_rows = l.max_expert_rows ? 1 : 0;
    e = kernels_open(c->device, &l, &s.kernels, why);
    if (e) return e;
    e = stage_count(&s, out, why);
    s.kernels->ops->close(s.kernels);
    return e;
}
