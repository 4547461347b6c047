// nccl: parts of an array, and rows, between devices over NCCL. The communicator does not block:
// what is on its way is asked for (async_error) while others get their turn, and can be given up.
// Rows that do not lie together are packed before and unpacked after.
#include "kernels/cuda/members.h"
#include "kernels/cuda/nccl_api.h"
#include "proto/base/clock.h"

#include <stdlib.h>

struct nccl {
    const struct nccl_api *api;
    struct members_config config;
    ncclComm_t comm; // NULL: not yet, or not any more
    float *out, *in; // (most) each
    uint64_t most;
    err_t err;
    struct err_text why;
};

enum { THREADS = 256, BLOCKS_MAX = 512 };

static int32_t blocks_of(int64_t n)
{
    const int32_t blocks = cuda_ceil(n, THREADS);
    return blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX;
}

// -- errors --

static void broken(struct nccl *n, err_t e, const char *what, const char *detail)
{
    if (n->err) return;
    err_say(&n->why, e, "nccl: %s: %s", what, detail);
    n->err = e;
}

static err_t err_of(ncclResult_t r)
{
    if (r == ncclRemoteError || r == ncclSystemError) return ERR_LINK;
    return r == ncclUnhandledCudaError ? ERR_DEVICE : ERR_SYSTEM;
}

static void refused(struct nccl *n, ncclResult_t r, const char *what)
{
    const char *detail = n->comm ? n->api->last_error(n->comm) : NULL;
    broken(n, err_of(r), what, detail && *detail ? detail : n->api->error_string(r));
}

// Until the communicator has taken in what it was given.
static void settle(struct nccl *n, const char *what)
{
    ncclResult_t state = ncclInProgress;
    int64_t from = 0;
    while (!n->err && n->comm) {
        ncclResult_t r = n->api->async_error(n->comm, &state);
        if (r != ncclSuccess) state = r;
        if (state == ncclSuccess) return;
        if (state != ncclInProgress) {
            refused(n, state, what);
            return;
        }
        const int64_t now = clock_now_us();
        if (!from) from = now;
        if (!n->config.rest(n->config.rest_arg, now - from))
            broken(n, ERR_TIMEOUT, what, "given up");
    }
}

static void check(struct nccl *n, ncclResult_t r, const char *what)
{
    if (r == ncclInProgress)
        settle(n, what);
    else if (r != ncclSuccess)
        refused(n, r, what);
}

// Of a call between begin and end, which starts nothing yet.
static void check_part(struct nccl *n, ncclResult_t r, const char *what)
{
    if (r != ncclInProgress) check(n, r, what);
}

// Nothing is given to a communicator that failed. Nothing of it is recorded either.
static bool begin(struct nccl *n)
{
    if (n->err || !n->comm) return false;
    cuda_step_get(&n->config.c->base, NULL, NULL, 0);
    check_part(n, n->api->group_start(), "beginning");
    return true;
}
static void end(struct nccl *n)
{
    check(n, n->api->group_end(), "handing over");
}

static void send(struct nccl *n, int32_t to, const float *x, int64_t count)
{
    if (count)
        check_part(n, n->api->send(x, (size_t)count, ncclFloat32, to, n->comm, n->config.c->stream),
                   "sending");
}
static void recv(struct nccl *n, int32_t from, float *y, int64_t count)
{
    if (count)
        check_part(n,
                   n->api->recv(y, (size_t)count, ncclFloat32, from, n->comm, n->config.c->stream),
                   "receiving");
}

// -- parts --

// flat (n_row, width) = the part, or the other way
static __global__ void __launch_bounds__(THREADS)
    part_copy(float *y, float *flat, struct members_part p, int is_out)
{
    const int64_t n = p.n_row * p.width, stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        float *mine = y + p.at + i / p.width * p.ld + i % p.width;
        if (is_out)
            flat[i] = *mine;
        else
            *mine = flat[i];
    }
}

static int64_t size_of(const struct members_part *p)
{
    return p->n_row * p->width;
}

static bool is_flat(const struct members_part *p)
{
    return p->n_row <= 1 || p->width == p->ld || !p->width;
}

static void copy_part(struct nccl *n, float *y, float *flat, const struct members_part *p,
                      bool is_out)
{
    if (size_of(p))
        LAUNCH(part_copy, blocks_of(size_of(p)), THREADS, 0, n->config.c->stream, y, flat, *p,
               is_out);
}

// All parts are of one size, and all members want them: `flat` lies in order in `all`.
static void gather_even(struct nccl *n, const float *mine, float *all, int64_t count)
{
    if (!begin(n)) return;
    check_part(
        n, n->api->all_gather(mine, all, (size_t)count, ncclFloat32, n->comm, n->config.c->stream),
        "gathering");
    end(n);
}

static bool is_even(const struct nccl *n, const struct members_parts *p)
{
    for (int32_t i = 1; i < n->config.n_member; i++)
        if (size_of(&p->of[i]) != size_of(&p->of[0])) return false;
    return size_of(&p->of[0]) > 0;
}

// Where part i is received: in its place, or in `in` behind the parts before it.
static float *place_of(const struct nccl *n, float *y, const struct members_parts *p, int32_t i,
                       bool in_place)
{
    float *at = n->in;
    if (in_place) return y + p->of[i].at;
    for (int32_t k = 0; k < i; k++)
        at += size_of(&p->of[k]);
    return at;
}

void nccl_exchange(struct nccl *n, float *y, const struct members_parts *p, int32_t root)
{
    const int32_t me = n->config.member, n_member = n->config.n_member;
    bool in_place = true, in_order = root < 0 && is_even(n, p);
    if (n->err || !n->comm) return;
    for (int32_t i = 0; i < n_member; i++)
        in_place &= is_flat(&p->of[i]);
    for (int32_t i = 0; i < n_member && in_place; i++)
        in_order &= p->of[i].at == p->of[0].at + i * size_of(&p->of[0]);
    float *mine = in_place ? y + p->of[me].at : n->out;
    if (!in_place) copy_part(n, y, mine, &p->of[me], true);
    if (in_order) {
        gather_even(n, mine, in_place ? y + p->of[0].at : n->in, size_of(&p->of[0]));
    } else if (begin(n)) {
        for (int32_t i = 0; i < n_member; i++) {
            if (i == me) continue;
            if (root < 0 || root == i) send(n, i, mine, size_of(&p->of[me]));
            if (root < 0 || root == me)
                recv(n, i, place_of(n, y, p, i, in_place), size_of(&p->of[i]));
        }
        end(n);
    }
    for (int32_t i = 0; i < n_member && !in_place && (root < 0 || root == me); i++)
        if (i != me) copy_part(n, y, place_of(n, y, p, i, false), &p->of[i], false);
}

// -- rows --

// out[i] = x[row[i]]
static __global__ void __launch_bounds__(THREADS)
    rows_pick(const float *x, const int32_t *row, int64_t n_row, int64_t n_col, float *out)
{
    const int64_t n = n_row * n_col, stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        out[i] = x[row[i / n_col] * n_col + i % n_col];
}

// Rows that go over at once, the same at both ends.
static int64_t rows_of(const struct nccl *n, int64_t n_row, int64_t n_col)
{
    enum { LIST_MAX = 1 << 16 };
    int64_t most = (int64_t)n->most / n_col;
    if (most > LIST_MAX) most = LIST_MAX;
    return n_row < most ? n_row : most;
}

void nccl_send(struct nccl *n, int32_t to, const float *x, const int32_t *row, int64_t n_row,
               int64_t n_col)
{
    struct cuda *c = n->config.c;
    for (int64_t i = 0, take; i < n_row && !n->err; i += take) {
        take = rows_of(n, n_row - i, n_col);
        const float *from = x + i * n_col;
        if (row) {
            const int32_t *list = cuda_ints_of(c, row + i, (int32_t)take);
            LAUNCH(rows_pick, blocks_of(take * n_col), THREADS, 0, c->stream, x, list, take, n_col,
                   n->out);
            from = n->out;
        }
        if (!begin(n)) return;
        send(n, to, from, take * n_col);
        end(n);
    }
}

void nccl_recv(struct nccl *n, int32_t from, float *y, int64_t n_row, int64_t n_col)
{
    for (int64_t i = 0, take; i < n_row && !n->err; i += take) {
        take = rows_of(n, n_row - i, n_col);
        if (!begin(n)) return;
        recv(n, from, y + i * n_col, take * n_col);
        end(n);
    }
}

// -- one way --

// In the stream: NCCL keeps what fits its buffers until it is taken, for more it waits.
void nccl_give(struct nccl *n, const float *x, int64_t count)
{
    if (!begin(n)) return;
    for (int32_t i = 1; i < n->config.n_member; i++)
        send(n, i, x, count);
    end(n);
}

void nccl_take(struct nccl *n, float *y, int64_t count)
{
    if (!begin(n)) return;
    recv(n, 0, y, count);
    end(n);
}

// -- opening --

err_t nccl_open(const struct members_config *c, struct nccl **out, struct err_text *why)
{
    const struct nccl_api *api;
    err_t e = nccl_api_open(&api, why);
    if (e) return e;
    struct nccl *n = (struct nccl *)calloc(1, sizeof *n);
    if (!n) return err_say(why, ERR_MEMORY, "nccl: no memory");
    const uint64_t bytes = group_bytes_buffer(GROUP_BYTES_NCCL, c->row_bytes);
    n->api = api;
    n->config = *c;
    n->most = bytes / sizeof(float);
    if (!c->queue_bytes)
        e = cuda_take(c->c, bytes, "rows for other members", (void **)&n->out, why);
    if (!e && !c->queue_bytes)
        e = cuda_take(c->c, bytes, "rows of other members", (void **)&n->in, why);
    if (e) {
        nccl_close(n);
        return e;
    }
    *out = n;
    return OK;
}

void nccl_abort(struct nccl *n)
{
    ncclComm_t comm = n->comm;
    broken(n, ERR_CANCELLED, "closing", "ended");
    n->comm = NULL;
    if (comm) n->api->abort(comm);
}

void nccl_close(struct nccl *n)
{
    if (!n) return;
    nccl_abort(n);
    device_give(n->config.c->dev, n->out);
    device_give(n->config.c->dev, n->in);
    free(n);
}

int32_t nccl_version(const struct nccl *n)
{
    int version = 0;
    n->api->version(&version);
    return version;
}

err_t nccl_id(const struct nccl *n, uint8_t out[NCCL_ID_BYTES], struct err_text *why)
{
    ncclUniqueId id;
    static_assert(sizeof id.internal == NCCL_ID_BYTES, "as it goes over the wire");
    const ncclResult_t r = n->api->unique_id(&id);
    if (r != ncclSuccess)
        return err_say(why, ERR_UNSUPPORTED, "nccl: no number for a group: %s",
                       n->api->error_string(r));
    memcpy(out, id.internal, NCCL_ID_BYTES);
    return OK;
}

err_t nccl_connect(struct nccl *n, const uint8_t id[NCCL_ID_BYTES], struct err_text *why)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId one;
    config.blocking = 0;
    config.maxCTAs = GROUP_BYTES_CTAS; // its buffers are as many times as large
    memcpy(one.internal, id, NCCL_ID_BYTES);
    device_enter(n->config.c->dev);
    check(n, n->api->init(&n->comm, n->config.n_member, one, n->config.member, &config),
          "connecting");
    if (!n->err) settle(n, "connecting");
    return n->err ? err_say(why, n->err, "%s", n->why.s) : OK;
}

uint64_t nccl_most(const struct nccl *n)
{
    return n->most;
}

err_t nccl_status(struct nccl *n, struct err_text *why)
{
    ncclResult_t state = ncclSuccess;
    if (!n->err && n->comm) {
        const ncclResult_t r = n->api->async_error(n->comm, &state);
        if (r != ncclSuccess) state = r;
        if (state != ncclSuccess && state != ncclInProgress) refused(n, state, "handing over");
    }
    return n->err ? err_say(why, n->err, "%s", n->why.s) : OK;
}
