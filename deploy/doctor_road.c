// What the doctor says of connections: the data road's transports here, and a server elsewhere.
#include "deploy/doctor.h"

#include "kernels/group.h"
#include "proto/base/json.h"
#include "proto/link/port.h"
#include "proto/wire/wire.h"

#include <stdio.h>
#include <string.h>

// True if a port opens; a port is what a worker opens for each epoch.
static bool opens(const char *transports, const char *devices, struct err_text *why)
{
    const struct port_config c = {.road = ROAD_UCX,
                                  .epoch = 1,
                                  .n_frame = 2,
                                  .max_bytes = 4096,
                                  .transports = transports,
                                  .devices = devices};
    struct port *p;
    const uint8_t *address;
    uint32_t len = 0;
    if (port_open(&c, &p, why) != OK) return false;
    port_address(p, &address, &len);
    port_close(p);
    return len > 0;
}

void doctor_road(const struct doctor_ask *ask, struct doctor *d)
{
    static const struct {
        const char *list, *what;
        enum doctor_level without;
        const char *remedy;
    } ways[] = {
        {"posix", "shared memory (posix)", DOCTOR_WARN,
         "see shm; until then --transports self,tcp"},
        {"tcp", "TCP", DOCTOR_BAD, "--devices names the interfaces that may be trusted"},
        {"rc", "RDMA (rc)", DOCTOR_OK, NULL},
    };
    const char *devices = ask->devices ? ask->devices : "lo";
    struct err_text why = {0};
    const char *all = ask->transports ? ask->transports : "self,posix,tcp";
    if (opens(ask->transports, ask->devices, &why))
        doctor_add(d, "ucx", DOCTOR_OK, NULL, "version %s, opens %s on %s", port_version(), all,
                   devices);
    else
        doctor_add(d, "ucx", DOCTOR_BAD, "--devices and --transports must name what is here",
                   "version %s, %.60s on %.60s: %.100s", port_version(), all, devices, why.s);
    for (size_t i = 0; !ask->transports && i < sizeof ways / sizeof *ways; i++) {
        const bool ok = opens(ways[i].list, ask->devices, &why);
        doctor_add(d, "ucx", ok ? DOCTOR_OK : ways[i].without, ok ? NULL : ways[i].remedy,
                   "%s %s on %s", ways[i].what, ok ? "opens" : "is not there", devices);
    }
}

// From device to device; where that fails the data road is taken, so nothing is bad.
void doctor_groups(struct doctor *d)
{
    struct err_text why = {0};
    int32_t n = 0, version = 0;
    if (kernels_count_cuda(&n, NULL) != OK || !n) return; // said of the machine
    if (kernels_group_nccl(&version, &why) != OK) {
        doctor_add(d, "nccl", DOCTOR_OK, NULL,
                   "%.120s: only peers' memory between GPUs, of one machine (TRIREME_NCCL names "
                   "another file)",
                   why.s);
        return;
    }
    doctor_add(
        d, "nccl", DOCTOR_OK, NULL,
        "version %d.%d.%d; for several workers on one GPU it wants %s, peers' memory nothing",
        version / 10000, version / 100 % 100, version % 100,
        version >= KERNELS_NCCL_SHARES_GPU ? "NCCL_MULTI_RANK_GPU_ENABLE=1"
                                           : "another NCCL_HOSTID for each");
}

// The string under `key` of what the server answers at `path`.
static err_t ask_server(const struct client_config *c, const char *path, const char *key,
                        char out[64], struct err_text *why)
{
    struct buf body = {0};
    struct arena a;
    const struct json *j;
    out[0] = 0;
    err_t err = client_get(c, path, &body, why);
    if (err) return err;
    arena_init(&a, 64 << 10);
    if (json_read(body.data ? body.data : "", body.len, &a, &j, NULL, NULL) == OK) {
        const struct json *v = json_get(j, key);
        if (v && v->kind == J_STR) snprintf(out, 64, "%s", v->str.s);
    }
    arena_fini(&a);
    buf_fini(&body);
    return OK;
}

void doctor_server(const struct doctor_ask *ask, struct doctor *d)
{
    const struct client_config *c = &ask->client;
    char version[64], state[64];
    struct err_text why = {0};
    err_t err = ask_server(c, "/version", "version", version, &why);
    if (err) {
        doctor_add(d, "server", DOCTOR_BAD,
                   err == ERR_LINK ? "is it running, and is the address right?"
                                   : "--api-key-file or TRIREME_API_KEY gives a key",
                   "%.220s", why.s);
        return;
    }
    if (strcmp(version, TRIREME_VERSION) == 0)
        doctor_add(d, "server", DOCTOR_OK, NULL, "%.150s: version %s, as this one", c->url,
                   version);
    else
        doctor_add(d, "server", DOCTOR_WARN, "run the same version everywhere",
                   "%.120s: version %s, and this is %s", c->url, version, TRIREME_VERSION);
    err = ask_server(c, "/readyz", "status", state, &why);
    doctor_add(d, "server", err ? DOCTOR_BAD : DOCTOR_OK,
               err ? "trireme status tells what it waits for" : NULL, "%s%.180s",
               err ? "not ready: " : "ready: ", err ? why.s : state);
}
