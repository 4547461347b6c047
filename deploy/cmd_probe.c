// trireme probe: what this machine is and what it can do, for people, as JSON, and as a cluster
// file that `trireme plan --cluster` reads.
#include "deploy/cmd.h"
#include "deploy/here.h"
#include "deploy/opts.h"
#include "proto/base/buf.h"
#include "topology/probe_disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DISK_MS = 500 };

struct look {
    struct here here;
    struct probe_disk disk;
    bool has_disk;
};

static double gib(uint64_t bytes)
{
    return (double)bytes / (1 << 30);
}

static const char *s_of(int32_t n)
{
    return n == 1 ? "" : "s";
}

// ---- for people

static void text_size(struct buf *b, const char *name, uint64_t bytes)
{
    if (bytes == 0)
        buf_printf(b, "%s unknown", name);
    else if (bytes < 1 << 20)
        buf_printf(b, "%s %llu KiB", name, (unsigned long long)bytes >> 10);
    else
        buf_printf(b, "%s %.4g MiB", name, (double)bytes / (1 << 20));
}

static void text_cpu(const struct here *h, struct buf *b)
{
    const struct probe *p = &h->probe;
    buf_printf(b, "%s\n  cpu       %s, %s\n", p->host, p->cpu, p->arch);
    buf_printf(b, "            %d package%s, %d core%s, %d thread%s (%d usable), %d NUMA node%s\n",
               p->n_package, s_of(p->n_package), p->n_core, s_of(p->n_core), p->n_thread,
               s_of(p->n_thread), p->n_usable, p->n_numa, s_of(p->n_numa));
    buf_str(b, "            caches: ");
    text_size(b, "L1d", p->l1d_bytes);
    text_size(b, " and L2", p->l2_bytes);
    text_size(b, " of a core, L3", p->l3_bytes);
    buf_printf(b, "\n            %s; kernels: %s\n", p->isa, h->isa);
    buf_printf(b, "  memory    %.1f GiB, %.1f GiB available%s\n", gib(p->mem_total_bytes),
               gib(p->mem_available_bytes), p->is_limited ? " within a control group's limit" : "");
    const struct measure *m = &h->measure;
    char when[40] = "now";
    time_t t = (time_t)m->unix_s;
    struct tm tm;
    if (m->is_kept && gmtime_r(&t, &tm)) strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", &tm);
    buf_printf(b,
               "  measured  reads %.1f GB/s, int8 %.0f GOP/s, f32 %.0f GFLOP/s with %d thread%s "
               "(%s%s)\n",
               m->peaks.read_bytes_per_s * 1e-9, m->peaks.int8_ops_per_s * 1e-9,
               m->peaks.f32_flops_per_s * 1e-9, p->n_usable, s_of(p->n_usable), when,
               m->is_kept ? "; --refresh measures again" : "");
}

static void text_gpu(const struct gpu *g, int32_t i, struct buf *b)
{
    buf_printf(b, "  gpu %d     %s, compute capability %d.%d, ", i, g->name, g->cc_major,
               g->cc_minor);
    if (g->unified)
        buf_str(b, "shares the memory of the CPU\n");
    else
        buf_printf(b, "%.1f GiB, %.1f GiB free\n", gib(g->mem_bytes), gib(g->mem_free_bytes));
    buf_printf(b, "            %s", g->bus);
    if (g->pcie_lanes) buf_printf(b, ", PCIe %u.0 x%u", g->pcie_gen, g->pcie_lanes);
    if (g->n_nvlink)
        buf_printf(b, ", %u NVLink%s of %.1f GB/s", g->n_nvlink, s_of((int32_t)g->n_nvlink),
                   g->nvlink_mbyte_s * 1e-3);
    buf_printf(b,
               "\n            by its widths and clocks: reads %.0f GB/s, int8 %.0f TOP/s, "
               "f32 %.1f TFLOP/s\n",
               g->read_bytes_per_s * 1e-9, g->int8_ops_per_s * 1e-12, g->f32_flops_per_s * 1e-12);
}

static void text_gpus(const struct gpus *g, struct buf *b)
{
    if (g->n == 0) {
        buf_printf(b, "  gpu       %s\n", g->none);
        return;
    }
    for (int32_t i = 0; i < g->n; i++)
        text_gpu(&g->at[i], i, b);
    for (int32_t i = 0; i < g->n; i++)
        for (int32_t k = i + 1; k < g->n; k++)
            buf_printf(b, "            gpu %d to gpu %d: %s, %.1f GB/s each way\n", i, k,
                       gpus_path_name(g->paths[i][k]), g->path_bytes_per_s[i][k] * 1e-9);
    buf_printf(b, "            driver %s\n", g->driver);
}

static void text_disk(const struct probe_disk *d, struct buf *b)
{
    buf_printf(b, "  disk      %s (%s) on %s, %.1f GiB free of %.1f GiB\n", d->source, d->type,
               d->mount, gib(d->free_bytes), gib(d->bytes));
    buf_printf(b, "            %s: reads %.2f GB/s (%.0f MiB%s)\n", d->file,
               d->read_bytes_per_s * 1e-9, (double)d->read_bytes / (1 << 20),
               d->is_direct ? ", past the page cache" : ", through the page cache");
}

// ---- as JSON

static void json_str(struct buf *b, const char *key, const char *value)
{
    buf_printf(b, "\"%s\":", key);
    buf_json_str(b, value, strlen(value));
    buf_char(b, ',');
}

static void json_num(struct buf *b, const char *key, double value)
{
    buf_printf(b, "\"%s\":", key);
    buf_json_num(b, value);
    buf_char(b, ',');
}

static void json_bool(struct buf *b, const char *key, bool value)
{
    buf_printf(b, "\"%s\":%s,", key, value ? "true" : "false");
}

// The last entry's comma gives way to what closes the list.
static void json_end(struct buf *b, char bracket)
{
    if (b->len && b->data[b->len - 1] == ',') b->data[--b->len] = 0;
    buf_char(b, bracket);
}

static void json_cpu(const struct here *h, struct buf *b)
{
    const struct probe *p = &h->probe;
    json_str(b, "host", p->host);
    buf_str(b, "\"cpu\":{");
    json_str(b, "name", p->cpu);
    json_str(b, "arch", p->arch);
    json_str(b, "isa", p->isa);
    json_str(b, "kernels", h->isa);
    json_num(b, "n_package", p->n_package);
    json_num(b, "n_core", p->n_core);
    json_num(b, "n_thread", p->n_thread);
    json_num(b, "n_usable", p->n_usable);
    json_num(b, "n_numa", p->n_numa);
    json_num(b, "l1d_bytes", (double)p->l1d_bytes);
    json_num(b, "l2_bytes", (double)p->l2_bytes);
    json_num(b, "l3_bytes", (double)p->l3_bytes);
    json_end(b, '}');
    buf_str(b, ",\"mem\":{");
    json_num(b, "total_bytes", (double)p->mem_total_bytes);
    json_num(b, "available_bytes", (double)p->mem_available_bytes);
    json_bool(b, "is_limited", p->is_limited);
    json_end(b, '}');
    buf_str(b, ",\"measured\":{");
    json_num(b, "read_bytes_per_s", h->measure.peaks.read_bytes_per_s);
    json_num(b, "int8_ops_per_s", h->measure.peaks.int8_ops_per_s);
    json_num(b, "f32_flops_per_s", h->measure.peaks.f32_flops_per_s);
    json_num(b, "threads", p->n_usable);
    json_num(b, "unix_s", (double)h->measure.unix_s);
    json_bool(b, "is_kept", h->measure.is_kept);
    json_end(b, '}');
}

static void json_gpu(const struct gpu *g, struct buf *b)
{
    buf_char(b, '{');
    json_str(b, "name", g->name);
    json_str(b, "bus", g->bus);
    json_bool(b, "unified", g->unified);
    json_num(b, "mem_bytes", (double)g->mem_bytes);
    json_num(b, "mem_free_bytes", (double)g->mem_free_bytes);
    buf_printf(b, "\"compute_capability\":\"%d.%d\",", g->cc_major, g->cc_minor);
    json_num(b, "pcie_gen", g->pcie_gen);
    json_num(b, "pcie_lanes", g->pcie_lanes);
    json_num(b, "n_nvlink", g->n_nvlink);
    json_num(b, "nvlink_bytes_per_s", g->nvlink_mbyte_s * 1e6);
    json_num(b, "derived_read_bytes_per_s", g->read_bytes_per_s);
    json_num(b, "derived_int8_ops_per_s", g->int8_ops_per_s);
    json_num(b, "derived_f32_flops_per_s", g->f32_flops_per_s);
    json_end(b, '}');
    buf_char(b, ',');
}

static void json_gpus(const struct gpus *g, struct buf *b)
{
    buf_str(b, ",\"gpus\":[");
    for (int32_t i = 0; i < g->n; i++)
        json_gpu(&g->at[i], b);
    json_end(b, ']');
    buf_str(b, ",\"gpu_links\":[");
    for (int32_t i = 0; i < g->n; i++) {
        for (int32_t k = 0; k < g->n; k++) {
            if (i == k) continue;
            buf_printf(b, "{\"from\":%d,\"to\":%d,", i, k);
            json_str(b, "path", gpus_path_name(g->paths[i][k]));
            json_num(b, "derived_bytes_per_s", g->path_bytes_per_s[i][k]);
            json_end(b, '}');
            buf_char(b, ',');
        }
    }
    json_end(b, ']');
    buf_char(b, ',');
    json_str(b, g->n ? "driver" : "no_gpu", g->n ? g->driver : g->none);
}

static void json_disk(const struct probe_disk *d, struct buf *b)
{
    buf_str(b, "\"disk\":{");
    json_str(b, "file", d->file);
    json_str(b, "mount", d->mount);
    json_str(b, "source", d->source);
    json_str(b, "type", d->type);
    json_num(b, "bytes", (double)d->bytes);
    json_num(b, "free_bytes", (double)d->free_bytes);
    json_num(b, "read_bytes_per_s", d->read_bytes_per_s);
    json_num(b, "read_bytes", (double)d->read_bytes);
    json_bool(b, "is_direct", d->is_direct);
    json_end(b, '}');
    buf_char(b, ',');
}

// ---- the command

static err_t save(const struct here *h, const char *path, struct err_text *why)
{
    struct cluster *c;
    err_t e = here_cluster_of(h, true, &c, why);
    if (e) return e;
    e = cluster_save(c,
                     h->gpus.n ? "This machine, as `trireme probe` found it. The CPU's figures are "
                                 "measured; those of\nGPUs follow from their widths and clocks, "
                                 "those of links from data sheets: real ones are lower."
                               : "This machine, as `trireme probe` measured it.",
                     path, why);
    free(c);
    return e;
}

static void print(const struct look *l, bool json)
{
    struct buf b = {0};
    if (json) {
        buf_char(&b, '{');
        json_cpu(&l->here, &b);
        json_gpus(&l->here.gpus, &b);
        if (l->has_disk) json_disk(&l->disk, &b);
        json_end(&b, '}');
        buf_char(&b, '\n');
    } else {
        text_cpu(&l->here, &b);
        text_gpus(&l->here.gpus, &b);
        if (l->has_disk) text_disk(&l->disk, &b);
    }
    if (b.data) fputs(b.data, stdout);
    buf_fini(&b);
}

int cmd_probe(int argc, char **argv)
{
    const char *args[1] = {NULL}, *save_path = NULL;
    bool json = false, refresh = false;
    const struct opt opts[] = {
        {"json", OPT_FLAG, &json, NULL, "print JSON", 0, 0},
        {"save", OPT_STR, &save_path, "FILE", "write a cluster file of this machine", 0, 0},
        {"refresh", OPT_FLAG, &refresh, NULL, "measure again what was measured before", 0, 0},
        {0},
    };
    const struct opt_spec spec = {
        "probe [MODEL] [options]",
        "Shows what this machine is and can do; with MODEL also the disk it lies on.", opts, 0, 1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code >= 0) return code;
    struct err_text why = {0};
    struct look *l = calloc(1, sizeof *l);
    err_t e = l ? OK : err_say(&why, ERR_MEMORY, "out of memory");
    if (!e && args[0]) {
        e = probe_disk_read(args[0], DISK_MS, &l->disk, &why);
        l->has_disk = true;
    }
    if (!e) e = here_look(refresh, &l->here, &why);
    if (!e) print(l, json);
    if (!e && save_path) e = save(&l->here, save_path, &why);
    free(l);
    return e ? cmd_fail(e, &why) : 0;
}
