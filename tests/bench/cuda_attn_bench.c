// cuda_attn_bench: attention on a device at the sizes of real models. Decoding: time of a step's
// reading of keys and values, bytes of it per second, and the share of what reading reaches on the
// device; each layer reads pages of its own, together more than the caches hold. Prompts:
// operations per second, of those that the mask leaves. A gated delta layer: tokens per second.
// Everything is recorded and repeated, as a step of decoding is; a recorded step knows no lengths,
// as in service.
//
//     cuda_attn_bench [--device cuda:N] [--tiny]   (tiny: to see that it works)
#include "tests/bench/device_bench.h"

#include <string.h>

enum { PAGE_TOK = 64, BATCH_MAX = 64, LAYERS_MAX = 16 };

// Floats between -1 and 1: a few different ones again and again.
static float *take_floats(struct bench *b, int64_t n)
{
    enum { SOME = 1 << 16 };
    static float some[SOME];
    float *p = take(b, (uint64_t)n * 4);
    for (int i = 0; i < SOME; i++)
        some[i] = (float)(i * 7919 % 2003) / 1001 - 1;
    for (int64_t at = 0; at < n; at += SOME)
        b->k->ops->put(b->k, p + at, some, (uint64_t)(n - at < SOME ? n - at : SOME) * 4);
    return p;
}

struct attn_shape {
    const char *name;
    int n_head, n_kv, hd, hd_v;
    bool v_in_k;
};

struct attn_work {
    struct attn_args args;
    int n_layer;
    uint64_t layer_bytes;
};
static void attend_layers(struct bench *b, void *arg)
{
    struct attn_work *w = arg;
    struct attn_args a = w->args;
    for (int i = 0; i < w->n_layer; i++) {
        a.kv.data = (char *)w->args.kv.data + (uint64_t)i * w->layer_bytes;
        b->k->ops->attention(b->k, &a);
    }
}

// Every run at position pos with n_tok tokens, pages of its own.
static void fill_runs(struct attn_run *runs, int n_run, int pos, int n_tok, int32_t *pages)
{
    const int n_page = (pos + n_tok + PAGE_TOK - 1) / PAGE_TOK;
    for (int r = 0; r < n_run; r++) {
        runs[r] = (struct attn_run){r * n_tok, n_tok, pos, pages + r * n_page};
        for (int i = 0; i < n_page; i++) // spread as they are after a while of service
            pages[r * n_page + i] = (int32_t)(((int64_t)i * n_run + r) * 7919 % (n_page * n_run));
    }
}

// Time of one layer, seconds; n_run runs of n_tok tokens behind `pos` others. Negative: does not
// fit.
static double attend(struct bench *b, const struct attn_shape *s, enum dtype t, int n_run, int pos,
                     int n_tok, uint64_t *bytes)
{
    static struct attn_run runs[BATCH_MAX];
    const struct kernels_ops *ops = b->k->ops;
    struct attn_work w = {.args = {.n_head = s->n_head,
                                   .kv = {.page_tok = PAGE_TOK,
                                          .n_head_kv = s->n_kv,
                                          .head_dim = s->hd,
                                          .head_dim_v = s->hd_v,
                                          .v_in_k = s->v_in_k,
                                          .dtype = t},
                                   .runs = runs,
                                   .n_run = n_run,
                                   .scale = 0.05f}};
    const int n_page = (pos + n_tok + PAGE_TOK - 1) / PAGE_TOK * n_run;
    w.args.kv.page_bytes = (int64_t)ops->kv_page_bytes(b->k, &w.args.kv);
    if (!w.args.kv.page_bytes) {
        printf("# no pages of %s\n", dtype_info(t)->name);
        return -1;
    }
    w.layer_bytes = (uint64_t)n_page * (uint64_t)w.args.kv.page_bytes;
    *bytes = w.layer_bytes;
    const uint64_t want = (uint64_t)512 << 20, most = (uint64_t)24 << 30;
    w.n_layer = b->tiny ? 2 : (int)(want / w.layer_bytes + 1);
    if (w.n_layer > LAYERS_MAX) w.n_layer = LAYERS_MAX;
    if (w.layer_bytes > most) return -1;
    int32_t *pages = malloc((size_t)n_page * sizeof *pages),
            *at = calloc((size_t)(n_run * n_tok), 4);
    if (!pages || !at) exit(2);
    fill_runs(runs, n_run, pos, n_tok, pages);
    float *q = take_floats(b, (int64_t)n_run * n_tok * s->n_head * s->hd);
    float *out = take(b, (uint64_t)(n_run * n_tok) * (uint64_t)(s->n_head * s->hd_v) * 4);
    w.args.q = q;
    w.args.out = out;
    w.args.kv.data = take(b, w.layer_bytes * (uint64_t)w.n_layer); // zeros: every key counts alike
    const struct kernels_step step = {.pos = at,
                                      .n_tok = n_run * n_tok,
                                      .runs = {runs},
                                      .n_run = {n_run},
                                      .n_list = 1,
                                      .page_tok = PAGE_TOK,
                                      .key = n_tok == 1 ? ++b->key : 0};
    const double seconds = seconds_of(b, attend_layers, &w, step) / w.n_layer;
    ops->give(b->k, q, (uint64_t)(n_run * n_tok) * (uint64_t)(s->n_head * s->hd) * 4);
    ops->give(b->k, out, (uint64_t)(n_run * n_tok) * (uint64_t)(s->n_head * s->hd_v) * 4);
    ops->give(b->k, w.args.kv.data, w.layer_bytes * (uint64_t)w.n_layer);
    free(pages);
    free(at);
    return seconds;
}

static void bench_decode(struct bench *b, const struct attn_shape *s, enum dtype t)
{
    static const int lens[] = {1024, 4096, 8192, 32768}, batches[] = {1, 4, 16, 64};
    const int n_len = b->tiny ? 1 : (int)(sizeof lens / sizeof *lens);
    for (int i = 0; i < n_len; i++)
        for (int j = 0; j < (b->tiny ? 2 : 4); j++) {
            uint64_t bytes = 0;
            const int len = b->tiny ? 192 : lens[i];
            const double sec = attend(b, s, t, batches[j], len - 1, 1, &bytes);
            if (sec <= 0) continue;
            printf("decode,%s,%s,%d,%d,%.2f,%.0f,%.3f\n", s->name, dtype_info(t)->name, len,
                   batches[j], sec * 1e6, (double)bytes / sec / 1e9,
                   (double)bytes / sec / b->copy_bytes_per_s);
            fflush(stdout);
        }
}

static void bench_prefill(struct bench *b, const struct attn_shape *s, enum dtype t)
{
    static const int lens[] = {2048, 8192, 16384};
    for (int i = 0; i < (b->tiny ? 1 : 3); i++) {
        uint64_t bytes = 0;
        const int len = b->tiny ? 96 : lens[i], n_tok = len < 2048 ? len : 2048;
        const double sec = attend(b, s, t, 1, len - n_tok, n_tok, &bytes);
        if (sec <= 0) continue;
        const double pairs = (double)n_tok * (len - n_tok + 0.5 * (n_tok + 1)) * s->n_head;
        printf("prefill,%s,%s,%d,%d,%.2f,%.1f,\n", s->name, dtype_info(t)->name, len, n_tok,
               sec * 1e6, 2e-12 * pairs * (s->hd + s->hd_v) / sec);
        fflush(stdout);
    }
}

static void delta_once(struct bench *b, void *arg)
{
    b->k->ops->delta(b->k, arg);
}

// Of Qwen3-Next's shape: a prompt, and steps of many sequences.
static void bench_delta(struct bench *b)
{
    enum { HK = 16, HV = 32, DIM = 128, LD = (2 * HK + HV) * DIM };
    static const int cuts[][2] = {{1, 2048}, {1, 512}, {64, 1}, {1, 1}}; // runs, tokens of each
    const int heads = b->tiny ? 1 : HV, most = b->tiny ? 48 : 2048;
    float *qkv = take_floats(b, (int64_t)most * LD), *ab = take_floats(b, (int64_t)most * HV);
    float *state = take_floats(b, (int64_t)BATCH_MAX * HV * DIM * DIM);
    float *out = take(b, (uint64_t)most * HV * DIM * 4);
    float *minus = take_floats(b, HV);
    b->k->ops->scale(b->k, minus, -1.0f, HV);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        static struct attn_run runs[BATCH_MAX];
        static uint32_t slots[BATCH_MAX];
        static int32_t pos[2048];
        const int n_run = b->tiny && cuts[i][0] > 2 ? 2 : cuts[i][0];
        const int n_tok = cuts[i][1] < most ? cuts[i][1] : most;
        for (int r = 0; r < n_run; r++) {
            runs[r] = (struct attn_run){r * n_tok, n_tok, 0, NULL};
            slots[r] = (uint32_t)r;
        }
        struct delta_args a = {.q = qkv,
                               .k = qkv + HK * DIM,
                               .v = qkv + 2 * HK * DIM,
                               .ld = LD,
                               .a = ab,
                               .b = ab,
                               .a_neg = minus,
                               .dt_bias = minus,
                               .n_head_k = heads < HK ? heads : HK,
                               .n_head_v = heads,
                               .dim_k = DIM,
                               .dim_v = DIM,
                               .runs = runs,
                               .n_run = n_run,
                               .slots = slots,
                               .state = state,
                               .state_ld = HV * DIM * DIM,
                               .out = out};
        const struct kernels_step step = {.pos = pos,
                                          .n_tok = n_run * n_tok,
                                          .runs = {runs},
                                          .slots = {slots},
                                          .n_run = {n_run},
                                          .n_list = 1,
                                          .page_tok = PAGE_TOK,
                                          .key = n_tok == 1 ? ++b->key : 0};
        const double sec = seconds_of(b, delta_once, &a, step);
        printf("delta,qwen3-next,F32,%d,%d,%.2f,%.0f,\n", n_tok, n_run, sec * 1e6,
               n_run * n_tok / sec);
        fflush(stdout);
    }
    b->k->ops->give(b->k, qkv, (uint64_t)most * LD * 4);
    b->k->ops->give(b->k, ab, (uint64_t)most * HV * 4);
    b->k->ops->give(b->k, state, (uint64_t)BATCH_MAX * HV * DIM * DIM * 4);
    b->k->ops->give(b->k, out, (uint64_t)most * HV * DIM * 4);
    b->k->ops->give(b->k, minus, HV * 4);
}

int main(int argc, char **argv)
{
    static const enum dtype types[] = {DT_F16, DT_BF16, DT_F8_E4M3, DT_Q8_0};
    static const struct attn_shape shapes[] = {{"8b", 32, 8, 128, 128, false},
                                               {"gpt-oss", 64, 8, 64, 64, false},
                                               {"gemma", 8, 4, 256, 256, false},
                                               {"mla", 16, 1, 576, 512, true}};
    struct bench b = {0};
    const char *device = "cuda";
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--tiny"))
            b.tiny = true;
        else if (!strcmp(argv[i], "--device") && i + 1 < argc)
            device = argv[++i];
    }
    const struct kernels_limits limits = {.n_threads = 1,
                                          .precision = PRECISION_FAST,
                                          .max_tok = 2048,
                                          .max_cols = 512,
                                          .max_rows = 512,
                                          .max_head = 64,
                                          .max_head_dim = 576,
                                          .max_ctx = b.tiny ? 512 : 32768};
    struct err_text why;
    if (kernels_open(device, &limits, &b.k, &why)) {
        printf("%s\n", why.s);
        return 77;
    }
    b.y = take(&b, 64);
    measure_copy(&b);
    printf(
        "what,shape,type,context,batch or tokens,us,GB/s or TFLOP/s or tokens/s,share of copy\n");
    for (size_t i = 0; i < (b.tiny ? 1 : sizeof shapes / sizeof *shapes); i++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            bench_decode(&b, &shapes[i], types[t]);
            bench_prefill(&b, &shapes[i], types[t]);
        }
    bench_delta(&b);
    const err_t e = b.k->ops->status(b.k, &why);
    if (e) printf("%s\n", why.s);
    b.k->ops->close(b.k);
    return e ? 1 : 0;
}
