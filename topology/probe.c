#include "topology/probe.h"

#include <fcntl.h>
#include <hwloc.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { TEXT_MAX = 64 << 10, PATH_BYTES = 1024 };

// Reads the beginning of a file: proc and cgroup files have no size.
static bool read_text(const char *root, const char *path, char *text, size_t size)
{
    char full[PATH_BYTES];
    if (snprintf(full, sizeof full, "%s%s", root, path) >= (int)sizeof full) return false;
    int fd = open(full, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t at = 0;
    for (ssize_t n; at < size - 1 && (n = read(fd, text + at, size - 1 - at)) > 0;)
        at += (size_t)n;
    close(fd);
    text[at] = 0;
    return at > 0;
}

// The rest of the line that begins with `key`, or NULL.
static const char *line_value(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = text; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (strncmp(p, key, n) == 0) return p + n;
    return NULL;
}

// ---- instruction sets

uint32_t probe_isa_of(const char *cpuinfo)
{
    static const struct {
        const char *word;
        uint32_t bit;
    } words[] = {
        {"avx2", PROBE_AVX2},       {"fma", PROBE_FMA},
        {"f16c", PROBE_F16C},       {"avx_vnni", PROBE_AVX_VNNI},
        {"avx512f", PROBE_AVX512F}, {"avx512bw", PROBE_AVX512BW},
        {"asimd", PROBE_NEON},      {"asimddp", PROBE_DOTPROD},
        {"i8mm", PROBE_I8MM},       {"amx_int8", PROBE_AMX_INT8},
        {"sve", PROBE_SVE},         {"avx512_vnni", PROBE_AVX512_VNNI},
    };
    const char *p = line_value(cpuinfo, "flags"); // x86
    if (!p) p = line_value(cpuinfo, "Features");  // arm
    uint32_t bits = 0;
    while (p && *p && *p != '\n') {
        p += strspn(p, " \t:");
        size_t n = strcspn(p, " \t\n");
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (strlen(words[i].word) == n && memcmp(p, words[i].word, n) == 0)
                bits |= words[i].bit;
        p += n;
    }
    return bits;
}

static void isa_words(uint32_t bits, char *out, size_t size)
{
    static const char *const words[] = {"avx2",    "fma",      "f16c",        "avx_vnni",
                                        "avx512f", "avx512bw", "avx512_vnni", "amx_int8",
                                        "neon",    "dotprod",  "i8mm",        "sve"};
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if ((bits >> i & 1) && at < size)
            at += (size_t)snprintf(out + at, size - at, "%s%s", at ? " " : "", words[i]);
}

// ---- memory and quota

// A control group's file as a number; false if absent or unlimited ("max", or v1's huge default).
static bool group_number(const char *root, const char *dir, const char *file, uint64_t *out)
{
    char path[PATH_BYTES], text[64];
    if (snprintf(path, sizeof path, "%s/%s", dir, file) >= (int)sizeof path) return false;
    if (!read_text(root, path, text, sizeof text) || text[0] < '0' || text[0] > '9') return false;
    *out = strtoull(text, NULL, 10);
    return *out < (uint64_t)1 << 60;
}

// Page cache that the kernel would drop first does not count as used.
static uint64_t group_cache(const char *root, const char *dir, bool v2)
{
    char path[PATH_BYTES], text[TEXT_MAX / 8];
    if (snprintf(path, sizeof path, "%s/memory.stat", dir) >= (int)sizeof path) return 0;
    if (!read_text(root, path, text, sizeof text)) return 0;
    const char *v = line_value(text, v2 ? "inactive_file " : "total_inactive_file ");
    return v ? strtoull(v, NULL, 10) : 0;
}

static void take_memory(const char *root, const char *dir, bool v2, struct probe *p)
{
    uint64_t limit, used = 0;
    if (!group_number(root, dir, v2 ? "memory.max" : "memory.limit_in_bytes", &limit)) return;
    group_number(root, dir, v2 ? "memory.current" : "memory.usage_in_bytes", &used);
    uint64_t cache = group_cache(root, dir, v2);
    used -= cache < used ? cache : used;
    uint64_t left = limit > used ? limit - used : 0;
    if (limit < p->mem_total_bytes) {
        p->mem_total_bytes = limit;
        p->is_limited = true;
    }
    if (left < p->mem_available_bytes) p->mem_available_bytes = left;
}

static void take_quota(const char *root, const char *dir, bool v2, struct probe *p)
{
    uint64_t quota, period = 100000;
    if (v2) {
        char path[PATH_BYTES], text[64], *rest;
        if (snprintf(path, sizeof path, "%s/cpu.max", dir) >= (int)sizeof path) return;
        if (!read_text(root, path, text, sizeof text) || text[0] < '0' || text[0] > '9') return;
        quota = strtoull(text, &rest, 10);
        period = strtoull(rest, NULL, 10);
    } else {
        if (!group_number(root, dir, "cpu.cfs_quota_us", &quota)) return;
        group_number(root, dir, "cpu.cfs_period_us", &period);
    }
    if (quota == 0 || period == 0) return;
    const double part = (double)quota / (double)period;
    if (part > 4096 || (p->quota > 0 && p->quota <= part)) return;
    p->quota = part;
    p->n_usable = (int32_t)ceil(part);
}

// A limit of any group above ours binds us too.
static void walk_groups(const char *root, const char *mount, const char *group, bool v2,
                        void (*take)(const char *, const char *, bool, struct probe *),
                        struct probe *p)
{
    char dir[PATH_BYTES];
    size_t base = strlen(mount);
    if (snprintf(dir, sizeof dir, "%s%s", mount, group) >= (int)sizeof dir) return;
    for (;;) {
        size_t n = strlen(dir);
        while (n > base && dir[n - 1] == '/')
            dir[--n] = 0;
        take(root, dir, v2, p);
        if (n <= base) return;
        *strrchr(dir, '/') = 0; // the mount itself begins with one
    }
}

// Whether the comma-separated list before `end` has the word.
static bool has_word(const char *list, const char *end, const char *word)
{
    size_t n = strlen(word);
    while (list < end) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        const char *stop = comma ? comma : end;
        if ((size_t)(stop - list) == n && memcmp(list, word, n) == 0) return true;
        list = stop + 1;
    }
    return false;
}

// Lines of /proc/self/cgroup are "number:controllers:/group"; v2 has number 0 and no controllers.
static void take_group(const char *root, const char *line, struct probe *p)
{
    char group[PATH_BYTES / 2];
    const char *list = strchr(line, ':'), *end = list ? strchr(list + 1, ':') : NULL;
    if (!end) return;
    snprintf(group, sizeof group, "%.*s", (int)strcspn(end + 1, "\n"), end + 1);
    list++;
    if (list == end) {
        walk_groups(root, "/sys/fs/cgroup", group, true, take_memory, p);
        walk_groups(root, "/sys/fs/cgroup", group, true, take_quota, p);
    }
    if (has_word(list, end, "memory"))
        walk_groups(root, "/sys/fs/cgroup/memory", group, false, take_memory, p);
    if (has_word(list, end, "cpu"))
        walk_groups(root, "/sys/fs/cgroup/cpu", group, false, take_quota, p);
}

err_t probe_limits(const char *root, struct probe *out, struct err_text *why)
{
    char text[TEXT_MAX];
    if (!read_text(root, "/proc/meminfo", text, sizeof text))
        return err_say(why, ERR_SYSTEM, "%s/proc/meminfo: cannot read: %m", root);
    const char *total = line_value(text, "MemTotal:"), *left = line_value(text, "MemAvailable:");
    if (!total || !left)
        return err_say(why, ERR_SYSTEM, "%s/proc/meminfo: has no MemTotal or MemAvailable", root);
    struct probe p = *out;
    p.mem_total_bytes = strtoull(total, NULL, 10) * 1024;
    p.mem_available_bytes = strtoull(left, NULL, 10) * 1024;
    p.is_limited = false;
    p.n_usable = 0;
    p.quota = 0;
    if (read_text(root, "/proc/self/cgroup", text, sizeof text))
        for (const char *l = text; l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
            take_group(root, l, &p);
    *out = p;
    return OK;
}

// ---- the machine

static uint64_t cache_bytes(hwloc_topology_t t, hwloc_obj_type_t type)
{
    hwloc_obj_t o = hwloc_get_obj_by_type(t, type, 0);
    return o && o->attr ? o->attr->cache.size : 0;
}

static int32_t at_least_one(int n)
{
    return n > 0 ? n : 1;
}

static err_t read_hwloc(struct probe *p, struct err_text *why)
{
    hwloc_topology_t t;
    if (hwloc_topology_init(&t)) return err_say(why, ERR_SYSTEM, "hwloc: cannot start");
    if (hwloc_topology_load(t)) {
        hwloc_topology_destroy(t);
        return err_say(why, ERR_SYSTEM, "hwloc: cannot read the topology");
    }
    p->n_thread = at_least_one(hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PU));
    p->n_core = at_least_one(hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE));
    p->n_package = at_least_one(hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PACKAGE));
    p->n_numa = at_least_one(hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE));
    p->l1d_bytes = cache_bytes(t, HWLOC_OBJ_L1CACHE);
    p->l2_bytes = cache_bytes(t, HWLOC_OBJ_L2CACHE);
    p->l3_bytes = cache_bytes(t, HWLOC_OBJ_L3CACHE);
    hwloc_topology_destroy(t);
    return OK;
}

static void read_cpuinfo(struct probe *p)
{
    char text[TEXT_MAX];
    snprintf(p->cpu, sizeof p->cpu, "%s", p->arch);
    if (!read_text("", "/proc/cpuinfo", text, sizeof text)) return;
    p->isa_bits = probe_isa_of(text);
    const char *name = line_value(text, "model name");
    if (!name) return; // ARM kernels give numbers only
    name += strspn(name, " \t:");
    snprintf(p->cpu, sizeof p->cpu, "%.*s", (int)strcspn(name, "\n"), name);
}

// The affinity mask, and the quota (0: none).
static int32_t usable_within(int32_t quota)
{
    cpu_set_t set; // 1024 threads; larger machines fall to the count of the machine
    const int32_t allowed =
        at_least_one(sched_getaffinity(0, sizeof set, &set) ? (int)sysconf(_SC_NPROCESSORS_ONLN)
                                                            : CPU_COUNT(&set));
    return quota > 0 && quota < allowed ? quota : allowed;
}

double probe_part(const struct probe *p, int32_t n_threads)
{
    return p->quota > 0 && p->quota < n_threads ? p->quota / n_threads : 1;
}

int32_t probe_usable(void)
{
    struct probe p = {0};
    return probe_limits("", &p, NULL) ? usable_within(0) : usable_within(p.n_usable);
}

err_t probe_read(struct probe *out, struct err_text *why)
{
    struct probe p = {0};
    struct utsname name;
    if (uname(&name)) return err_say(why, ERR_SYSTEM, "uname: %m");
    snprintf(p.host, sizeof p.host, "%.63s", name.nodename);
    snprintf(p.arch, sizeof p.arch, "%.15s", name.machine);
    p.page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    err_t e = probe_limits("", &p, why);
    if (e || (e = read_hwloc(&p, why))) return e;
    p.n_usable = usable_within(p.n_usable);
    read_cpuinfo(&p);
    isa_words(p.isa_bits, p.isa, sizeof p.isa);
    *out = p;
    return OK;
}
