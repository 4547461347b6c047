#include "topology/plan_priv.h"

#include "topology/sha256.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- figures

static void plan_hash(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, struct plan *p)
{
    struct sha256 sha;
    char line[256];
    sha256_init(&sha);
    sha256_add(&sha, m->hash, sizeof m->hash);
    const struct cost_ask *a = &ask->cost;
    int len = snprintf(line, sizeof line, "kv %lld, %lld x %u states %d batch %d chunk %d\n",
                       (long long)a->kv_tokens, (long long)a->local_tokens, a->kv_elem_bits,
                       a->n_state, a->batch, a->chunk);
    sha256_add(&sha, line, (size_t)len);
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *st = &p->stages[i];
        for (int32_t k = 0; k < st->n_member; k++) {
            len = snprintf(line, sizeof line, "%.31s %d %d %s %u\n",
                           c->devices[st->members[k].device].name, st->layer_from, st->layer_to,
                           share_split_name(st->split), st->members[k].part);
            sha256_add(&sha, line, (size_t)len);
        }
    }
    sha256_end(&sha, p->hash);
}

static double us_of(int64_t ns)
{
    return (double)ns / 1000;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static struct cost_group group_of(const struct cluster *c, const struct plan_stage *st)
{
    int32_t devices[SHARE_MEMBERS_MAX];
    uint32_t part[SHARE_MEMBERS_MAX];
    for (int32_t k = 0; k < st->n_member; k++) {
        devices[k] = st->members[k].device;
        part[k] = st->members[k].part;
    }
    return plan_unit_group(c, st->split, devices, part, st->n_member);
}

static void fill_stage(const struct cost_model *m, const struct cluster *c,
                       const struct plan_ask *ask, struct plan_stage *st)
{
    const struct cost_step decode = cost_decode_step(&ask->cost);
    const struct cost_step fill = cost_prefill_step(&ask->cost);
    struct cost_group g = group_of(c, st);
    const struct cost_time d = cost_time_of(m, &g, &decode, st->layer_from, st->layer_to);
    const struct cost_time f = cost_time_of(m, &g, &fill, st->layer_from, st->layer_to);
    st->decode_us = us_of(d.ns);
    st->prefill_us = us_of(f.ns);
    st->exchange_us = us_of(d.kinds[COST_OF_EXCHANGE]);
    for (int i = 0; i < COST_KINDS; i++)
        st->kinds_us[i] = us_of(d.kinds[i]);
    for (int32_t k = 0; k < st->n_member; k++) {
        struct plan_member *member = &st->members[k];
        g.share.member = k;
        member->decode_us = us_of(d.own[k]);
        member->prefill_us = us_of(f.own[k]);
        member->memory =
            cost_memory_share(m, &ask->cost, g.devices[k], st->layer_from, st->layer_to, &g.share);
    }
}

static int32_t n_dense(const struct plan_stage *st)
{
    return st->split == SPLIT_EXPERTS ? 1 : st->n_member;
}

void plan_fill(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
               struct plan *p)
{
    const struct cost_step decode = cost_decode_step(&ask->cost);
    const struct cost_step fill = cost_prefill_step(&ask->cost);
    double fill_longest = 0;
    for (int32_t i = 0; i < p->n_stage; i++) {
        struct plan_stage *st = &p->stages[i];
        fill_stage(m, c, ask, st);
        p->bottleneck_us = larger(p->bottleneck_us, st->decode_us);
        fill_longest = larger(fill_longest, st->prefill_us);
        if (i + 1 < p->n_stage) {
            // Every member of the next stage that takes part in all of a step gets the frame.
            const struct plan_stage *next = &p->stages[i + 1];
            const struct cluster_link *l =
                &c->links[st->members[0].device][next->members[0].device];
            const int32_t n = n_dense(next);
            const int64_t frame = cost_hop_busy_ns(m, l, &decode);
            const int64_t fill_frame = cost_hop_busy_ns(m, l, &fill);
            st->hop_us = us_of(cost_hop_ns(m, l, &decode) + (n - 1) * frame);
            p->bottleneck_us = larger(p->bottleneck_us, us_of(n * frame));
            p->prefill_us += us_of(cost_hop_ns(m, l, &fill) + (n - 1) * fill_frame);
            fill_longest = larger(fill_longest, us_of(n * fill_frame));
        }
        p->decode_us += st->decode_us + st->hop_us;
        p->prefill_us += st->prefill_us;
    }
    p->stream_tok_s = 1e6 / larger(p->decode_us, 1e-3);
    p->total_tok_s = 1e6 * ask->cost.batch / larger(p->bottleneck_us, 1e-3);
    p->prefill_tok_s = 1e6 * ask->cost.chunk / larger(fill_longest, 1e-3);
    plan_hash(m, c, ask, p);
}

// ---- why not

static uint64_t best_sum_of_rooms(const struct cluster *c)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < c->n_device; i++)
        sum += plan_room(&c->devices[i]);
    return sum;
}

err_t plan_say_none(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                    struct err_text *why)
{
    struct cost_memory all = cost_memory_of(m, &ask->cost, &c->devices[0], 0, m->n_layer);
    uint64_t need = cost_memory_sum(&all) - all.reserve, room = best_sum_of_rooms(c);
    if (need > room)
        return err_say(
            why, ERR_CAPACITY,
            "the model does not fit: weights %llu + kv %llu + state %llu + workspace %llu "
            "+ frames %llu bytes, %d devices have %llu free beyond their reserve: short by %llu "
            "bytes",
            (unsigned long long)all.weights, (unsigned long long)all.kv,
            (unsigned long long)all.state, (unsigned long long)all.workspace,
            (unsigned long long)all.comms, c->n_device, (unsigned long long)room,
            (unsigned long long)(need - room));
    return err_say(why, ERR_CAPACITY,
                   "no placement of %d layers on %d devices in %d to %d stages: no cut fits every "
                   "device's memory over links of at most %.0f us, though %llu bytes are free in "
                   "all and %llu needed",
                   m->n_layer, c->n_device, ask->n_stage_min > 1 ? ask->n_stage_min : 1,
                   ask->n_stage_max > 0 ? ask->n_stage_max : c->n_device,
                   ask->hop_us_max > 0 ? ask->hop_us_max : PLAN_HOP_US, (unsigned long long)room,
                   (unsigned long long)need);
}

static err_t check_groups(const struct cost_model *m, const struct plan_ask *ask,
                          struct err_text *why)
{
    uint64_t sum = 0;
    int32_t n_part = 0;
    if ((int)ask->split < 0 || ask->split > SPLIT_COUNT)
        return err_say(why, ERR_INVALID, "split %d, allowed 0 to %d", (int)ask->split, SPLIT_COUNT);
    if (ask->n_member < 0 || ask->n_member > SHARE_MEMBERS_MAX)
        return err_say(why, ERR_INVALID, "%d members of a stage, allowed 1 to %d", ask->n_member,
                       SHARE_MEMBERS_MAX);
    if (ask->split == SPLIT_NONE && ask->n_member > 1)
        return err_say(why, ERR_INVALID, "%d members of a stage that is not split", ask->n_member);
    if (ask->split == SPLIT_EXPERTS && ask->n_member > 1 && m->n_expert == 0)
        return err_say(why, ERR_INVALID, "the model has no experts to divide among %d members",
                       ask->n_member);
    while (n_part < SHARE_MEMBERS_MAX && ask->part[n_part])
        sum += ask->part[n_part++];
    if (n_part && (n_part != ask->n_member || sum != SHARE_TOTAL))
        return err_say(why, ERR_INVALID, "parts of %d members that sum to %llu, wanted %d and %d",
                       n_part, (unsigned long long)sum, ask->n_member, SHARE_TOTAL);
    return OK;
}

err_t plan_check(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                 struct err_text *why)
{
    if (m->n_layer < 1 || m->n_layer > MODEL_LAYERS_MAX)
        return err_say(why, ERR_INVALID, "a model of %d layers, allowed 1 to %d", m->n_layer,
                       MODEL_LAYERS_MAX);
    if (cluster_check(c, why)) return ERR_INVALID;
    err_t e = cost_ask_check(&ask->cost, why);
    if (e) return e;
    int32_t most = c->n_device < m->n_layer ? c->n_device : m->n_layer;
    if (ask->n_stage_min > most || ask->n_stage_min < 0 || ask->n_stage_max < 0 ||
        (ask->n_stage_max && ask->n_stage_max < ask->n_stage_min))
        return err_say(why, ERR_INVALID, "%d to %d stages, allowed 1 to %d", ask->n_stage_min,
                       ask->n_stage_max, most);
    if ((e = check_groups(m, ask, why))) return e;
    if (!(ask->hop_us_max >= 0))
        return err_say(why, ERR_INVALID, "links of at most %g us, allowed 0 and above",
                       ask->hop_us_max);
    return OK;
}

static err_t make_one(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, struct plan *out, struct err_text *why)
{
    struct plan_search *s = NULL;
    err_t e = plan_search_open(m, c, ask, &s);
    if (e) return err_say(why, e, "no memory for planning");
    if (plan_search_best(s, out))
        plan_fill(m, c, ask, out);
    else
        e = plan_say_none(m, c, ask, why);
    plan_search_close(s);
    return e;
}

static bool are_alike(const struct cluster *c, const struct plan_stage *st)
{
    for (int32_t k = 1; k < st->n_member; k++)
        if (!plan_unit_alike(c, st->members[0].device, st->members[k].device)) return false;
    return true;
}

static bool is_faster(const struct plan_ask *ask, const struct plan *a, const struct plan *b)
{
    if (ask->goal == PLAN_THROUGHPUT) return a->bottleneck_us < b->bottleneck_us;
    return a->decode_us < b->decode_us;
}

// Instead of a lead that does all the dense work: each does his part. Takes it if it is faster.
static void try_divided(const struct cost_model *m, const struct cluster *c,
                        const struct plan_ask *ask, struct plan *p)
{
    struct plan_ask divided = *ask;
    struct plan *other = calloc(1, sizeof *other);
    divided.split = SPLIT_TENSOR;
    bool may = other && m->n_expert && ask->n_member <= m->n_head &&
               make_one(m, c, &divided, other, NULL) == OK;
    for (int32_t i = 0; may && i < other->n_stage; i++)
        may = are_alike(c, &other->stages[i]);
    if (may && is_faster(ask, other, p)) *p = *other;
    free(other);
}

err_t plan_make(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                struct plan *out, struct err_text *why)
{
    struct plan *p = calloc(1, sizeof *p);
    err_t e = p ? plan_check(m, c, ask, why) : err_say(why, ERR_MEMORY, "no memory for planning");
    if (!e) e = make_one(m, c, ask, p, why);
    if (!e && ask->split == SPLIT_EXPERTS && ask->divides_dense && !ask->part[0])
        try_divided(m, c, ask, p);
    if (!e) *out = *p;
    free(p);
    return e;
}

uint32_t plan_piece_tok(const struct cost_model *m, bool has_gpu)
{
    enum { CPU_ROWS = 32, GPU_ROWS = 512, EXPERT_ROWS = 16 };
    const uint32_t dense = has_gpu ? GPU_ROWS : CPU_ROWS;
    const uint32_t experts = m->n_used > 0 ? EXPERT_ROWS * (uint32_t)(m->n_expert / m->n_used) : 0;
    return dense > experts ? dense : experts;
}

uint32_t plan_steps_in_flight(uint32_t n_stage, double slowest_us, double road_us)
{
    // A road that is a small part of a step's time is hidden by the step that waits at each stage.
    const double hidden = 0.1, more = slowest_us > 0 ? ceil(road_us / slowest_us - hidden) : 0;
    const double most = PLAN_ROAD_STEPS_MAX;
    return n_stage + 1 + (uint32_t)(more > most ? most : more > 0 ? more : 0);
}
