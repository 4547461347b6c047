#include "topology/plan_priv.h"

#include <stdlib.h>

// The devices of one lane as a cluster of their own; at[i] is device i's number in the whole.
static void part_of(const struct cluster *c, const int32_t *lane, int32_t which,
                    struct cluster *out, int32_t *at)
{
    out->n_device = 0;
    for (int32_t i = 0; i < c->n_device; i++) {
        if (lane[i] != which) continue;
        at[out->n_device] = i;
        out->devices[out->n_device++] = c->devices[i];
    }
    for (int32_t a = 0; a < out->n_device; a++)
        for (int32_t b = 0; b < out->n_device; b++)
            out->links[a][b] = c->links[at[a]][at[b]];
}

static void number_devices(struct plan *p, const int32_t *at)
{
    for (int32_t i = 0; i < p->n_stage; i++)
        for (int32_t k = 0; k < p->stages[i].n_member; k++)
            p->stages[i].members[k].device = at[p->stages[i].members[k].device];
}

static bool has_devices(const struct cluster *c, const int32_t *lane, int32_t which)
{
    for (int32_t i = 0; i < c->n_device; i++)
        if (lane[i] == which) return true;
    return false;
}

err_t plan_lanes(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                 struct plan *out, int32_t *n_lane, struct err_text *why)
{
    struct plan_ask any = *ask;
    struct plan_search *s = NULL;
    int32_t lane[CLUSTER_DEVICES_MAX], at[CLUSTER_DEVICES_MAX], n = 0;
    struct cluster *some = malloc(sizeof *some);
    any.goal = PLAN_THROUGHPUT;
    any.n_stage_min = any.n_stage_max = 0;
    err_t e = some ? OK : err_say(why, ERR_MEMORY, "no memory for planning");
    if (!e) e = plan_check(m, c, &any, why);
    if (!e && (e = plan_search_open(m, c, &any, &s))) err_say(why, e, "no memory for planning");
    const int32_t n_set = e ? 0 : plan_search_lanes(s, lane);
    for (int32_t i = 0; i < n_set; i++) {
        if (!has_devices(c, lane, i)) continue;
        part_of(c, lane, i, some, at);
        if (plan_make(m, some, &any, &out[n], why)) continue; // devices that are of no use
        number_devices(&out[n++], at);
    }
    if (!e && n == 0) e = plan_say_none(m, c, &any, why);
    if (!e) *n_lane = n;
    if (s) plan_search_close(s);
    free(some);
    return e;
}
