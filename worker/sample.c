#include "worker/sample.h"
#include "kernels/weight.h"

#include <math.h>
#include <string.h>

enum {
    // Ids further below the best than WEIGHT_NATS have weight 0: less than 1 in 10^17 each.
    BINS_PER_NAT = 8,
    BINS = WEIGHT_NATS * BINS_PER_NAT + 1,
};
static const float TEMPERATURE_MIN = 1e-6f; // below it only the best are left anyway

void sample_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

// Uniform in [0, 1), 53 bits.
static double uniform(uint64_t seed, uint32_t choice, uint32_t position)
{
    const uint32_t counter[4] = {position, choice, 0, 0};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t r[4];
    sample_philox(counter, key, r);
    return (double)((uint64_t)r[0] << 21 | r[1] >> 11) * 0x1p-53;
}

static void take_away(float *logits, uint32_t from, uint32_t to)
{
    for (; from < to; from++)
        logits[from] = -INFINITY;
}

void sample_mask(float *logits, int32_t n_vocab, const uint8_t *set, size_t len)
{
    struct idset_runs runs = {.set = set, .len = len};
    uint32_t at = 0, from, to;
    while (idset_next(&runs, &from, &to)) {
        take_away(logits, at, from);
        at = to;
    }
    take_away(logits, at, (uint32_t)n_vocab);
}

float sample_per_temperature(const struct sampling *s)
{
    return 1 / (s->temperature > TEMPERATURE_MIN ? s->temperature : TEMPERATURE_MIN);
}

// Lanes of their own, so that they can be compared side by side. NaN never wins.
static float largest(const float *x, int32_t n)
{
    enum { LANES = 16 };
    float best[LANES];
    int32_t i = 0;
    for (int k = 0; k < LANES; k++)
        best[k] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            best[k] = x[i + k] > best[k] ? x[i + k] : best[k];
    for (; i < n; i++)
        best[0] = x[i] > best[0] ? x[i] : best[0];
    for (int k = 1; k < LANES; k++)
        best[0] = best[k] > best[0] ? best[k] : best[0];
    return best[0];
}

bool sample_weigh(float logit, int32_t id, float best, float per_t, struct sample_cand *out)
{
    const float d = (logit - best) * per_t;
    if (d < -(float)WEIGHT_NATS) return false;
    *out = (struct sample_cand){logit, weight_of(d), id};
    return true;
}

// Every id that is at least `least` and within the cut, in the order of ids.
static int32_t gather(const float *logits, int32_t n_vocab, const struct sampling *s, float best,
                      float least, struct sample_cand *cands)
{
    const float per_t = sample_per_temperature(s);
    int32_t n = 0;
    for (int32_t i = 0; i < n_vocab; i++)
        if (logits[i] >= least) n += sample_weigh(logits[i], i, best, per_t, &cands[n]);
    return n;
}

static double sum_weights(const struct sample_cand *c, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += c[i].weight;
    return sum;
}

bool sample_ranks_before(const struct sample_cand *a, const struct sample_cand *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static bool is_lower(const struct sample_cand *a, const struct sample_cand *b)
{
    return a->id < b->id;
}

typedef bool before_fn(const struct sample_cand *a, const struct sample_cand *b);

static void sift_down(struct sample_cand *c, int32_t at, int32_t n, before_fn *before)
{
    const struct sample_cand moved = c[at];
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && before(&c[child], &c[child + 1])) child++;
        if (!before(&moved, &c[child])) break;
        c[at] = c[child];
        at = child;
    }
    c[at] = moved;
}

// Heap sort: in place, no worst case, and no allocation as in qsort.
static void sort(struct sample_cand *c, int32_t n, before_fn *before)
{
    for (int32_t i = n / 2 - 1; i >= 0; i--)
        sift_down(c, i, n, before);
    for (int32_t end = n - 1; end > 0; end--) {
        const struct sample_cand last = c[end];
        c[end] = c[0];
        c[0] = last;
        sift_down(c, 0, end, before);
    }
}

void sample_sort_ranks(struct sample_cand *c, int32_t n)
{
    sort(c, n, sample_ranks_before);
}

void sample_sort_ids(struct sample_cand *c, int32_t n)
{
    sort(c, n, is_lower);
}

static int32_t bin_of(const struct sample_cand *c, float best, float per_t)
{
    return (int32_t)((best - c->logit) * per_t * BINS_PER_NAT);
}

// Keeps whole bins of nearly equal logits, best first, until they hold k ids (k > 0) or `mass`: a
// few ids instead of the vocabulary are left to sort. All that top-k or top-p can keep is among
// them.
static int32_t keep_best(struct sample_cand *c, int32_t n, const struct sampling *s, int32_t k,
                         double mass)
{
    uint32_t count[BINS] = {0};
    double weight[BINS] = {0};
    const float per_t = sample_per_temperature(s);
    float best = c[0].logit;
    for (int32_t i = 1; i < n; i++)
        if (c[i].logit > best) best = c[i].logit;
    for (int32_t i = 0; i < n; i++) {
        const int32_t b = bin_of(&c[i], best, per_t);
        count[b]++;
        weight[b] += c[i].weight;
    }
    int32_t limit = 0, n_in = (int32_t)count[0];
    double in = weight[0];
    while (limit + 1 < BINS && (k > 0 ? n_in < k : in < mass)) {
        limit++;
        n_in += (int32_t)count[limit];
        in += weight[limit];
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (bin_of(&c[i], best, per_t) <= limit) c[kept++] = c[i];
    return kept;
}

// top-k, then top-p of what is left: the fewest ids whose weights reach top_p of the sum.
static int32_t truncate(struct sample_cand *c, int32_t n, const struct sampling *s)
{
    const int32_t k = s->top_k > 0 && s->top_k < n ? s->top_k : 0;
    if (k == 0 && s->top_p >= 1) return n;
    // A little more than top_p, so that rounding in another order cannot lose the last id.
    double total = sum_weights(c, n);
    n = keep_best(c, n, s, k, total * s->top_p * (1 + 1e-9));
    sample_sort_ranks(c, n);
    if (k) {
        n = k;
        total = sum_weights(c, n);
    }
    if (s->top_p >= 1) return n;
    double in = 0;
    for (int32_t i = 0; i < n; i++) {
        in += c[i].weight;
        if (in >= total * s->top_p) return i + 1;
    }
    return n;
}

static int32_t drop_unlikely(struct sample_cand *c, int32_t n, float min_p)
{
    if (min_p <= 0) return n;
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (c[i].weight >= min_p) c[kept++] = c[i]; // the best has weight 1
    return kept;
}

double sample_uniform(const struct sampling *s, uint32_t position)
{
    return uniform(s->seed, s->choice, position);
}

int32_t sample_pick_left(struct sample_cand *cands, int32_t n, const struct sampling *s,
                         uint32_t position)
{
    n = drop_unlikely(cands, n, s->min_p);
    const double at = sample_uniform(s, position) * sum_weights(cands, n);
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += cands[i].weight;
        if (at < sum) return cands[i].id;
    }
    return cands[n - 1].id;
}

int32_t sample_pick(struct sample_cand *cands, int32_t n, const struct sampling *s,
                    uint32_t position)
{
    return sample_pick_left(cands, truncate(cands, n, s), s, position);
}

// The k-th largest of x[n], which is reordered; 0 < k <= n. Hoare's selection.
static float select(float *x, int32_t n, int32_t k)
{
    int32_t from = 0, to = n - 1;
    while (from < to) {
        const float pivot = x[from + (to - from) / 2];
        int32_t i = from, j = to;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (pivot > x[j])
                j--;
            if (i > j) break;
            const float moved = x[i];
            x[i++] = x[j];
            x[j--] = moved;
        }
        if (k - 1 <= j)
            to = j;
        else if (k - 1 >= i)
            from = i;
        else
            break;
    }
    return x[k - 1];
}

// A value that at least k ids reach, and few more: the k-th largest of what the best of each group
// of ids have. -INFINITY: there are not that many groups.
static float bound_of(const float *logits, int32_t n_vocab, int32_t k, float *groups)
{
    enum { GROUP = 64 };
    const int32_t n = n_vocab / GROUP;
    if (k > n) return -INFINITY;
    for (int32_t i = 0; i < n; i++)
        groups[i] = largest(logits + (int64_t)i * GROUP, GROUP);
    return select(groups, n, k);
}

// Each id's weight costs more than a look at it: where only the best can be drawn, the others are
// left out before.
int32_t sample_draw(const float *logits, int32_t n_vocab, const struct sampling *s,
                    uint32_t position, struct sample_cand *cands)
{
    const float best = largest(logits, n_vocab);
    float least = -INFINITY;
    if (s->top_k > 0) // whether there are more than top_k is to be seen
        least = bound_of(logits, n_vocab, s->top_k + 1, (float *)(void *)cands);
    else if (s->top_p >= 1 && s->min_p > 0)
        least = best + (logf(s->min_p) - 0.01f) / sample_per_temperature(s);
    int32_t n = gather(logits, n_vocab, s, best, least, cands);
    if (s->top_k > 0 && n <= s->top_k && least > -INFINITY)
        n = gather(logits, n_vocab, s, best, -INFINITY, cands);
    return sample_pick(cands, n, s, position);
}

int32_t sample_best(const float *logits, int32_t n_vocab)
{
    const float best = largest(logits, n_vocab);
    for (int32_t i = 0; i < n_vocab; i++)
        if (logits[i] == best) return i;
    return 0; // only NaN
}

void sample_top(const float *logits, int32_t n_vocab, uint32_t n, struct token_prob *out)
{
    uint32_t have = 0;
    for (int32_t i = 0; i < n_vocab && n; i++) {
        if (have == n && !(logits[i] > out[n - 1].logprob)) continue;
        uint32_t at = have < n ? have++ : n - 1;
        for (; at > 0 && logits[i] > out[at - 1].logprob; at--)
            out[at] = out[at - 1];
        out[at] = (struct token_prob){.id = i, .logprob = logits[i]};
    }
}

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9E3779B97F4A7C15;
    return h ^ h >> 29;
}

uint64_t sample_digest(const float *logits, int32_t n_vocab)
{
    uint64_t lane[4] = {1, 2, 3, 4}; // four chains at once: a multiplication takes a while
    int32_t i = 0;
    for (; i + 8 <= n_vocab; i += 8) {
        uint64_t word[4];
        memcpy(word, logits + i, 32);
        for (int j = 0; j < 4; j++)
            lane[j] = mix(lane[j], word[j]);
    }
    for (; i < n_vocab; i++) {
        uint32_t last;
        memcpy(&last, logits + i, 4);
        lane[0] = mix(lane[0], last);
    }
    uint64_t h = (uint64_t)n_vocab;
    for (int j = 0; j < 4; j++)
        h = mix(h, lane[j]);
    return h ? h : 1;
}
