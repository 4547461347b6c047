// nccl_open: libnccl.so.2 of this machine, or the file that TRIREME_NCCL names, opened when the
// first group asks for it.
#include "kernels/cuda/nccl_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

enum { VERSION_MIN = 21800 }; // non-blocking communicators as they are used here

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct nccl_api api; // written once, under the lock
static bool is_open;

static bool find_all(void *file, const char **missing)
{
    const struct {
        const char *name;
        void **to;
    } all[] = {
        {"ncclGetVersion", (void **)&api.version},
        {"ncclGetUniqueId", (void **)&api.unique_id},
        {"ncclCommInitRankConfig", (void **)&api.init},
        {"ncclCommGetAsyncError", (void **)&api.async_error},
        {"ncclCommAbort", (void **)&api.abort},
        {"ncclGroupStart", (void **)&api.group_start},
        {"ncclGroupEnd", (void **)&api.group_end},
        {"ncclSend", (void **)&api.send},
        {"ncclRecv", (void **)&api.recv},
        {"ncclAllGather", (void **)&api.all_gather},
        {"ncclGetErrorString", (void **)&api.error_string},
        {"ncclGetLastError", (void **)&api.last_error},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        *missing = all[i].name;
        *all[i].to = dlsym(file, all[i].name);
        if (!*all[i].to) return false;
    }
    return true;
}

static err_t open_file(struct err_text *why)
{
    const char *path = getenv("TRIREME_NCCL"), *missing = NULL;
    int version = 0;
    // By itself it would listen on any interface it finds.
    if (!getenv("NCCL_SOCKET_IFNAME"))
        return err_say(why, ERR_UNSUPPORTED, "nccl: no trusted interface is named for it");
    void *file = dlopen(path ? path : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!file) return err_say(why, ERR_UNSUPPORTED, "nccl: cannot be opened: %s", dlerror());
    err_t e = OK;
    if (!find_all(file, &missing))
        e = err_say(why, ERR_UNSUPPORTED, "nccl: the library has no %s", missing);
    else if (api.version(&version) != ncclSuccess || version < VERSION_MIN)
        e = err_say(why, ERR_UNSUPPORTED, "nccl: version %d, needed is %d", version, VERSION_MIN);
    if (e) dlclose(file);
    return e;
}

err_t nccl_api_open(const struct nccl_api **out, struct err_text *why)
{
    pthread_mutex_lock(&lock);
    err_t e = is_open ? OK : open_file(why);
    is_open = !e;
    pthread_mutex_unlock(&lock);
    if (!e) *out = &api;
    return e;
}
