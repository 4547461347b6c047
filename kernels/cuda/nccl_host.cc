// nccl_host: what nccl.cu calls of NCCL, between processes or threads of one machine, over Unix
// sockets in $TMPDIR. As there, a communicator connects while its state is asked for, operations
// are work of the device's stream, a member that dies is an error of the others, and abort ends
// what is under way.
#include "kernels/cuda/device_host.h"
#include "kernels/cuda/nccl_api.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MEMBERS_MAX = 16, OPS_MAX = 256 };

struct ncclComm {
    pthread_mutex_t lock; // of all that follows: the stream's work is done by whoever waits
    int n, me, n_pending; // work in the stream
    int listener, socks[MEMBERS_MAX];
    bool is_greeted[MEMBERS_MAX];
    int unnamed[MEMBERS_MAX], n_unnamed; // accepted, and not said yet who they are
    char base[80];
    ncclResult_t state;
    bool is_aborted;
};

// One message: its size in bytes, then as many.
struct op {
    bool is_send;
    int peer;
    char *data;
    uint64_t bytes, head, at; // at: of head and data
};
struct batch {
    struct ncclComm *comm;
    int n;
    struct op ops[OPS_MAX];
};

static thread_local int depth;
static thread_local struct batch *now; // what is being collected
static thread_local cudaStream_t now_stream;

// -- connecting --

static void path_of(const char *base, int rank, struct sockaddr_un *out)
{
    *out = {};
    out->sun_family = AF_UNIX;
    snprintf(out->sun_path, sizeof out->sun_path, "%s.%d", base, rank);
}

static int socket_new()
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static void fail(struct ncclComm *c, ncclResult_t r)
{
    if (c->state == ncclSuccess || c->state == ncclInProgress) c->state = r;
}

static void greet(struct ncclComm *c, int rank) // those before us are called, the others call
{
    struct sockaddr_un to;
    path_of(c->base, rank, &to);
    if (c->socks[rank] < 0) c->socks[rank] = socket_new();
    if (connect(c->socks[rank], (struct sockaddr *)&to, sizeof to)) {
        close(c->socks[rank]);
        c->socks[rank] = -1;
        return; // not there yet
    }
    const uint8_t who = (uint8_t)c->me;
    c->is_greeted[rank] = send(c->socks[rank], &who, 1, MSG_NOSIGNAL) == 1;
    if (!c->is_greeted[rank]) fail(c, ncclRemoteError);
}

static void answer(struct ncclComm *c)
{
    const int s = accept4(c->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (s >= 0 && c->n_unnamed < MEMBERS_MAX) c->unnamed[c->n_unnamed++] = s;
    for (int i = 0; i < c->n_unnamed; i++) {
        uint8_t who;
        if (recv(c->unnamed[i], &who, 1, 0) != 1) continue;
        if (who > c->me && who < c->n && c->socks[who] < 0) {
            c->socks[who] = c->unnamed[i];
            c->is_greeted[who] = true;
        } else {
            close(c->unnamed[i]);
            fail(c, ncclRemoteError);
        }
        c->unnamed[i--] = c->unnamed[--c->n_unnamed];
    }
}

static void connect_some(struct ncclComm *c)
{
    bool all = true;
    answer(c);
    for (int i = 0; i < c->n; i++) {
        if (i < c->me && !c->is_greeted[i]) greet(c, i);
        all &= i == c->me || c->is_greeted[i];
    }
    if (all && c->state == ncclInProgress) c->state = ncclSuccess;
}

static ncclResult_t host_version(int *version)
{
    *version = 21800;
    return ncclSuccess;
}

static ncclResult_t host_unique_id(ncclUniqueId *id)
{
    const char *dir = getenv("TMPDIR");
    uint64_t random;
    if (getentropy(&random, sizeof random)) return ncclSystemError;
    *id = {};
    const int len = snprintf(id->internal, sizeof id->internal, "%s/trireme-nccl-%016llx",
                             dir ? dir : "/tmp", (unsigned long long)random);
    return len < (int)sizeof((struct ncclComm *)0)->base ? ncclSuccess : ncclSystemError;
}

static void comm_free(struct ncclComm *c)
{
    struct sockaddr_un mine;
    path_of(c->base, c->me, &mine);
    unlink(mine.sun_path);
    if (c->listener >= 0) close(c->listener);
    for (int i = 0; i < c->n; i++)
        if (c->socks[i] >= 0) close(c->socks[i]);
    for (int i = 0; i < c->n_unnamed; i++)
        close(c->unnamed[i]);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static ncclResult_t host_init(ncclComm_t *out, int n, ncclUniqueId id, int rank,
                              ncclConfig_t *config)
{
    struct sockaddr_un mine;
    if (n < 1 || n > MEMBERS_MAX || rank < 0 || rank >= n || config->blocking)
        return ncclInvalidArgument;
    struct ncclComm *c = (struct ncclComm *)calloc(1, sizeof *c);
    if (!c) return ncclSystemError;
    pthread_mutex_init(&c->lock, NULL);
    c->n = n;
    c->me = rank;
    c->state = ncclInProgress;
    snprintf(c->base, sizeof c->base, "%.*s", (int)sizeof c->base - 1, id.internal);
    for (int i = 0; i < n; i++)
        c->socks[i] = -1;
    path_of(c->base, rank, &mine);
    c->listener = socket_new();
    if (c->listener < 0 || bind(c->listener, (struct sockaddr *)&mine, sizeof mine) ||
        listen(c->listener, MEMBERS_MAX)) {
        comm_free(c);
        return ncclSystemError;
    }
    *out = c;
    return ncclInProgress;
}

static ncclResult_t host_async_error(ncclComm_t c, ncclResult_t *error)
{
    pthread_mutex_lock(&c->lock);
    if (c->state == ncclInProgress) connect_some(c);
    *error = c->state;
    pthread_mutex_unlock(&c->lock);
    return ncclSuccess;
}

static void unlock_or_free(struct ncclComm *c)
{
    const bool is_last = c->is_aborted && !c->n_pending;
    pthread_mutex_unlock(&c->lock);
    if (is_last) comm_free(c);
}

static ncclResult_t host_abort(ncclComm_t c)
{
    pthread_mutex_lock(&c->lock);
    fail(c, ncclInternalError);
    c->is_aborted = true;
    for (int i = 0; i < c->n; i++)
        if (c->socks[i] >= 0) shutdown(c->socks[i], SHUT_RDWR);
    unlock_or_free(c);
    return ncclSuccess;
}

// -- messages --

// Of head and data, what can be moved now.
static void move_some(struct ncclComm *c, struct op *o)
{
    const uint64_t all = sizeof o->head + o->bytes;
    while (o->at < all && c->state == ncclSuccess) {
        const bool in_head = o->at < sizeof o->head;
        char *p = in_head ? (char *)&o->head + o->at : o->data + (o->at - sizeof o->head);
        const uint64_t n = (in_head ? sizeof o->head : all) - o->at;
        const ssize_t moved = o->is_send ? send(c->socks[o->peer], p, n, MSG_NOSIGNAL)
                                         : recv(c->socks[o->peer], p, n, 0);
        if (moved < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (moved <= 0) fail(c, ncclRemoteError);
        if (moved > 0) o->at += (uint64_t)moved;
        if (o->at == sizeof o->head && o->head != o->bytes) fail(c, ncclInvalidUsage);
    }
}

static bool is_moved(const struct op *o)
{
    return o->at == sizeof o->head + o->bytes;
}

// Messages between two go in order, each way.
static bool batch_try(void *arg)
{
    struct batch *b = *(struct batch **)arg;
    struct ncclComm *c = b->comm;
    bool is_busy[2][MEMBERS_MAX] = {}, all = true;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < b->n && c->state == ncclSuccess; i++) {
        struct op *o = b->ops + i;
        bool *busy = &is_busy[o->is_send][o->peer];
        if (is_moved(o)) continue;
        if (!*busy) move_some(c, o);
        *busy |= !is_moved(o);
        all &= is_moved(o);
    }
    const bool is_done = all || c->state != ncclSuccess;
    if (is_done) {
        c->n_pending--;
        free(b);
    }
    if (is_done)
        unlock_or_free(c);
    else
        pthread_mutex_unlock(&c->lock);
    return is_done;
}

static ncclResult_t add(bool is_send, const void *data, uint64_t bytes, int peer, ncclComm_t comm,
                        cudaStream_t stream)
{
    if (!depth || peer < 0 || peer >= comm->n || peer == comm->me) return ncclInvalidUsage;
    if (!now) now = (struct batch *)calloc(1, sizeof *now);
    if (!now || now->n == OPS_MAX) return ncclSystemError;
    now->comm = comm;
    now_stream = stream;
    now->ops[now->n++] = {is_send, peer, (char *)data, bytes, is_send ? bytes : 0, 0};
    return ncclSuccess;
}

static ncclResult_t host_group_start()
{
    depth++;
    return ncclSuccess;
}

static ncclResult_t host_group_end()
{
    if (--depth || !now) return ncclSuccess;
    pthread_mutex_lock(&now->comm->lock);
    now->comm->n_pending++;
    pthread_mutex_unlock(&now->comm->lock);
    device_host_call(now_stream, batch_try, &now, sizeof now);
    now = NULL;
    return ncclSuccess;
}

static ncclResult_t host_send(const void *data, size_t count, ncclDataType_t type, int peer,
                              ncclComm_t comm, cudaStream_t stream)
{
    (void)type;
    return add(true, data, count * sizeof(float), peer, comm, stream);
}

static ncclResult_t host_recv(void *data, size_t count, ncclDataType_t type, int peer,
                              ncclComm_t comm, cudaStream_t stream)
{
    (void)type;
    return add(false, data, count * sizeof(float), peer, comm, stream);
}

struct own_part {
    void *to;
    const void *from;
    uint64_t bytes;
};
static bool copy_own(void *arg)
{
    const struct own_part *o = (const struct own_part *)arg;
    memmove(o->to, o->from, o->bytes);
    return true;
}

static ncclResult_t host_all_gather(const void *mine, void *all, size_t count, ncclDataType_t type,
                                    ncclComm_t comm, cudaStream_t stream)
{
    const uint64_t bytes = count * sizeof(float);
    const struct own_part own = {(char *)all + (uint64_t)comm->me * bytes, mine, bytes};
    ncclResult_t r = ncclSuccess;
    device_host_call(stream, copy_own, &own, sizeof own);
    for (int i = 0; i < comm->n && r == ncclSuccess; i++) {
        if (i == comm->me) continue;
        r = host_send(mine, count, type, i, comm, stream);
        if (r == ncclSuccess)
            r = host_recv((char *)all + (uint64_t)i * bytes, count, type, i, comm, stream);
    }
    return r;
}

static const char *host_error_string(ncclResult_t r)
{
    static const char *const names[] = {"success",          "device error",     "system error",
                                        "internal error",   "invalid argument", "misuse",
                                        "a member is gone", "still under way"};
    return (size_t)r < sizeof names / sizeof *names ? names[r] : "unknown";
}

static const char *host_last_error(ncclComm_t comm)
{
    (void)comm;
    return "";
}

err_t nccl_api_open(const struct nccl_api **out, struct err_text *why)
{
    static const struct nccl_api api = {
        .version = host_version,
        .unique_id = host_unique_id,
        .init = host_init,
        .async_error = host_async_error,
        .abort = host_abort,
        .group_start = host_group_start,
        .group_end = host_group_end,
        .send = host_send,
        .recv = host_recv,
        .all_gather = host_all_gather,
        .error_string = host_error_string,
        .last_error = host_last_error,
    };
    (void)why;
    *out = &api;
    return OK;
}
