#include "deploy/here.h"

#include "kernels/kernels.h"
#include "topology/probe.h"

#include <stdio.h>
#include <stdlib.h>

enum { MEASURE_MS = 400 };

err_t here_cluster(struct cluster **out, struct err_text *why)
{
    struct probe p;
    struct kernels_peaks peaks;
    err_t err = probe_read(&p, why);
    if (!err && kernels_measure_peaks(p.n_usable, MEASURE_MS, &peaks))
        err = err_say(why, ERR_SYSTEM, "cannot measure this machine's bandwidth and peaks");
    struct cluster *c = err ? NULL : calloc(1, sizeof *c);
    if (!err && !c) err = err_say(why, ERR_MEMORY, "out of memory");
    if (err) return err;
    c->n_device = 1;
    struct cluster_device *d = &c->devices[0];
    *d = (struct cluster_device){
        .kind = CLUSTER_CPU,
        .threads = p.n_usable,
        .mem_bytes = p.mem_total_bytes,
        .mem_free_bytes = p.mem_available_bytes,
        .read_bytes_per_s = peaks.read_bytes_per_s,
        .int8_ops_per_s = peaks.int8_ops_per_s,
        .f32_flops_per_s = peaks.f32_flops_per_s,
    };
    snprintf(d->name, sizeof d->name, "this-machine");
    snprintf(d->host, sizeof d->host, "%s", p.host[0] ? p.host : "localhost");
    *out = c;
    return OK;
}
