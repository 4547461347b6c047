#include "topology/gpus.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// ---- the library's words

typedef int nvml_t; // what every function returns
enum {
    NVML_OK = 0,
    NVML_NOT_SUPPORTED = 3,
    NVML_DRIVER_NOT_LOADED = 9,
    NVML_CLOCK_SM = 1,
    NVML_CLOCK_MEM = 2,
    NVML_LINKS_MAX = 18,
    NVML_REMOTE_GPU = 0,
    NVML_REMOTE_SWITCH = 2,
    NVML_FIELD_NVLINK_SPEED = 90, // megabytes per second of one active link
    NVML_VALUE_U32 = 1,
};

typedef struct nvml_device *nvml_device;

struct nvml_memory {
    unsigned long long total, free, used;
};
struct nvml_pci {
    char bus_legacy[16];
    unsigned domain, bus, device, pci_device, pci_subsystem;
    char bus_id[32];
};
struct nvml_field {
    unsigned id, scope;
    long long timestamp, latency_us;
    int type;
    nvml_t code;
    union {
        double d;
        unsigned u32;
        unsigned long long u64;
    } value;
};

// The entry points. Those of newer drivers may be missing: NULL.
struct nvml {
    void *library;
    nvml_t (*init)(void);
    nvml_t (*shutdown)(void);
    const char *(*error)(nvml_t code);
    nvml_t (*driver)(char *out, unsigned size);
    nvml_t (*count)(unsigned *out);
    nvml_t (*device)(unsigned index, nvml_device *out);
    nvml_t (*name)(nvml_device d, char *out, unsigned size);
    nvml_t (*memory)(nvml_device d, struct nvml_memory *out);
    nvml_t (*capability)(nvml_device d, int *major, int *minor);
    nvml_t (*pci)(nvml_device d, struct nvml_pci *out);
    // From here on optional.
    nvml_t (*pcie_gen)(nvml_device d, unsigned *out);
    nvml_t (*pcie_lanes)(nvml_device d, unsigned *out);
    nvml_t (*cores)(nvml_device d, unsigned *out);
    nvml_t (*bus_width)(nvml_device d, unsigned *out);
    nvml_t (*clock)(nvml_device d, int which, unsigned *mhz);
    nvml_t (*ancestor)(nvml_device a, nvml_device b, int *level);
    nvml_t (*link_state)(nvml_device d, unsigned link, int *is_active);
    nvml_t (*link_remote)(nvml_device d, unsigned link, int *kind);
    nvml_t (*link_pci)(nvml_device d, unsigned link, struct nvml_pci *out);
    nvml_t (*fields)(nvml_device d, int n, struct nvml_field *fields);
};

static const struct {
    const char *name;
    size_t at;
    bool needed;
} ENTRIES[] = {
    {"nvmlInit_v2", offsetof(struct nvml, init), true},
    {"nvmlShutdown", offsetof(struct nvml, shutdown), true},
    {"nvmlErrorString", offsetof(struct nvml, error), true},
    {"nvmlSystemGetDriverVersion", offsetof(struct nvml, driver), true},
    {"nvmlDeviceGetCount_v2", offsetof(struct nvml, count), true},
    {"nvmlDeviceGetHandleByIndex_v2", offsetof(struct nvml, device), true},
    {"nvmlDeviceGetName", offsetof(struct nvml, name), true},
    {"nvmlDeviceGetMemoryInfo", offsetof(struct nvml, memory), true},
    {"nvmlDeviceGetCudaComputeCapability", offsetof(struct nvml, capability), true},
    {"nvmlDeviceGetPciInfo_v3", offsetof(struct nvml, pci), true},
    {"nvmlDeviceGetMaxPcieLinkGeneration", offsetof(struct nvml, pcie_gen), false},
    {"nvmlDeviceGetMaxPcieLinkWidth", offsetof(struct nvml, pcie_lanes), false},
    {"nvmlDeviceGetNumGpuCores", offsetof(struct nvml, cores), false},
    {"nvmlDeviceGetMemoryBusWidth", offsetof(struct nvml, bus_width), false},
    {"nvmlDeviceGetMaxClockInfo", offsetof(struct nvml, clock), false},
    {"nvmlDeviceGetTopologyCommonAncestor", offsetof(struct nvml, ancestor), false},
    {"nvmlDeviceGetNvLinkState", offsetof(struct nvml, link_state), false},
    {"nvmlDeviceGetNvLinkRemoteDeviceType", offsetof(struct nvml, link_remote), false},
    {"nvmlDeviceGetNvLinkRemotePciInfo_v2", offsetof(struct nvml, link_pci), false},
    {"nvmlDeviceGetFieldValues", offsetof(struct nvml, fields), false},
};

static err_t find_entries(struct nvml *n, const char *library, struct err_text *why)
{
    for (size_t i = 0; i < sizeof ENTRIES / sizeof *ENTRIES; i++) {
        void *entry = dlsym(n->library, ENTRIES[i].name);
        if (!entry && ENTRIES[i].needed)
            return err_say(why, ERR_DEVICE, "%s: has no %s", library, ENTRIES[i].name);
        memcpy((char *)n + ENTRIES[i].at, &entry, sizeof entry);
    }
    return OK;
}

// ---- what is known of GPUs beyond what the library tells

// By name: machines whose CPU and GPU share one memory. Their drivers say "not supported" when
// asked for the GPU's own; a card whose driver says so for another reason is not taken for one of
// them. GB10's memory is not told either: LPDDR5X, 256 bits at 8533 MT/s.
static const struct {
    const char *name;
    double read_bytes_per_s;
} SHARERS[] = {{"GB10", 273e9}, {"Thor", 273e9}, {"Orin", 204.8e9}, {"Tegra", 0}};

// int8 operations of the tensor cores, dense, for each f32 operation of the other cores at the same
// clock: follows from data sheets.
static const struct {
    int32_t major, minor;
    double ratio;
} INT8_RATIOS[] = {{7, 5, 16}, {8, 0, 32}, {9, 0, 32}, {10, 0, 32}};
static const double INT8_RATIO = 8; // of all others since 7.5

static void derive(struct gpu *g)
{
    g->read_bytes_per_s = 2.0 * g->mem_mhz * 1e6 * g->bus_bits / 8; // two transfers a clock
    for (size_t i = 0; g->unified && i < sizeof SHARERS / sizeof *SHARERS; i++)
        if (strstr(g->name, SHARERS[i].name) && SHARERS[i].read_bytes_per_s > 0)
            g->read_bytes_per_s = SHARERS[i].read_bytes_per_s;
    g->f32_flops_per_s = 2.0 * g->n_core * g->core_mhz * 1e6;
    double ratio = g->cc_major * 10 + g->cc_minor >= 75 ? INT8_RATIO : 0;
    for (size_t i = 0; i < sizeof INT8_RATIOS / sizeof *INT8_RATIOS; i++)
        if (INT8_RATIOS[i].major == g->cc_major && INT8_RATIOS[i].minor == g->cc_minor)
            ratio = INT8_RATIOS[i].ratio;
    g->int8_ops_per_s = ratio * g->f32_flops_per_s;
}

double gpus_pcie_bytes_per_s(const struct gpu *g)
{
    static const double LANE[] = {0, 250e6, 500e6, 985e6, 1969e6, 3938e6, 7563e6};
    return g->pcie_gen < sizeof LANE / sizeof *LANE ? LANE[g->pcie_gen] * g->pcie_lanes : 0;
}

// ---- one GPU

static err_t complain(const struct nvml *n, const char *what, unsigned index, nvml_t code,
                      struct err_text *why)
{
    return err_say(why, ERR_DEVICE, "NVML: %s of GPU %u: %s", what, index, n->error(code));
}

// Text of the library always ends within its field.
static void take_text(char *out, size_t size, const char *text, size_t max)
{
    snprintf(out, size, "%.*s", (int)max, text);
}

static err_t read_memory(const struct nvml *n, nvml_device d, unsigned index, struct gpu *g,
                         struct err_text *why)
{
    struct nvml_memory m = {0};
    nvml_t code = n->memory(d, &m);
    for (size_t i = 0; i < sizeof SHARERS / sizeof *SHARERS; i++)
        g->unified |= strstr(g->name, SHARERS[i].name) != NULL;
    if (g->unified && (code == NVML_NOT_SUPPORTED || code == NVML_OK)) return OK;
    if (code != NVML_OK) return complain(n, "memory", index, code, why);
    if (m.total == 0 || m.free > m.total)
        return err_say(why, ERR_DEVICE, "NVML: GPU %u has %llu bytes free of %llu", index, m.free,
                       m.total);
    g->mem_bytes = m.total;
    g->mem_free_bytes = m.free;
    return OK;
}

static uint32_t ask(nvml_t (*fn)(nvml_device, unsigned *), nvml_device d)
{
    unsigned v = 0;
    return fn && fn(d, &v) == NVML_OK ? v : 0;
}

static uint32_t ask_clock(const struct nvml *n, nvml_device d, int which)
{
    unsigned mhz = 0;
    return n->clock && n->clock(d, which, &mhz) == NVML_OK ? mhz : 0;
}

static void read_nvlink(const struct nvml *n, nvml_device d, struct gpu *g)
{
    int is_active = 0;
    for (unsigned l = 0; n->link_state && l < NVML_LINKS_MAX; l++)
        if (n->link_state(d, l, &is_active) == NVML_OK && is_active) g->n_nvlink++;
    struct nvml_field f = {.id = NVML_FIELD_NVLINK_SPEED};
    if (g->n_nvlink && n->fields && n->fields(d, 1, &f) == NVML_OK && f.code == NVML_OK &&
        f.type == NVML_VALUE_U32)
        g->nvlink_mbyte_s = f.value.u32;
}

static err_t read_gpu(const struct nvml *n, nvml_device d, unsigned index, struct gpu *out,
                      struct err_text *why)
{
    struct gpu g = {0};
    char name[96] = {0};
    struct nvml_pci pci = {0};
    int major = 0, minor = 0;
    nvml_t code = n->name(d, name, sizeof name);
    if (code) return complain(n, "name", index, code, why);
    take_text(g.name, sizeof g.name, name, sizeof name - 1);
    code = n->capability(d, &major, &minor);
    if (code) return complain(n, "compute capability", index, code, why);
    code = n->pci(d, &pci);
    if (code) return complain(n, "PCI address", index, code, why);
    take_text(g.bus, sizeof g.bus, pci.bus_id, sizeof pci.bus_id - 1);
    g.cc_major = major;
    g.cc_minor = minor;
    err_t e = read_memory(n, d, index, &g, why);
    if (e) return e;
    g.pcie_gen = g.unified ? 0 : ask(n->pcie_gen, d);
    g.pcie_lanes = g.unified ? 0 : ask(n->pcie_lanes, d);
    g.n_core = ask(n->cores, d);
    g.bus_bits = ask(n->bus_width, d);
    g.core_mhz = ask_clock(n, d, NVML_CLOCK_SM);
    g.mem_mhz = ask_clock(n, d, NVML_CLOCK_MEM);
    read_nvlink(n, d, &g);
    derive(&g);
    *out = g;
    return OK;
}

// ---- between GPUs

// Links of `a` that end at `b`, or at a switch, which reaches every GPU that has links to it.
static uint32_t count_links(const struct nvml *n, nvml_device a, const struct gpu *b)
{
    uint32_t count = 0;
    for (unsigned l = 0; n->link_state && l < NVML_LINKS_MAX; l++) {
        int is_active = 0, kind = NVML_REMOTE_GPU;
        struct nvml_pci pci = {0};
        if (n->link_state(a, l, &is_active) || !is_active) continue;
        if (n->link_remote && n->link_remote(a, l, &kind)) continue;
        if (kind == NVML_REMOTE_SWITCH)
            count += b->n_nvlink > 0;
        else if (kind == NVML_REMOTE_GPU && n->link_pci && !n->link_pci(a, l, &pci))
            count += strncasecmp(pci.bus_id, b->bus, sizeof pci.bus_id) == 0;
    }
    return count;
}

static enum gpus_path path_of(const struct nvml *n, nvml_device a, nvml_device b)
{
    int level = 0;
    if (!n->ancestor || n->ancestor(a, b, &level)) return GPUS_UNKNOWN;
    // Levels: 0 one board, 10 one switch, 20 several switches, 30 host bridge, 40 node, 50 system.
    return level <= 20 ? GPUS_SWITCH : level <= 40 ? GPUS_BRIDGE : GPUS_SOCKETS;
}

static void read_paths(const struct nvml *n, const nvml_device *devices, struct gpus *g)
{
    for (int32_t i = 0; i < g->n; i++) {
        for (int32_t k = 0; k < g->n; k++) {
            if (i == k) continue;
            const struct gpu *a = &g->at[i], *b = &g->at[k];
            const uint32_t links = count_links(n, devices[i], b);
            g->paths[i][k] = links ? GPUS_NVLINK : path_of(n, devices[i], devices[k]);
            const double x = gpus_pcie_bytes_per_s(a), y = gpus_pcie_bytes_per_s(b);
            g->path_bytes_per_s[i][k] = links ? links * 1e6 * a->nvlink_mbyte_s : x < y ? x : y;
        }
    }
}

// ---- all

static err_t read_all(const struct nvml *n, struct gpus *g, struct err_text *why)
{
    unsigned count = 0;
    nvml_device devices[GPUS_MAX];
    nvml_t code = n->driver(g->driver, sizeof g->driver);
    g->driver[code ? 0 : sizeof g->driver - 1] = 0;
    code = n->count(&count);
    if (code) return err_say(why, ERR_DEVICE, "NVML: cannot count GPUs: %s", n->error(code));
    if (count > GPUS_MAX)
        return err_say(why, ERR_DEVICE, "NVML: %u GPUs, allowed %d", count, GPUS_MAX);
    for (unsigned i = 0; i < count; i++) {
        code = n->device(i, &devices[i]);
        if (code) return complain(n, "handle", i, code, why);
        err_t e = read_gpu(n, devices[i], i, &g->at[i], why);
        if (e) return e;
    }
    g->n = (int32_t)count;
    if (count == 0) snprintf(g->none, sizeof g->none, "the NVIDIA driver knows no GPU");
    read_paths(n, devices, g);
    return OK;
}

static err_t read_library(struct nvml *n, const char *library, struct gpus *g, struct err_text *why)
{
    err_t e = find_entries(n, library, why);
    if (e) return e;
    nvml_t code = n->init();
    if (code == NVML_DRIVER_NOT_LOADED) {
        snprintf(g->none, sizeof g->none, "NVIDIA driver not loaded: no GPU");
        return OK;
    }
    if (code) return err_say(why, ERR_DEVICE, "NVML: cannot start: %s", n->error(code));
    e = read_all(n, g, why);
    n->shutdown();
    return e;
}

err_t gpus_read(const char *library, struct gpus *out, struct err_text *why)
{
    struct nvml n = {0};
    struct gpus *g = calloc(1, sizeof *g);
    if (!g) return err_say(why, ERR_MEMORY, "no memory for the GPUs");
    err_t e = OK;
    if (!library) library = "libnvidia-ml.so.1";
    n.library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (n.library)
        e = read_library(&n, library, g, why);
    else
        snprintf(g->none, sizeof g->none, "no NVIDIA driver: no GPU");
    if (n.library) dlclose(n.library);
    if (!e) *out = *g;
    free(g);
    return e;
}

const char *gpus_path_name(enum gpus_path p)
{
    static const char *const names[] = {"unknown", "NVLink", "PCIe switch", "PCIe host bridge",
                                        "between sockets"};
    return names[p];
}
