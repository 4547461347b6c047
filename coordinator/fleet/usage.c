#include "coordinator/fleet/usage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MEMBERS = SHARE_MEMBERS_MAX };

struct usage {
    const struct model *model;
    int32_t n_layer, n_expert;
    double *count;          // (n_layer, n_expert) as of at_us
    uint64_t *expert_bytes; // (n_layer)
    int32_t n_moe;          // layers that have experts
    int64_t at_us;
};

err_t usage_open(const struct model *model, struct usage **out, struct err_text *why)
{
    const struct model_shape *s = &model->shape;
    *out = NULL;
    if (s->moe.n_expert < 1) return OK;
    struct usage *u = calloc(1, sizeof *u);
    if (u) {
        *u = (struct usage){.model = model, .n_layer = s->n_layer, .n_expert = s->moe.n_expert};
        u->count = calloc((size_t)u->n_layer * (size_t)u->n_expert, sizeof *u->count);
        u->expert_bytes = calloc((size_t)u->n_layer, sizeof *u->expert_bytes);
    }
    if (!u || !u->count || !u->expert_bytes) {
        usage_close(u);
        return err_say(why, ERR_MEMORY, "no memory for the use of experts");
    }
    for (int32_t l = 0; l < u->n_layer; l++) {
        if (s->layers[l].ffn != FFN_MOE) continue;
        u->expert_bytes[l] = model_expert_bytes(model, l) / (uint64_t)u->n_expert;
        u->n_moe++;
    }
    *out = u;
    return OK;
}

void usage_close(struct usage *u)
{
    if (!u) return;
    free(u->count);
    free(u->expert_bytes);
    free(u);
}

static double fading(const struct usage *u, int64_t now_us)
{
    const int64_t age = now_us > u->at_us ? now_us - u->at_us : 0;
    return exp2(-(double)age / (double)USAGE_HALF_LIFE_US);
}

err_t usage_add(struct usage *u, const struct msg_usage *m, int64_t now_us, struct err_text *why)
{
    if (!u) return err_say(why, ERR_LINK_PROTOCOL, "usage: of experts of a model that has none");
    const uint32_t n_layer = (uint32_t)u->n_layer, n_expert = (uint32_t)u->n_expert;
    if (m->n_expert != n_expert || m->layer_from > n_layer || m->n_layer > n_layer - m->layer_from)
        return err_say(why, ERR_LINK_PROTOCOL,
                       "usage: %u experts of layers %u to %u, the model has %u in %u layers",
                       m->n_expert, m->layer_from, m->layer_from + m->n_layer, n_expert, n_layer);
    const double f = fading(u, now_us);
    for (size_t i = 0; i < (size_t)n_layer * n_expert; i++)
        u->count[i] *= f;
    if (now_us > u->at_us) u->at_us = now_us;
    double *to = u->count + (size_t)m->layer_from * n_expert;
    for (size_t i = 0; i < (size_t)m->n_layer * n_expert; i++)
        to[i] += m->count[i];
    return OK;
}

static double products(const struct usage *u)
{
    double sum = 0;
    for (int64_t i = 0; i < (int64_t)u->n_layer * u->n_expert; i++)
        sum += u->count[i];
    return sum;
}

double usage_mean(const struct usage *u, int64_t now_us)
{
    if (!u || !u->n_moe) return 0;
    return products(u) * fading(u, now_us) / ((double)u->n_moe * u->n_expert);
}

// -- tables --

struct asking {
    struct experts_stage stages[WIRE_STAGES_MAX];
    struct experts_ask ask;
};

// Else one member has all experts, or each its rows of all.
static bool deals(const struct place_stage *s)
{
    return s->n_member > 1 && s->split == SPLIT_EXPERTS;
}

// False: nothing is dealt out.
static bool begin(const struct usage *u, const struct place *p, const uint64_t *spare_bytes,
                  struct asking *out)
{
    *out = (struct asking){.ask = {.n_layer = u->n_layer,
                                   .n_expert = u->n_expert,
                                   .count = u->count,
                                   .expert_bytes = u->expert_bytes,
                                   .n_stage = (int32_t)p->n_stage,
                                   .now = p->experts}};
    out->ask.stages = out->stages;
    bool has_group = false;
    for (uint32_t i = 0; i < p->n_stage; i++) {
        const struct place_stage *from = &p->stages[i];
        struct experts_stage *to = &out->stages[i];
        to->layer_from = (int32_t)from->layer_from;
        to->layer_to = (int32_t)from->layer_to;
        to->n_member = deals(from) ? (int32_t)from->n_member : 1;
        has_group = has_group || deals(from);
        for (int32_t k = 0; k < to->n_member; k++) {
            const uint32_t at = from->first + (uint32_t)k;
            to->part[k] = p->members[at].part;
            to->speed[k] = to->part[k] ? to->part[k] : 1;
            to->spare_bytes[k] = spare_bytes ? spare_bytes[at] : 0;
        }
    }
    return has_group;
}

err_t usage_place(const struct usage *u, const struct place *p, const uint64_t *spare_bytes,
                  struct arena *arena, struct experts_plan *out)
{
    struct asking a;
    if (!u || !begin(u, p, spare_bytes, &a)) return ERR_NOT_FOUND;
    return experts_place(&a.ask, arena, out);
}

// Of all layers of a stage.
static double sum_loads(const struct place_stage *s, const double *load, uint32_t member)
{
    double sum = 0;
    for (uint32_t l = s->layer_from; l < s->layer_to; l++)
        sum += load[(size_t)l * MEMBERS + member];
    return sum;
}

bool usage_parts(const struct usage *u, const struct place *p, double *out)
{
    struct asking a;
    struct arena arena;
    arena_init(&arena, 0);
    double *load = u ? arena_take_n(&arena, (size_t)u->n_layer * MEMBERS, sizeof *load) : NULL;
    const bool ok = load && products(u) > 0 && begin(u, p, NULL, &a) &&
                    experts_loads(&a.ask, p->experts, &arena, load) == OK;
    for (uint32_t i = 0; ok && i < p->n_stage; i++) {
        const struct place_stage *s = &p->stages[i];
        double all = 0;
        for (uint32_t k = 0; k < s->n_member; k++)
            all += sum_loads(s, load, k);
        for (uint32_t k = 0; k < s->n_member; k++)
            out[s->first + k] = all > 0 ? sum_loads(s, load, k) / all : 0;
    }
    arena_fini(&arena);
    return ok;
}

// -- the picture --

struct view {
    const struct usage *u;
    const struct place *p;
    struct share shares[WIRE_STAGES_MAX]; // of each stage
    double *load;                         // (n_layer, MEMBERS)
    usage_name_fn *name;
    void *arg;
};

static bool is_owner(const struct view *v, uint32_t stage, int32_t layer, int32_t expert,
                     int32_t member)
{
    const struct share_experts *t = v->p->experts;
    if (!deals(&v->p->stages[stage])) return true;
    if (t) return t->owner[(int64_t)(layer - t->layer_from) * t->n_expert + expert] == member;
    return share_owns(&v->shares[stage], member, layer, expert, v->u->n_expert);
}

static bool sets_pace(const struct view *v, uint32_t stage, int32_t layer, int32_t member)
{
    const double *load = v->load + (int64_t)layer * MEMBERS;
    const uint32_t *part = v->shares[stage].part;
    for (int32_t m = 0; m < v->shares[stage].n_member; m++)
        if (load[m] * part[member] > load[member] * part[m]) return false;
    return load[member] > 0;
}

static void write_member(const struct view *v, uint32_t stage, int32_t member, struct buf *b)
{
    const struct place_stage *s = &v->p->stages[stage];
    const struct place_member *m = &v->p->members[s->first + (uint32_t)member];
    int n_own = 0, n_copy = 0, n_slowest = 0;
    double mine = 0, all = 0;
    for (int32_t l = (int32_t)s->layer_from; l < (int32_t)s->layer_to; l++) {
        if (!v->u->expert_bytes[l]) continue;
        for (int32_t e = 0; e < v->u->n_expert; e++) {
            const bool owns = is_owner(v, stage, l, e, member);
            n_own += owns;
            n_copy += !owns && share_owns(&v->shares[stage], member, l, e, v->u->n_expert);
        }
        n_slowest += sets_pace(v, stage, l, member);
        mine += v->load[(int64_t)l * MEMBERS + member];
        for (uint32_t k = 0; k < s->n_member; k++)
            all += v->load[(int64_t)l * MEMBERS + k];
    }
    const char *name = v->name(v->arg, m->worker);
    buf_str(b, "{\"worker\":");
    buf_json_str(b, name, strlen(name));
    buf_printf(b, ",\"stage\":%u,\"member\":%d,\"part\":%.4f,\"experts\":%d,\"copies\":%d", stage,
               member, (double)m->part / SHARE_TOTAL, n_own, n_copy);
    buf_printf(b, ",\"load\":%.4f,\"slowest\":%d}", all > 0 ? mine / all : 0, n_slowest);
}

static void write_copies(const struct view *v, int32_t layer, struct buf *b)
{
    const struct share_experts *t = v->p->experts;
    bool is_first = true;
    buf_str(b, "],\"copies\":[");
    for (uint32_t i = 0; t && i < t->n_replica; i++) {
        if (t->replicas[i].layer != (uint32_t)layer) continue;
        buf_printf(b, "%s[%u,%u]", is_first ? "" : ",", t->replicas[i].expert,
                   t->replicas[i].member);
        is_first = false;
    }
    buf_str(b, "]}");
}

static void write_layer(const struct view *v, uint32_t stage, int32_t layer, struct buf *b)
{
    const double *count = v->u->count + (int64_t)layer * v->u->n_expert;
    const bool by_rows = v->p->stages[stage].n_member > 1 && !deals(&v->p->stages[stage]);
    double sum = 0;
    for (int32_t e = 0; e < v->u->n_expert; e++)
        sum += count[e];
    buf_printf(b, "{\"layer\":%d,\"stage\":%u,\"use\":[", layer, stage);
    for (int32_t e = 0; e < v->u->n_expert; e++)
        buf_printf(b, "%s%.4g", e ? "," : "", sum > 0 ? count[e] / sum : 0);
    buf_str(b, "],\"owner\":[");
    for (int32_t e = 0; e < v->u->n_expert; e++) {
        int32_t m = by_rows ? -1 : 0;
        while (!by_rows && m + 1 < v->shares[stage].n_member && !is_owner(v, stage, layer, e, m))
            m++;
        buf_printf(b, "%s%d", e ? "," : "", m);
    }
    write_copies(v, layer, b);
}

static void write_view(const struct view *v, struct buf *b)
{
    const struct place *p = v->p;
    bool is_first = true;
    buf_printf(b, "{\"n_expert\":%d,\"products\":%.0f,\"workers\":[", v->u->n_expert,
               products(v->u));
    for (uint32_t i = 0; i < p->n_stage; i++)
        for (uint32_t m = 0; m < p->stages[i].n_member; m++) {
            if (!is_first) buf_char(b, ',');
            is_first = false;
            write_member(v, i, (int32_t)m, b);
        }
    buf_str(b, "],\"layers\":[");
    is_first = true;
    for (uint32_t i = 0; i < p->n_stage; i++)
        for (uint32_t l = p->stages[i].layer_from; l < p->stages[i].layer_to; l++) {
            if (!v->u->expert_bytes[l]) continue;
            if (!is_first) buf_char(b, ',');
            is_first = false;
            write_layer(v, i, (int32_t)l, b);
        }
    buf_str(b, "]}");
}

static void make_shares(struct view *v)
{
    for (uint32_t i = 0; i < v->p->n_stage; i++) {
        const struct place_stage *s = &v->p->stages[i];
        v->shares[i] = (struct share){.split = SPLIT_EXPERTS, .n_member = (int32_t)s->n_member};
        for (uint32_t k = 0; k < s->n_member; k++)
            v->shares[i].part[k] = v->p->members[s->first + k].part;
        if (v->p->experts && deals(s)) v->shares[i].experts = *v->p->experts;
    }
}

// Of stages that do not deal experts out nothing was worked out: of each product every member has
// its part.
static void fill_whole(struct view *v)
{
    for (uint32_t i = 0; i < v->p->n_stage; i++) {
        const struct place_stage *s = &v->p->stages[i];
        for (uint32_t l = s->layer_from; !deals(s) && l < s->layer_to; l++) {
            double sum = 0;
            for (int32_t e = 0; e < v->u->n_expert; e++)
                sum += v->u->count[(int64_t)l * v->u->n_expert + e];
            for (uint32_t k = 0; k < s->n_member; k++)
                v->load[(int64_t)l * MEMBERS + k] = sum * v->shares[i].part[k] / SHARE_TOTAL;
        }
    }
}

void usage_json(const struct usage *u, const struct place *p, usage_name_fn *name, void *arg,
                struct buf *b)
{
    struct asking a;
    struct arena arena;
    struct view v = {.u = u, .p = p, .name = name, .arg = arg};
    arena_init(&arena, 0);
    if (u) v.load = arena_take_n(&arena, (size_t)u->n_layer * MEMBERS, sizeof *v.load);
    if (v.load) begin(u, p, NULL, &a);
    if (v.load && experts_loads(&a.ask, p->experts, &arena, v.load) == OK) {
        make_shares(&v);
        fill_whole(&v);
        write_view(&v, b);
    } else {
        buf_str(b, "null");
    }
    arena_fini(&arena);
}
