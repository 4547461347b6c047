// module: backends by name, and the one that lies in a module of its own: opened when it is asked
// for the first time, and kept, because what it gave out may outlive any one backend.
#include "kernels/cuda/module.h"
#include "kernels/group.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };
#define MODULE_FILE "libtrireme-cuda.so"

// The one module of this process. Written under the lock, once.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct kernels_module *loaded;

// Beside the program, or where an installation has libraries.
static bool find_file(char out[PATH_BYTES])
{
    static const char *const places[] = {"", "../lib/", "../lib/trireme/"};
    char dir[PATH_BYTES];
    const ssize_t n = readlink("/proc/self/exe", dir, sizeof dir - 1);
    if (n <= 0) return false;
    dir[n] = 0;
    char *end = strrchr(dir, '/');
    if (!end) return false;
    end[1] = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const int len = snprintf(out, PATH_BYTES, "%s%s" MODULE_FILE, dir, places[i]);
        if (len < PATH_BYTES && !access(out, R_OK)) return true;
    }
    return false;
}

static err_t load(struct err_text *why)
{
    char found[PATH_BYTES];
    const char *path = getenv("TRIREME_CUDA");
    if (!path && find_file(found)) path = found;
    if (!path)
        return err_say(why, ERR_UNSUPPORTED,
                       "cuda: there is no " MODULE_FILE " beside the program (TRIREME_CUDA names "
                       "another file)");
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!file) return err_say(why, ERR_UNSUPPORTED, "cuda: cannot open the module: %s", dlerror());
    const struct kernels_module *m = dlsym(file, KERNELS_MODULE_SYMBOL);
    if (!m) {
        dlclose(file);
        return err_say(why, ERR_UNSUPPORTED, "cuda: %s is no module of this program", path);
    }
    if (m->version != KERNELS_MODULE_VERSION || m->ops_bytes != sizeof(struct kernels_ops) ||
        m->limits_bytes != sizeof(struct kernels_limits) ||
        m->step_bytes != sizeof(struct kernels_step)) {
        dlclose(file);
        return err_say(why, ERR_UNSUPPORTED, "cuda: %s belongs to another version of this program",
                       path);
    }
    loaded = m;
    return OK;
}

static err_t module_get(const struct kernels_module **out, struct err_text *why)
{
    pthread_mutex_lock(&lock);
    err_t e = loaded ? OK : load(why);
    if (!e) *out = loaded;
    pthread_mutex_unlock(&lock);
    return e;
}

static err_t check_device(const struct kernels_module *m, int32_t device, struct err_text *why)
{
    int32_t n = 0;
    err_t e = m->count(&n, why);
    if (e || (device >= 0 && device < n)) return e;
    return err_say(why, ERR_UNSUPPORTED, "cuda: there is no device %d, this machine has %d", device,
                   n);
}

err_t kernels_open_cuda(int32_t device, const struct kernels_limits *limits, struct kernels **out,
                        struct err_text *why)
{
    const struct kernels_module *m;
    err_t e = module_get(&m, why);
    if (!e) e = check_device(m, device, why);
    return e ? e : m->open(device, limits, out, why);
}

// "cuda" or "cuda:N". False: not of this kind.
static bool is_cuda(const char *device, int32_t *out)
{
    if (!device || strncmp(device, "cuda", 4) != 0) return false;
    if (!device[4]) {
        *out = 0;
        return true;
    }
    char *end;
    errno = 0;
    const long n = device[4] == ':' && device[5] ? strtol(device + 5, &end, 10) : -1;
    if (n < 0 || n > 1023 || errno || *end) return false;
    *out = (int32_t)n;
    return true;
}

err_t kernels_open(const char *device, const struct kernels_limits *limits, struct kernels **out,
                   struct err_text *why)
{
    int32_t number;
    if (is_cuda(device, &number)) return kernels_open_cuda(number, limits, out, why);
    return kernels_open_cpu(device && strcmp(device, "cpu") != 0 ? device : NULL, limits, out, why);
}

err_t kernels_count_cuda(int32_t *out, struct err_text *why)
{
    const struct kernels_module *m;
    err_t e = module_get(&m, why);
    return e ? e : m->count(out, why);
}

err_t kernels_measure_peaks_of(const char *device, int32_t n_threads, int32_t budget_ms,
                               struct kernels_peaks *out, struct err_text *why)
{
    const struct kernels_module *m;
    int32_t number;
    if (!is_cuda(device, &number)) {
        err_t e = kernels_measure_peaks(n_threads, budget_ms, out);
        return e ? err_say(why, e, "cannot measure this machine: %s", err_name(e)) : OK;
    }
    err_t e = module_get(&m, why);
    if (!e) e = check_device(m, number, why);
    return e ? e : m->peaks(number, budget_ms, out, why);
}

err_t kernels_about(const char *device, struct kernels_about *out, struct err_text *why)
{
    const struct kernels_module *m;
    struct device_info info;
    int32_t number;
    if (!is_cuda(device, &number)) {
        *out = (struct kernels_about){.is_host = true};
        return OK;
    }
    err_t e = module_get(&m, why);
    if (!e) e = check_device(m, number, why);
    if (!e) e = m->about(number, &info, why);
    if (e) return e;
    *out = (struct kernels_about){.is_unified = info.is_integrated,
                                  .memory_bytes = info.memory,
                                  .memory_free_bytes = info.memory_free,
                                  .is_emulated = info.is_emulated,
                                  .sm = info.sm,
                                  .n_processor = info.n_processor,
                                  .l2_bytes = info.l2_bytes};
    snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, info.name);
    snprintf(out->driver, sizeof out->driver, "%s", info.driver);
    return OK;
}

// -- groups --

err_t kernels_group_open(struct kernels *k, const struct kernels_group_config *c,
                         struct kernels_group **out, struct err_text *why)
{
    const struct kernels_module *m;
    if (k->is_host)
        return err_say(why, ERR_UNSUPPORTED, "the memory of this backend is the host's own");
    err_t e = module_get(&m, why);
    return e ? e : m->group(kernels_profile_inner(k), c, out, why);
}

err_t kernels_group_nccl(int32_t *version, struct err_text *why)
{
    const char *path = getenv("TRIREME_NCCL");
    void *file = dlopen(path ? path : "libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
    if (!file) return err_say(why, ERR_UNSUPPORTED, "%s", dlerror());
    int (*ask)(int *) = NULL;
    *(void **)&ask = dlsym(file, "ncclGetVersion");
    int found = 0;
    const bool is_told = ask && !ask(&found);
    dlclose(file);
    if (!is_told) return err_say(why, ERR_UNSUPPORTED, "it does not tell its version");
    *version = found;
    return OK;
}

// Of one name in the list, "mlx5_0:1" or "eth0": whether it is an adapter, not an interface.
static bool is_adapter(const char *name, size_t len)
{
    char path[128];
    const size_t bare = strcspn(name, ":,");
    snprintf(path, sizeof path, "/sys/class/infiniband/%.*s", (int)(bare < len ? bare : len), name);
    return !access(path, F_OK);
}

void kernels_group_trust(const char *devices)
{
    char interfaces[1024] = "=", adapters[1024] = "=";
    const char *const list = devices ? devices : "lo";
    for (const char *at = list; *at;) {
        const size_t len = strcspn(at, ",");
        char *to = is_adapter(at, len) ? adapters : interfaces;
        const size_t used = strlen(to);
        snprintf(to + used, sizeof adapters - used, "%s%.*s", to[1] ? "," : "", (int)len, at);
        at += len + (at[len] == ',');
    }
    // Adapters alone: what it says by sockets stays here.
    setenv("NCCL_SOCKET_IFNAME", interfaces[1] ? interfaces : "=lo", 0);
    if (adapters[1])
        setenv("NCCL_IB_HCA", adapters, 0);
    else
        setenv("NCCL_IB_DISABLE", "1", 0);
}
