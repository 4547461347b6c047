#include "deploy/pairs.h"

#include "deploy/said.h"
#include "topology/cluster.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- drawing

static bool is_return(const struct json *a, const struct json *b)
{
    return strcmp(said_str(a, "from"), said_str(b, "to")) == 0 &&
           strcmp(said_str(a, "to"), said_str(b, "from")) == 0;
}

// One line holds for both ways when the way back says the same.
static bool is_said(const struct json *pairs, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (is_return(&pairs[k], &pairs[i]) &&
            strcmp(said_str(&pairs[k], "state"), said_str(&pairs[i], "state")) == 0 &&
            said_num(&pairs[k], "latency_us") == said_num(&pairs[i], "latency_us") &&
            said_num(&pairs[k], "bytes_per_s") == said_num(&pairs[i], "bytes_per_s"))
            return true;
    return false;
}

void pairs_draw(const struct json *cluster)
{
    const struct json *pairs;
    const size_t n = said_items(cluster, "pairs", &pairs);
    if (n) printf("\npairs of workers\n");
    for (size_t i = 0; i < n; i++) {
        const struct json *p = &pairs[i];
        if (is_said(pairs, i)) continue;
        printf("  %-14s -> %-14s %-12s", said_str(p, "from"), said_str(p, "to"),
               said_str(p, "state"));
        if (said_num(p, "bytes_per_s") > 0)
            printf(" %-8s %8.1f us %8.2f GB/s", said_str(p, "transport"), said_num(p, "latency_us"),
                   said_num(p, "bytes_per_s") * 1e-9);
        printf("%s%s\n", *said_str(p, "why") ? " " : "", said_str(p, "why"));
    }
}

// ---- saving

// What a cluster file allows in names.
static void clean(char *out, size_t size, const char *name)
{
    snprintf(out, size, "%.*s", (int)size - 1, *name ? name : "unnamed");
    for (char *p = out; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._:-", *p)) *p = '-';
}

// Names of a cluster file are shorter than those of workers; the number keeps them apart.
static void name_device(char out[32], const struct json *worker)
{
    const char *name = said_str(worker, "name");
    char cut[32];
    clean(cut, strlen(name) < sizeof cut ? sizeof cut : 24, name);
    if (strlen(name) < sizeof cut)
        snprintf(out, 32, "%s", cut);
    else
        snprintf(out, 32, "%.23s-%.0f", cut, said_num(worker, "number"));
}

static void take_worker(const struct json *w, struct cluster_device *d)
{
    const struct json *device = json_get(w, "device"), *mem = json_get(w, "mem");
    const bool is_cuda = json_is(json_get(device, "kind"), "cuda");
    *d = (struct cluster_device){
        .kind = is_cuda ? CLUSTER_CUDA : CLUSTER_CPU,
        .threads = is_cuda ? 0 : (int32_t)said_num(device, "threads"),
        .mem_bytes = (uint64_t)said_num(mem, "total_bytes"),
        .mem_free_bytes = (uint64_t)said_num(mem, "usable_bytes"),
        .unified = said_flag(device, "unified"),
        .read_bytes_per_s = said_num(device, "read_bytes_per_s"),
        .int8_ops_per_s = said_num(device, "int8_ops_per_s"),
        .f32_flops_per_s = said_num(device, "f32_flops_per_s"),
        .host_cores = is_cuda ? 0 : said_num(device, "n_core"),
        .host_read_bytes_per_s = is_cuda ? 0 : said_num(device, "host_read_bytes_per_s"),
    };
    name_device(d->name, w);
    clean(d->host, sizeof d->host, said_str(w, "host"));
}

static const struct json *find_pair(const struct json *cluster, const char *from, const char *to)
{
    const struct json *pairs;
    const size_t n = said_items(cluster, "pairs", &pairs);
    for (size_t i = 0; i < n; i++)
        if (strcmp(said_str(&pairs[i], "from"), from) == 0 &&
            strcmp(said_str(&pairs[i], "to"), to) == 0)
            return &pairs[i];
    return NULL;
}

static struct cluster_link take_link(const struct json *pair, bool is_one_host)
{
    if (said_num(pair, "bytes_per_s") > 0)
        return (struct cluster_link){said_num(pair, "latency_us"), said_num(pair, "bytes_per_s")};
    const bool is_broken = json_is(json_get(pair, "state"), "broken");
    return is_one_host && !is_broken ? cluster_same_host : (struct cluster_link){0, 0};
}

// Each worker of a host claims all that is free there; in a file devices have parts of their own.
static void share_memory(struct cluster *c)
{
    for (int32_t i = 0; i < c->n_device; i++) {
        uint64_t n = 0;
        for (int32_t k = 0; k < c->n_device; k++)
            n += c->devices[k].kind == CLUSTER_CPU &&
                 strcmp(c->devices[k].host, c->devices[i].host) == 0;
        if (c->devices[i].kind == CLUSTER_CPU) c->devices[i].mem_free_bytes /= n;
    }
}

static err_t take_cluster(const struct json *j, struct cluster *c, struct err_text *why)
{
    const struct json *workers;
    const size_t n = said_items(j, "workers", &workers);
    if (n == 0) return err_say(why, ERR_CAPACITY, "no worker is connected");
    c->n_device = n < CLUSTER_DEVICES_MAX ? (int32_t)n : CLUSTER_DEVICES_MAX;
    for (int32_t i = 0; i < c->n_device; i++)
        take_worker(&workers[i], &c->devices[i]);
    share_memory(c);
    for (int32_t i = 0; i < c->n_device; i++) {
        for (int32_t k = 0; k < c->n_device; k++) {
            if (i == k) continue;
            const struct json *p =
                find_pair(j, said_str(&workers[i], "name"), said_str(&workers[k], "name"));
            c->links[i][k] = take_link(p, strcmp(c->devices[i].host, c->devices[k].host) == 0);
        }
    }
    return OK;
}

err_t pairs_save(const struct json *cluster, const char *path, struct err_text *why)
{
    struct cluster *c = calloc(1, sizeof *c);
    if (!c) return err_say(why, ERR_MEMORY, "out of memory");
    err_t e = take_cluster(cluster, c, why);
    if (!e)
        e = cluster_save(c,
                         "The workers of a running cluster, as they measured themselves and their "
                         "links.\nThose of one host have equal parts of its memory.",
                         path, why);
    free(c);
    return e;
}
