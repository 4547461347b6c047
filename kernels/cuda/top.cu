// top: the largest values of rows of logits, sorted, and what the others weigh, so that the host
// can draw from a row without having it. Three kernels: the largest of each group of 32 (all of the
// device); a block for each row finds, from those, a bound that little more than n_top values
// reach, gathers the groups that have any of them, and sorts; the weights of each chunk.
#include "kernels/cuda/cuda.h"
#include "kernels/weight.h"

#include <stdlib.h>

enum {
    TOP_ROWS = 32,   // at once
    TOP_BLOCK = 512, // threads of a row
    TOP_KEEP = 2048, // values that are sorted
    TOP_BINS = 2048, // of 11 bits
    TOP_CHUNK_BLOCK = 256,
};

// One row, as the device reads it; and where its results begin in its part of the answer.
struct alignas(16) top_one {
    int64_t at; // in x, in floats
    float per_t;
    int32_t mask, picks, n_pick; // mask and picks: where they begin, in words; mask -1: none
    int32_t pad[2];
};
// An answer: n, then values, ids, masses, picks.
struct top_places {
    uint32_t value, id, mass, pick, bytes;
};
struct cuda_top {
    char *words, *host;   // rows, masks and picks on the device, on the host
    char *answer, *heard; // answers, likewise
    uint32_t *group;      // (TOP_ROWS, groups) keys of the largest of each
    uint64_t words_size, answer_size;
};

static struct top_places places_of(int64_t n, int32_t n_top, int32_t n_pick)
{
    const uint32_t n_chunk = (uint32_t)cuda_ceil(n, KERNELS_TOP_CHUNK), top = (uint32_t)n_top;
    struct top_places p;
    p.value = 16;
    p.id = p.value + 4 * top;
    p.mass = (p.id + 4 * top + 7) / 8 * 8;
    p.pick = p.mass + 8 * n_chunk;
    p.bytes = (p.pick + 4 * (uint32_t)n_pick + 15) / 16 * 16;
    return p;
}

err_t cuda_top_open(struct cuda *c, struct err_text *why)
{
    struct cuda_top *t = (struct cuda_top *)calloc(1, sizeof *t);
    if (!t) return err_say(why, ERR_MEMORY, "cuda: no memory");
    c->top = t;
    const uint64_t n = (uint64_t)c->lim.max_rows, n_group = (n + 31) / 32;
    const uint64_t picks = KERNELS_TOP_PICKS;
    t->words_size = TOP_ROWS * (sizeof(struct top_one) + 4 * (n_group + picks));
    t->answer_size =
        TOP_ROWS * (uint64_t)places_of((int64_t)n, KERNELS_TOP_MAX, (int32_t)picks).bytes;
    t->host = (char *)malloc(t->words_size);
    t->heard = (char *)malloc(t->answer_size);
    if (!t->host || !t->heard) return err_say(why, ERR_MEMORY, "cuda: no memory");
    err_t e = cuda_take(c, t->words_size, "drawing", (void **)&t->words, why);
    if (!e) e = cuda_take(c, t->answer_size, "drawing", (void **)&t->answer, why);
    if (!e) e = cuda_take(c, TOP_ROWS * 4 * n_group, "drawing", (void **)&t->group, why);
    return e;
}

void cuda_top_close(struct cuda *c)
{
    struct cuda_top *t = c->top;
    if (!t) return;
    device_give(c->dev, t->words);
    device_give(c->dev, t->answer);
    device_give(c->dev, t->group);
    free(t->host);
    free(t->heard);
    free(t);
    c->top = NULL;
}

// -- keys: larger values have larger keys; 0: does not count --

static __device__ __forceinline__ uint32_t key_of(float x)
{
    const uint32_t u = __float_as_uint(x);
    return u & 0x80000000 ? ~u : u | 0x80000000;
}
static __device__ __forceinline__ float value_of(uint32_t key)
{
    return __uint_as_float(key & 0x80000000 ? key & 0x7fffffff : ~key);
}

// Equal values: the lower id has the larger key.
static __device__ __forceinline__ uint64_t whole_key(uint32_t key, int id)
{
    return (uint64_t)key << 32 | (0xffffffffu - (uint32_t)id);
}

struct top_row_at {
    const float *x;
    const uint32_t *mask; // or NULL
    int n;
    __device__ __forceinline__ uint32_t key(int i) const
    {
        if (mask && !(__ldg(mask + i / 32) >> i % 32 & 1)) return 0;
        const float v = x[i];
        return v == v ? key_of(v) : 0;
    }
    __device__ __forceinline__ uint64_t operator()(int i) const
    {
        const uint32_t k = key(i);
        return k ? whole_key(k, i) : 0;
    }
};
struct top_groups_at {
    const uint32_t *key;
    __device__ __forceinline__ uint64_t operator()(int i) const
    {
        return key[i] ? whole_key(key[i], i) : 0;
    }
};

static __device__ __forceinline__ struct top_row_at row_at(const float *x, const char *words,
                                                           const struct top_one &o, int n)
{
    return {x + o.at, o.mask < 0 ? NULL : (const uint32_t *)words + o.mask, n};
}

// -- the largest of each group --

static __global__ void __launch_bounds__(TOP_CHUNK_BLOCK)
    top_group(const float *x, int n, int n_group, const char *words, uint32_t *group)
{
    simt_follow();
    const int row = (int)blockIdx.y, lane = (int)threadIdx.x % 32;
    const struct top_row_at at = row_at(x, words, ((const struct top_one *)words)[row], n);
    const int first = (int)(blockIdx.x * TOP_CHUNK_BLOCK + threadIdx.x) / 32;
    for (int g = first; g < n_group; g += (int)(gridDim.x * TOP_CHUNK_BLOCK / 32)) {
        const int i = g * 32 + lane;
        uint32_t key = i < n ? at.key(i) : 0;
        for (int m = 16; m; m >>= 1) {
            const uint32_t other = __shfl_xor_sync(SIMT_FULL, key, m);
            key = other > key ? other : key;
        }
        if (!lane) group[row * n_group + g] = key;
    }
}

// -- a bound --

struct top_shared {
    uint64_t keep[TOP_KEEP];
    uint32_t bins[TOP_BINS];
    uint32_t sums[TOP_BLOCK / 32];
    int32_t count, digit, above;
};

// The largest bin d such that bins d and up hold at least `need`, -1 if all do not; how many are
// above d. Called by all threads; every bin's count is there.
static __device__ __forceinline__ void find_digit(struct top_shared *s, int need)
{
    enum { EACH = TOP_BINS / TOP_BLOCK };
    const int thread = (int)threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int top = TOP_BINS - 1 - thread * EACH; // this thread's bins: top, top - 1, ...
    uint32_t mine = 0;
    for (int i = 0; i < EACH; i++)
        mine += s->bins[top - i];
    uint32_t sum = mine;
    for (int d = 1; d < 32; d *= 2) {
        const uint32_t v = __shfl_up_sync(SIMT_FULL, sum, d);
        if (lane >= d) sum += v;
    }
    if (lane == 31) s->sums[warp] = sum;
    if (thread == 0) s->digit = -1;
    __syncthreads();
    uint32_t before = sum - mine;
    for (int w = 0; w < warp; w++)
        before += s->sums[w];
    for (int i = 0; i < EACH; i++) {
        const uint32_t here = s->bins[top - i];
        if (before < (uint32_t)need && before + here >= (uint32_t)need) {
            s->digit = top - i;
            s->above = (int32_t)before;
        }
        before += here;
    }
    __syncthreads();
}

// A bound that at least `need` and at most `most` of get(0..n) reach; 0 if there are fewer than
// `need`.
template <class Get>
static __device__ __forceinline__ uint64_t bound_of(const Get &get, int n, int need, int most,
                                                    struct top_shared *s)
{
    uint64_t prefix = 0;
    int above = 0;
    for (int bits = 0; bits < 64;) {
        const int width = bits + 11 <= 64 ? 11 : 64 - bits, shift = 64 - bits - width;
        for (int i = (int)threadIdx.x; i < TOP_BINS; i += TOP_BLOCK)
            s->bins[i] = 0;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n; i += TOP_BLOCK) {
            const uint64_t key = get(i);
            if (key && (bits == 0 || key >> (64 - bits) == prefix))
                atomicAdd(&s->bins[key >> shift & ((1u << width) - 1)], 1u);
        }
        __syncthreads();
        find_digit(s, need - above);
        if (s->digit < 0) return 0; // so for all threads, and only the first time
        const int here = (int)s->bins[s->digit];
        prefix = prefix << width | (uint64_t)s->digit;
        above += s->above;
        bits += width;
        __syncthreads();
        if (above + here <= most) return prefix << shift;
    }
    return prefix;
}

// -- a row --

static __device__ __forceinline__ void keep(struct top_shared *s, uint64_t key)
{
    const int at = atomicAdd(&s->count, 1);
    if (at < TOP_KEEP) s->keep[at] = key;
}

// Keeps all that reach the bound, of groups that have any; returns how many there are.
static __device__ __forceinline__ int gather(struct top_shared *s, const struct top_row_at &at,
                                             const uint32_t *group, int n_group, uint64_t bound)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    if (threadIdx.x == 0) s->count = 0;
    __syncthreads();
    for (int g = warp; g < n_group; g += TOP_BLOCK / 32) {
        if (group[g] < (uint32_t)(bound >> 32) || !group[g]) continue;
        const int i = g * 32 + lane;
        const uint64_t key = i < at.n ? at(i) : 0;
        if (key && key >= bound) keep(s, key);
    }
    __syncthreads();
    const int n = s->count;
    __syncthreads();
    return n;
}

// Largest first; n is a power of two.
static __device__ __forceinline__ void sort(struct top_shared *s, int n)
{
    for (int size = 2; size <= n; size *= 2)
        for (int step = size / 2; step; step /= 2) {
            for (int t = (int)threadIdx.x; t < n / 2; t += TOP_BLOCK) {
                const int i = t / step * 2 * step + t % step, j = i + step;
                const uint64_t a = s->keep[i], b = s->keep[j];
                if ((a < b) != ((i & size) != 0)) {
                    s->keep[i] = b;
                    s->keep[j] = a;
                }
            }
            __syncthreads();
        }
}

static __global__ void __launch_bounds__(TOP_BLOCK)
    top_sort(const float *x, int n, int n_group, int n_top, const char *words,
             const uint32_t *group, struct top_places to, char *answer)
{
    __shared__ struct top_shared s;
    simt_follow();
    const struct top_one o = ((const struct top_one *)words)[blockIdx.x];
    const struct top_row_at at = row_at(x, words, o, n);
    group += (int64_t)blockIdx.x * n_group;
    answer += (int64_t)blockIdx.x * to.bytes;
    uint64_t bound = 0;
    // As many groups as values wanted: one value of each of them.
    if (n_group > n_top) bound = bound_of(top_groups_at{group}, n_group, n_top, n_top, &s);
    bound = bound >> 32 << 32; // whatever the group's number
    int count = gather(&s, at, group, n_group, bound);
    if (count > TOP_KEEP) {
        bound = bound_of(at, n, n_top, TOP_KEEP, &s);
        count = gather(&s, at, group, n_group, bound);
    }
    int size = 2;
    while (size < count)
        size *= 2;
    for (int i = count + (int)threadIdx.x; i < size; i += TOP_BLOCK)
        s.keep[i] = 0;
    __syncthreads();
    sort(&s, size);
    count = count < n_top ? count : n_top;
    for (int i = (int)threadIdx.x; i < count; i += TOP_BLOCK) {
        ((float *)(answer + to.value))[i] = value_of((uint32_t)(s.keep[i] >> 32));
        ((int32_t *)(answer + to.id))[i] = (int32_t)(0xffffffffu - (uint32_t)s.keep[i]);
    }
    if (threadIdx.x == 0) *(int32_t *)answer = count;
    for (int i = (int)threadIdx.x; i < o.n_pick; i += TOP_BLOCK)
        ((float *)(answer + to.pick))[i] = x[o.at + ((const int32_t *)words)[o.picks + i]];
}

// -- weights --

static __global__ void __launch_bounds__(TOP_CHUNK_BLOCK)
    top_mass(const float *x, int n, const char *words, struct top_places to, char *answer)
{
    __shared__ double part[TOP_CHUNK_BLOCK / 32];
    simt_follow();
    const struct top_one o = ((const struct top_one *)words)[blockIdx.y];
    const struct top_row_at at = row_at(x, words, o, n);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    answer += (int64_t)blockIdx.y * to.bytes;
    const float best = *(const float *)(answer + to.value);
    const int from = (int)blockIdx.x * KERNELS_TOP_CHUNK, end = from + KERNELS_TOP_CHUNK;
    double sum = 0;
    for (int i = from + (int)threadIdx.x; i < n && i < end; i += TOP_CHUNK_BLOCK) {
        const uint32_t key = at.key(i);
        const float d = key ? (value_of(key) - best) * o.per_t : -(float)(2 * WEIGHT_NATS);
        if (d >= -(float)WEIGHT_NATS) sum += (double)weight_of(d);
    }
    sum = warp_sum(sum);
    if (!lane) part[warp] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < TOP_CHUNK_BLOCK / 32; w++)
        sum += part[w];
    ((double *)(answer + to.mass))[blockIdx.x] = sum;
}

// -- the operation --

// Writes rows, masks and picks; returns how many bytes.
static uint64_t write_words(char *to, int64_t n, const struct top_row *rows, int32_t n_row)
{
    const uint64_t mask_words = (uint64_t)cuda_ceil(n, 32);
    struct top_one *one = (struct top_one *)(void *)to;
    uint64_t at = (uint64_t)n_row * sizeof *one / 4; // in words
    for (int32_t i = 0; i < n_row; i++) {
        const struct top_row *r = &rows[i];
        BUG_ON(r->n_pick > KERNELS_TOP_PICKS);
        one[i] = {r->row * n, r->per_t, r->mask ? (int32_t)at : -1, 0, r->n_pick, {}};
        if (r->mask) memcpy(to + 4 * at, r->mask, 4 * mask_words);
        at += r->mask ? mask_words : 0;
        one[i].picks = (int32_t)at;
        if (r->n_pick) memcpy(to + 4 * at, r->picks, 4 * (size_t)r->n_pick);
        at += (uint64_t)r->n_pick;
    }
    return 4 * at;
}

static void read_answer(const char *from, const struct top_places *p, int64_t n, struct top_row *r)
{
    memcpy(&r->n, from, 4);
    memcpy(r->value, from + p->value, 4 * (size_t)r->n);
    memcpy(r->id, from + p->id, 4 * (size_t)r->n);
    memcpy(r->mass, from + p->mass, 8 * (size_t)cuda_ceil(n, KERNELS_TOP_CHUNK));
    if (r->n_pick) memcpy(r->pick, from + p->pick, 4 * (size_t)r->n_pick);
}

static void run(struct cuda *c, const float *x, int64_t n, int32_t n_top, struct top_row *rows,
                int32_t n_row)
{
    struct cuda_top *t = c->top;
    int32_t most_picks = 0;
    for (int32_t i = 0; i < n_row; i++)
        most_picks = rows[i].n_pick > most_picks ? rows[i].n_pick : most_picks;
    const struct top_places to = places_of(n, n_top, most_picks);
    const int n_group = cuda_ceil(n, 32), n_chunk = cuda_ceil(n, KERNELS_TOP_CHUNK);
    const unsigned n_row_u = (unsigned)n_row;
    cuda_step_put(&c->base, t->words, t->host, write_words(t->host, n, rows, n_row));
    LAUNCH_NEXT(c, top_group, dim3((unsigned)n_chunk, n_row_u), TOP_CHUNK_BLOCK, 0, x, (int)n,
                n_group, t->words, t->group);
    LAUNCH_NEXT(c, top_sort, n_row_u, TOP_BLOCK, 0, x, (int)n, n_group, n_top, t->words, t->group,
                to, t->answer);
    LAUNCH_NEXT(c, top_mass, dim3((unsigned)n_chunk, n_row_u), TOP_CHUNK_BLOCK, 0, x, (int)n,
                t->words, to, t->answer);
    cuda_step_get(&c->base, t->heard, t->answer, (uint64_t)to.bytes * n_row_u);
    for (int32_t i = 0; i < n_row; i++)
        read_answer(t->heard + (uint64_t)i * to.bytes, &to, n, &rows[i]);
}

void cuda_top_run(struct kernels *k, const float *x, int64_t n, int32_t n_top, struct top_row *rows,
                  int32_t n_row)
{
    struct cuda *c = cuda_of(k);
    BUG_ON(n < 1 || n > c->lim.max_rows || n_top < 1 || n_top > KERNELS_TOP_MAX);
    c->n_op++;
    for (int32_t i = 0; i < n_row; i += TOP_ROWS)
        run(c, x, n, n_top, rows + i, n_row - i < TOP_ROWS ? n_row - i : TOP_ROWS);
}
