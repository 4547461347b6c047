#include "topology/crowd.h"

#include <math.h>
#include <string.h>

// All that the CPU devices of a host have together.
struct host {
    double threads; // of those that compute at once, on average
    double cores, read_bytes_per_s;
};

static struct host host_of(const struct cluster *c, const struct cluster_device *d, int32_t n_busy)
{
    struct host h = {0};
    int32_t n = 0;
    for (int32_t i = 0; i < c->n_device; i++) {
        const struct cluster_device *o = &c->devices[i];
        if (o->kind != CLUSTER_CPU || strcmp(o->host, d->host)) continue;
        n++;
        h.threads += o->threads;
        // Nobody computes with more threads than it may use processors at once.
        if (o->host_cores > 0) h.cores = fmax(h.cores, fmax(o->host_cores, o->threads));
        h.read_bytes_per_s = fmax(h.read_bytes_per_s, o->host_read_bytes_per_s);
        // One that reads more by itself shows that there is more.
        if (h.read_bytes_per_s > 0)
            h.read_bytes_per_s =
                fmax(h.read_bytes_per_s, fmax(o->read_bytes_per_s, rates_read_bytes(&o->rates)));
    }
    if (n_busy > 0 && n_busy < n) h.threads *= (double)n_busy / n;
    return h;
}

static void slow_down(const struct host *h, struct cluster_device *d)
{
    const double part = h->cores > 0 && h->threads > h->cores ? h->cores / h->threads : 1;
    d->int8_ops_per_s *= part;
    d->f32_flops_per_s *= part;
    d->read_bytes_per_s *= part;
    rates_scale(&d->rates, part);
    if (!(h->read_bytes_per_s > 0) || h->threads <= d->threads) return; // nobody else reads
    const double share = h->read_bytes_per_s * d->threads / h->threads;
    d->read_bytes_per_s = fmin(d->read_bytes_per_s, share);
    rates_bound(&d->rates, share);
}

void crowd_apply(struct cluster *c, int32_t n_busy)
{
    struct host hosts[CLUSTER_DEVICES_MAX];
    for (int32_t i = 0; i < c->n_device; i++)
        hosts[i] = host_of(c, &c->devices[i], n_busy);
    for (int32_t i = 0; i < c->n_device; i++)
        if (c->devices[i].kind == CLUSTER_CPU && c->devices[i].threads > 0)
            slow_down(&hosts[i], &c->devices[i]);
}
