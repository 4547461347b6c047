#include "worker/profile.h"

#include <stdlib.h>

enum { LINE_OPS = 5 };

struct sorted {
    struct kernels_profile_op ops[KERNELS_PROFILE_OPS];
    int32_t n;
    uint64_t ns; // of all
};

static int dearer(const void *a, const void *b)
{
    const struct kernels_profile_op *x = a, *y = b;
    return x->ns < y->ns ? 1 : x->ns > y->ns ? -1 : 0;
}

static struct sorted sort(const struct kernels_profile *p)
{
    struct sorted s = {0};
    for (int32_t i = 0; i < p->n_op; i++) {
        s.ns += p->ops[i].ns;
        if (p->ops[i].n) s.ops[s.n++] = p->ops[i];
    }
    qsort(s.ops, (size_t)s.n, sizeof *s.ops, dearer);
    return s;
}

static double percent(uint64_t part, uint64_t all)
{
    return all ? 100 * (double)part / (double)all : 0;
}

// Of a step, what no operation took: the stage's own code, and waiting for a group.
static uint64_t beside_us(const struct sorted *s, const struct profile_times *t)
{
    const uint64_t known = s->ns / 1000 + t->exchange_us;
    return t->busy_us > known ? t->busy_us - known : 0;
}

void profile_table(const struct kernels_profile *p, const struct profile_times *t, struct buf *out)
{
    const struct sorted s = sort(p);
    const double steps = p->n_step ? (double)p->n_step : 1, us = 1e-3 / steps;
    buf_printf(out, "%-16s %14s %12s %8s\n", "operation", "calls a step", "us a step", "share");
    for (int32_t i = 0; i < s.n; i++)
        buf_printf(out, "%-16s %14.1f %12.1f %7.1f%%\n", s.ops[i].name, (double)s.ops[i].n / steps,
                   (double)s.ops[i].ns * us, percent(s.ops[i].ns / 1000, t->busy_us));
    if (t->exchange_us)
        buf_printf(out, "%-16s %14s %12.1f %7.1f%%\n", "the group", "",
                   (double)t->exchange_us / steps, percent(t->exchange_us, t->busy_us));
    buf_printf(out, "%-16s %14s %12.1f %7.1f%%\n", "beside them", "",
               (double)beside_us(&s, t) / steps, percent(beside_us(&s, t), t->busy_us));
    buf_printf(out, "%-16s %14s %12.1f %7.1f%%\n", "a step", "", (double)t->busy_us / steps, 100.0);
    buf_printf(out,
               "%-16s %14s %12.1f %7.1f%%  (threads that wait for each other; part of the above)\n",
               "barriers", "", (double)p->wait_ns * us, percent(p->wait_ns / 1000, t->busy_us));
}

void profile_line(const struct kernels_profile *p, const struct profile_times *t, struct buf *out)
{
    const struct sorted s = sort(p);
    buf_printf(out, "%llu steps in %.1f s; steps %.1f %% of the time (",
               (unsigned long long)p->n_step, (double)t->all_us * 1e-6,
               percent(t->busy_us, t->all_us));
    for (int32_t i = 0; i < s.n && i < LINE_OPS; i++)
        buf_printf(out, "%s %.1f, ", s.ops[i].name, percent(s.ops[i].ns / 1000, t->all_us));
    buf_printf(
        out, "the group %.1f, beside %.1f; barriers %.1f of it), waiting for other stages %.1f %%",
        percent(t->exchange_us, t->all_us), percent(beside_us(&s, t), t->all_us),
        percent(p->wait_ns / 1000, t->all_us), percent(t->wait_us, t->all_us));
}
