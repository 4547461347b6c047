#include "deploy/here.h"

#include "deploy/cmd.h"
#include "proto/base/log.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Estimates of what nothing measured: one copy and one launch over PCIe, and of its bytes the share
// that protocol and pinning leave; NVLink by the link's own figures.
static const double PCIE_LATENCY_US = 15, PCIE_SHARE = 0.8, NVLINK_LATENCY_US = 5;
// A GPU keeps memory for itself, and its library takes some before the first weight.
enum { GPU_KEEPS_BYTES = 512 << 20 };

const char *here_dir(void)
{
    static char dir[4200];
    snprintf(dir, sizeof dir, "%s/measured", cmd_state_dir(NULL));
    return dir;
}

// A driver that does not answer is said so; the rest of the machine is there all the same.
static void look_for_gpus(struct gpus *g)
{
    struct err_text said = {0};
    if (gpus_read(NULL, g, &said) == OK) return;
    log_warn("%s", said.s);
    snprintf(g->none, sizeof g->none, "no GPU can be used: %.130s", said.s);
}

err_t here_look(bool refresh, struct here *out, struct err_text *why)
{
    struct here *h = calloc(1, sizeof *h);
    if (!h) return err_say(why, ERR_MEMORY, "out of memory");
    err_t e = probe_read(&h->probe, why);
    if (!e) look_for_gpus(&h->gpus);
    if (!e) e = measure_isa(NULL, h->isa, why);
    const struct measure_ask ask = {
        .dir = here_dir(), .isa = h->isa, .n_threads = h->probe.n_usable, .refresh = refresh};
    if (!e) e = measure_machine(&h->probe, &ask, &h->measure, why);
    if (!e) e = rate_machine(&h->probe, &ask, &h->rates, why);
    if (!e) *out = *h;
    free(h);
    return e;
}

// What a cluster file allows in names.
static void clean_name(char *out, size_t size, const char *host)
{
    snprintf(out, size, "%s", host[0] ? host : "localhost");
    for (char *p = out; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._:-", *p)) *p = '-';
}

static void fill_cpu(const struct here *h, const char *host, struct cluster_device *d)
{
    *d = (struct cluster_device){
        .kind = CLUSTER_CPU,
        .threads = h->probe.n_usable,
        .mem_bytes = h->probe.mem_total_bytes,
        .mem_free_bytes = h->probe.mem_available_bytes,
        .read_bytes_per_s = h->measure.peaks.read_bytes_per_s,
        .int8_ops_per_s = h->measure.peaks.int8_ops_per_s,
        .f32_flops_per_s = h->measure.peaks.f32_flops_per_s,
        .host_cores = h->probe.n_core,
        .host_read_bytes_per_s = h->measure.peaks.read_bytes_per_s,
        .rates = h->rates,
    };
    snprintf(d->name, sizeof d->name, "%.27s-cpu", host);
    snprintf(d->host, sizeof d->host, "%s", host);
}

static void fill_gpu(const struct here *h, const char *host, int32_t i, struct cluster_device *d)
{
    const struct gpu *g = &h->gpus.at[i];
    const uint64_t left = g->unified ? h->probe.mem_available_bytes : g->mem_free_bytes;
    *d = (struct cluster_device){
        .kind = CLUSTER_CUDA,
        .mem_bytes = g->unified ? h->probe.mem_total_bytes : g->mem_bytes,
        .mem_free_bytes = g->unified               ? left
                          : left > GPU_KEEPS_BYTES ? left - GPU_KEEPS_BYTES
                                                   : 1,
        .unified = g->unified,
        .read_bytes_per_s = g->read_bytes_per_s,
        .int8_ops_per_s = g->int8_ops_per_s,
        .f32_flops_per_s = g->f32_flops_per_s,
    };
    snprintf(d->name, sizeof d->name, "%.24s-gpu%d", host, i);
    snprintf(d->host, sizeof d->host, "%s", host);
}

static struct cluster_link gpu_link(const struct gpus *g, int32_t a, int32_t b)
{
    const double rate = g->path_bytes_per_s[a][b];
    if (g->paths[a][b] == GPUS_NVLINK && rate > 0)
        return (struct cluster_link){NVLINK_LATENCY_US, rate};
    // Through the host: crossed twice.
    return rate > 0 ? (struct cluster_link){PCIE_LATENCY_US, rate * PCIE_SHARE / 2}
                    : cluster_same_host;
}

static struct cluster_link host_link(const struct gpu *g)
{
    const double rate = gpus_pcie_bytes_per_s(g);
    return rate > 0 ? (struct cluster_link){PCIE_LATENCY_US, rate * PCIE_SHARE} : cluster_same_host;
}

static void fill_links(const struct gpus *g, int32_t first_gpu, struct cluster *c)
{
    for (int32_t a = 0; a < c->n_device; a++) {
        for (int32_t b = 0; b < c->n_device; b++) {
            const int32_t x = a - first_gpu, y = b - first_gpu;
            if (a == b) continue;
            c->links[a][b] =
                x >= 0 && y >= 0 ? gpu_link(g, x, y) : host_link(&g->at[x >= 0 ? x : y]);
        }
    }
}

err_t here_cluster_of(const struct here *h, bool with_gpus, struct cluster **out,
                      struct err_text *why)
{
    char host[64];
    struct cluster *c = calloc(1, sizeof *c);
    if (!c) return err_say(why, ERR_MEMORY, "out of memory");
    clean_name(host, sizeof host, h->probe.host);
    const int32_t n_gpu = with_gpus ? h->gpus.n : 0;
    bool is_shared = false;
    for (int32_t i = 0; i < n_gpu; i++)
        is_shared |= h->gpus.at[i].unified;
    const int32_t n_cpu = !is_shared;
    if (n_cpu) fill_cpu(h, host, &c->devices[0]);
    for (int32_t i = 0; i < n_gpu; i++)
        fill_gpu(h, host, i, &c->devices[n_cpu + i]);
    c->n_device = n_cpu + n_gpu;
    fill_links(&h->gpus, n_cpu, c);
    err_t e = cluster_check(c, why);
    if (e)
        free(c);
    else
        *out = c;
    return e;
}

err_t here_cluster(struct cluster **out, struct err_text *why)
{
    struct here *h = malloc(sizeof *h);
    err_t e = h ? here_look(false, h, why) : err_say(why, ERR_MEMORY, "out of memory");
    if (!e) e = here_cluster_of(h, false, out, why);
    free(h);
    return e;
}
