#include "coordinator/fleet/muster.h"
#include "proto/base/hex.h"

#include "topology/cluster.h"
#include <stdio.h>
#include <string.h>

// Figures that were not measured are 0 and filled in later (place.c).
static double figure(double v)
{
    return v == 0 ? 1e9 : v;
}

// The rules of cluster files.
static err_t check_device(const char *worker, const struct msg_device *m, struct err_text *why)
{
    const bool is_cpu = strcmp(m->kind, "cpu") == 0;
    if (!is_cpu && strcmp(m->kind, "cuda") != 0)
        return err_say(why, ERR_CONFIG, "its device %s is of kind %s, known are cpu and cuda",
                       m->name, m->kind);
    if (m->mem_free_bytes > m->mem_bytes)
        return err_say(
            why, ERR_CONFIG, "its device %s claims %llu bytes of free memory and has %llu in all",
            m->name, (unsigned long long)m->mem_free_bytes, (unsigned long long)m->mem_bytes);
    struct cluster_device d = {
        .host = "host",
        .kind = is_cpu ? CLUSTER_CPU : CLUSTER_CUDA,
        .threads = m->threads > INT32_MAX ? INT32_MAX
                   : m->threads           ? (int32_t)m->threads
                                          : 1,
        .mem_bytes = m->mem_bytes,
        .mem_free_bytes = m->mem_free_bytes,
        .read_bytes_per_s = figure(m->read_bytes_per_s),
        .int8_ops_per_s = m->int8_ops_per_s,
        .f32_flops_per_s = figure(m->f32_flops_per_s),
        .host_cores = m->n_core,
        .host_read_bytes_per_s = m->host_read_bytes_per_s,
        .rates = m->rates,
    };
    snprintf(d.name, sizeof d.name, "%.31s", worker);
    return cluster_check_device(&d, why);
}

err_t muster_check(const char *peer, const struct msg_hello *h, struct err_text *why)
{
    if (h->version != WIRE_VERSION)
        return err_say(why, ERR_LINK_VERSION, "it speaks protocol %u (%s), we speak %u", h->version,
                       h->build, WIRE_VERSION);
    if (strcmp(h->build, TRIREME_VERSION) != 0)
        return err_say(why, ERR_LINK_VERSION,
                       "it runs trireme %s and we run %s, which may compute other bits", h->build,
                       TRIREME_VERSION);
    if (strcmp(peer, h->name) != 0)
        return err_say(why, ERR_LINK_AUTH, "it calls itself %s, but its link is that of %s",
                       h->name, peer);
    if (h->n_device == 0) return err_say(why, ERR_LINK_PROTOCOL, "it has no device");
    if (h->held_from > h->held_to)
        return err_say(why, ERR_LINK_PROTOCOL, "it holds layers %u to %u", h->held_from,
                       h->held_to);
    for (uint32_t i = 0; i < h->n_device; i++) {
        err_t e = check_device(h->name, &h->devices[i], why);
        if (e) return e;
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(h->devices[k].name, h->devices[i].name) == 0)
                return err_say(why, ERR_CONFIG, "its devices %u and %u are both called %s", k, i,
                               h->devices[i].name);
    }
    return OK;
}

err_t muster_check_name(const struct fleet_worker *owner, const struct msg_hello *h, int64_t now_us,
                        struct err_text *why)
{
    const int64_t age_us = now_us - owner->beat_us;
    if (!owner->tether || owner->hello.instance == h->instance || age_us > MUSTER_ALIVE_US)
        return OK;
    return err_say(
        why, ERR_BUSY,
        "another worker has this name: pid %u on %s, heard %lld ms ago; names must differ",
        owner->hello.pid, owner->hello.host, (long long)(age_us / 1000));
}

enum { HASH_SHOWN = 6 }; // bytes: enough to tell models apart

err_t muster_check_model(const struct msg_hello *h, const struct model *m, bool is_sent,
                         struct err_text *why)
{
    char ours[2 * HASH_SHOWN + 1], theirs[2 * HASH_SHOWN + 1];
    for (uint32_t i = 0; i < h->n_model; i++)
        if (memcmp(h->models[i].hash, m->hash, sizeof m->hash) == 0) return OK;
    if (is_sent && h->store_bytes > 0) return OK;
    const char *rest = !is_sent     ? ", and its files are not sent"
                       : h->n_model ? ", and it has no room for a copy"
                                    : " and no room for a copy";
    hex_write(m->hash, HASH_SHOWN, ours);
    if (!h->n_model)
        return err_say(why, ERR_MODEL, "this model's hash is %s, it has no model%s", ours, rest);
    hex_write(h->models[0].hash, HASH_SHOWN, theirs);
    return err_say(why, ERR_MODEL, "this model's hash is %s, of its %u models %.60s has %s%s", ours,
                   h->n_model, h->models[0].name, theirs, rest);
}
