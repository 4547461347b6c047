// trireme bench: prompt and decode tokens/s by batch size with the share of this machine's measured
// limits, or the perplexity of a text.
#include "deploy/bench.h"
#include "deploy/bench_predict.h"
#include "deploy/cmd.h"
#include "deploy/opts.h"
#include "topology/probe.h"
#include "worker/profile.h"
#include "worker/rate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCHES_MAX = 16, OPS_PEAK_MS = 300, WARM_PROMPT = 32, WARM_TOKENS = 4 };

struct bench_args {
    struct bench b;
    const char *path, *batches, *workers, *perplexity;
    uint32_t depth, n_prompt, n_decode, window, windows, kv_choice;
    uint32_t split; // enum share_split, of predictions
    const char *link_text;
    struct cluster_link link;
    bool json, predict, kept_rates, kept_operations, ops;
};

// Numbers from 1 to `most`, commas between them.
static int parse_list(const char *option, const char *list, long most, uint32_t *out, uint32_t *n)
{
    for (const char *p = list; *p;) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || v < 1 || v > most || *n == BATCHES_MAX || (*end && *end != ',')) {
            fprintf(stderr, "error: %s takes up to %d numbers from 1 to %ld, like 1,4,16\n", option,
                    BATCHES_MAX, most);
            return 2;
        }
        out[(*n)++] = (uint32_t)v;
        p = *end ? end + 1 : end;
    }
    return 0;
}

static void print_head(const struct bench_args *a)
{
    const struct bench *b = &a->b;
    const struct stage_sizes s = stage_sizes_get(b->stage);
    const uint64_t planned = s.weight_bytes + s.kv_bytes + s.work_bytes;
    if (a->json) {
        printf("{\"model\":\"%s\",\"threads\":%u,\"precision\":\"%s\",\"read_bytes_per_s\":%.0f,"
               "\"int8_ops_per_s\":%.0f,\"f32_flops_per_s\":%.0f,\"half_flops_per_s\":%.0f,"
               "\"load_s\":%.3f,\"weight_bytes\":%llu,\"planned_bytes\":%llu,"
               "\"taken_bytes\":%llu,\"prompt\":%u,\"decode\":%u,\"rows\":[",
               b->model->shape.arch, b->n_threads, b->precision ? "exact" : "fast",
               b->peaks.read_bytes_per_s, b->peaks.int8_ops_per_s, b->peaks.f32_flops_per_s,
               b->peaks.half_flops_per_s, b->load_s, (unsigned long long)s.weight_bytes,
               (unsigned long long)planned, (unsigned long long)b->taken_bytes, a->n_prompt,
               a->n_decode);
        return;
    }
    printf("%s (%s), %u threads, %s; measured: read %.1f GB/s, int8 %.0f GOP/s, f32 %.0f GFLOP/s\n",
           b->model->shape.name, b->model->shape.arch, b->n_threads,
           b->precision ? "exact" : "fast", b->peaks.read_bytes_per_s * 1e-9,
           b->peaks.int8_ops_per_s * 1e-9, b->peaks.f32_flops_per_s * 1e-9);
    printf("loaded in %.2f s; memory: %.1f MiB planned, %.1f taken\n", b->load_s,
           (double)planned / (1 << 20), (double)b->taken_bytes / (1 << 20));
    printf("%6s %14s %16s %14s %18s\n", "batch", "prompt tok/s",
           b->precision                    ? "of f32 peak"
           : b->peaks.half_flops_per_s > 0 ? "of 16-bit peak"
                                           : "of int8 peak",
           "decode tok/s", "of read bandwidth");
}

static void print_row(const struct bench_args *a, const struct bench_row *r, bool first)
{
    if (a->json)
        printf("%s{\"batch\":%u,\"prompt_tok_s\":%.2f,\"prompt_share\":%.4f,\"decode_tok_s\":%.2f,"
               "\"decode_share\":%.4f,\"prompt_busy\":%.4f,\"decode_busy\":%.4f}",
               first ? "" : ",", r->batch, r->prompt_tok_s, r->prompt_share, r->decode_tok_s,
               r->decode_share, r->prompt_busy, r->decode_busy);
    else
        printf("%6u %14.1f %15.1f%% %14.1f %17.1f%%\n", r->batch, r->prompt_tok_s,
               r->prompt_share * 100, r->decode_tok_s, r->decode_share * 100);
    if (!a->json && r->decode_busy > 0)
        printf("%6s device at work: prompt %.1f %%, decode %.1f %%\n", "", r->prompt_busy * 100,
               r->decode_busy * 100);
    fflush(stdout);
}

static void print_profile(const char *what, const struct kernels_profile *p, uint64_t us)
{
    const struct profile_times t = {.busy_us = us};
    struct buf text = {0};
    profile_table(p, &t, &text);
    if (buf_ok(&text)) printf("\n%s\n%s", what, text.data);
    buf_fini(&text);
}

// The first pass touches every page of weights and KV once; it is not counted.
static err_t warm_up(struct bench_args *a, struct err_text *why)
{
    const struct bench_ask little = {.batch = 1, .n_prompt = WARM_PROMPT, .n_decode = WARM_TOKENS};
    struct bench_row row;
    return bench_run(&a->b, &little, &row, why);
}

static struct bench_ask ask_of(const struct bench_args *a, uint32_t batch)
{
    return (struct bench_ask){batch, a->depth, a->n_prompt, a->n_decode};
}

static err_t speed(struct bench_args *a, const uint32_t *batches, uint32_t n, struct err_text *why)
{
    struct bench_row row;
    err_t err = warm_up(a, why);
    print_head(a);
    for (uint32_t i = 0; !err && i < n; i++) {
        const struct bench_ask ask = ask_of(a, batches[i]);
        err = bench_run(&a->b, &ask, &row, why);
        if (err) break;
        print_row(a, &row, i == 0);
        if (!a->b.profile || a->json) continue;
        print_profile("prompt", &row.prompt, row.prompt_us);
        print_profile("decode", &row.decode, row.decode_us);
    }
    if (a->json) printf("]}\n");
    return err;
}

// ---- predictions

enum { RUNS = 3 };

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Medians of what this process reaches.
static err_t measure(struct bench_args *a, uint32_t batch, struct bench_predict *out,
                     struct err_text *why)
{
    double decode[RUNS], prompt[RUNS];
    const struct bench_ask ask = ask_of(a, batch);
    struct bench_row row;
    err_t err = OK;
    for (int i = 0; !err && i < RUNS; i++) {
        err = bench_run(&a->b, &ask, &row, why);
        decode[i] = row.decode_tok_s;
        prompt[i] = row.prompt_tok_s;
    }
    if (err) return err;
    qsort(decode, RUNS, sizeof *decode, by_value);
    qsort(prompt, RUNS, sizeof *prompt, by_value);
    *out = (struct bench_predict){decode[RUNS / 2], prompt[RUNS / 2]};
    return OK;
}

// `real` NULL: nothing was measured.
static void print_predicted(const struct bench_args *a, const struct bench_predict_ask *ask,
                            const struct bench_predict *p, const struct bench_predict *real,
                            bool first)
{
    if (a->json) {
        printf("%s{\"workers\":%u,\"threads\":%u,\"batch\":%u,\"decode_predicted\":%.2f,"
               "\"prompt_predicted\":%.2f",
               first ? "" : ",", ask->n_worker, ask->n_threads, ask->batch, p->decode_tok_s,
               p->prompt_tok_s);
        if (real)
            printf(",\"decode_measured\":%.2f,\"prompt_measured\":%.2f", real->decode_tok_s,
                   real->prompt_tok_s);
        printf("}");
        return;
    }
    printf("%7u %7u %5u %9.1f", ask->n_worker, ask->n_threads, ask->batch, p->decode_tok_s);
    if (real)
        printf(" %9.1f %+6.1f%% %9.1f %9.1f %+6.1f%%\n", real->decode_tok_s,
               100 * (p->decode_tok_s / real->decode_tok_s - 1), p->prompt_tok_s,
               real->prompt_tok_s, 100 * (p->prompt_tok_s / real->prompt_tok_s - 1));
    else
        printf(" %9s %7s %9.1f\n", "-", "", p->prompt_tok_s);
    fflush(stdout);
}

static uint32_t threads_of(const struct bench_args *a, uint32_t n_worker)
{
    return a->b.n_threads / n_worker ? a->b.n_threads / n_worker : 1;
}

// As many workers at once as have cores of their own.
static uint32_t most_at_once(const struct bench_args *a, uint32_t n_worker, uint32_t n_threads)
{
    const uint32_t n = a->b.n_threads / n_threads;
    return n < 1 ? 1 : n < n_worker ? n : n_worker;
}

static err_t steps(const struct bench_args *a, uint32_t n_threads, uint32_t n_at_once, bool refresh,
                   struct pace_times *out, struct err_text *why)
{
    const struct step_times_ask ask = {.model = a->b.model,
                                       .n_threads = (int32_t)n_threads,
                                       .n_at_once = (int32_t)n_at_once,
                                       .kv_dtype = a->b.kv_dtype,
                                       .precision = a->b.precision};
    return bench_predict_times(&ask, refresh, out, why);
}

// Of layers too large to be measured the operations must do.
static err_t kept_steps(const struct bench_args *a, struct bench_predict_ask *ask,
                        struct pace_times *times, struct err_text *why)
{
    const uint32_t n = most_at_once(a, ask->n_worker, ask->n_threads);
    err_t err = OK;
    for (uint32_t i = 0; !err && i < n; i++)
        err = steps(a, ask->n_threads, i + 1, false, &times[i], why);
    if (err == ERR_UNSUPPORTED) return OK;
    ask->times = times;
    ask->n_times = err ? 0 : n;
    return err;
}

static err_t predict_row(struct bench_args *a, const struct cost_model *m, uint32_t workers,
                         uint32_t batch, bool *is_first, struct err_text *why)
{
    struct bench_predict_ask ask = {.split = (enum share_split)a->split,
                                    .n_worker = workers,
                                    .n_threads = threads_of(a, workers),
                                    .batch = batch,
                                    .n_prompt = a->n_prompt,
                                    .n_decode = a->n_decode,
                                    .link = a->link,
                                    .kv_elem_bits = dtype_kv_bits((enum dtype)a->b.kv_dtype)};
    struct cluster_device d;
    struct bench_predict p, real;
    struct pace_times times[CLUSTER_DEVICES_MAX];
    const bool is_measured = workers == 1 && !a->json;
    err_t err = bench_predict_device(a->b.n_threads, false, &d, why);
    ask.all = d.rates;
    ask.is_served = !is_measured;
    if (!err) err = bench_predict_device(ask.n_threads, false, &d, why);
    if (!err) err = kept_steps(a, &ask, times, why);
    if (!err) err = bench_predict(m, &d, &ask, &p, why);
    if (!err && is_measured) err = measure(a, batch, &real, why);
    if (!err) print_predicted(a, &ask, &p, is_measured ? &real : NULL, *is_first);
    *is_first = false;
    return err;
}

// Whether a list of workers has asked for as many threads each before its item i.
static bool is_done(const struct bench_args *a, const uint32_t *workers, uint32_t i)
{
    for (uint32_t k = 0; k < i; k++)
        if (threads_of(a, workers[k]) == threads_of(a, workers[i]) && workers[k] >= workers[i])
            return true;
    return false;
}

// Speeds that were kept may be of another hour, or of other kernels.
static err_t measure_again(const struct bench_args *a, const uint32_t *workers, uint32_t n,
                           struct err_text *why)
{
    struct cluster_device d;
    const bool all = !a->kept_operations;
    err_t err = bench_predict_device(a->b.n_threads, all, &d, why);
    for (uint32_t i = 0; !err && i < n; i++) {
        const uint32_t n_threads = threads_of(a, workers[i]);
        const uint32_t n_at_once = most_at_once(a, workers[i], n_threads);
        if (is_done(a, workers, i)) continue;
        if (n_threads != a->b.n_threads) err = bench_predict_device(n_threads, all, &d, why);
        for (uint32_t k = 1; !err && k <= n_at_once; k++) {
            struct pace_times times;
            err = steps(a, n_threads, k, true, &times, why);
            if (err == ERR_UNSUPPORTED) break;
        }
        if (err == ERR_UNSUPPORTED) err = OK;
    }
    return err;
}

static err_t parse_link(struct bench_args *a, struct err_text *why)
{
    char end;
    struct cluster_link *l = &a->link;
    if (!a->link_text) return OK;
    if (sscanf(a->link_text, "%lf,%lf%c", &l->latency_us, &l->bytes_per_s, &end) != 2 ||
        !(l->latency_us >= 0 && l->latency_us <= 1e7) ||
        !(l->bytes_per_s >= 1 && l->bytes_per_s <= 1e16))
        return err_say(why, ERR_INVALID,
                       "--link %.40s, wanted US,BYTES: 0 to 1e7 microseconds, 1 to 1e16 bytes/s",
                       a->link_text);
    return OK;
}

// One worker against what this process measures (not with --json), which serves nobody meanwhile;
// for more workers the prediction alone: tests/bench/predict.py measures those as processes.
static err_t predict(struct bench_args *a, const uint32_t *batches, uint32_t n,
                     struct err_text *why)
{
    uint32_t workers[BATCHES_MAX], n_worker = 0;
    bool is_first = true;
    if (parse_list("--workers", a->workers, CLUSTER_DEVICES_MAX, workers, &n_worker))
        return err_say(why, ERR_INVALID, "no list of numbers of workers");
    if (parse_link(a, why)) return ERR_INVALID;
    struct cost_model *m = malloc(sizeof *m);
    if (!m) return err_say(why, ERR_MEMORY, "out of memory");
    cost_of_model(a->b.model, m);
    err_t err = a->kept_rates ? OK : measure_again(a, workers, n_worker, why);
    if (!err && !a->json) err = warm_up(a, why);
    if (a->json)
        printf("{\"model\":\"%s\",\"prompt\":%u,\"decode\":%u,\"rows\":[", m->name, a->n_prompt,
               a->n_decode);
    else
        printf("%7s %7s %5s %9s %9s %7s %9s %9s\n", "workers", "threads", "batch", "decode",
               "measured", "", "prompt", "measured");
    for (uint32_t w = 0; !err && w < n_worker; w++)
        for (uint32_t i = 0; !err && i < n; i++)
            err = predict_row(a, m, workers[w], batches[i], &is_first, why);
    if (a->json) printf("]}\n");
    free(m);
    return err;
}

// ---- operations

static void print_ops_json(const struct rates *r, const struct kernels_peaks *p)
{
    printf("{\"read_bytes_per_s\":%.0f,\"int8_ops_per_s\":%.0f,\"f32_flops_per_s\":%.0f,"
           "\"product_us\":%.3f,\"layer_us\":%.3f,\"float_ns\":%.4f,\"seq_us\":%.3f,"
           "\"logit_ns\":%.4f,\"attn_one_flops_per_s\":%.0f,\"attn_many_flops_per_s\":%.0f,"
           "\"types\":[",
           p->read_bytes_per_s, p->int8_ops_per_s, p->f32_flops_per_s, r->product_us, r->layer_us,
           r->float_ns, r->seq_us, r->logit_ns, r->attn_one_flops_per_s, r->attn_many_flops_per_s);
    for (int32_t i = 0; i < r->n_type; i++) {
        printf("%s{\"type\":\"%s\",\"mul_per_s\":[", i ? "," : "",
               dtype_info(r->types[i].dtype)->name);
        for (int k = 0; k < RATES_POINTS; k++)
            printf("%s%.0f", k ? "," : "", r->types[i].mul_per_s[k]);
        printf("]}");
    }
    printf("]}\n");
}

// One matrix of 2 Mi elements: its time at one row and what it reads then, and the arithmetic at
// more rows, each beside its limit.
static void print_type(const struct rates_type *t, const struct kernels_peaks *p, double elems)
{
    const struct dtype_info *d = dtype_info(t->dtype);
    const double bytes = (double)d->bytes / d->block;
    const double peak = d->is_quantised ? p->int8_ops_per_s : p->f32_flops_per_s;
    printf("%-8s %8.1f us %7.1f GB/s %4.0f %%", d->name, 1e6 * elems / t->mul_per_s[0],
           1e-9 * bytes * t->mul_per_s[0], 100 * bytes * t->mul_per_s[0] / p->read_bytes_per_s);
    for (int k = 1; k < RATES_POINTS; k++)
        printf(" %7.1f %4.0f %%", 2e-9 * t->mul_per_s[k], 200 * t->mul_per_s[k] / peak);
    printf("\n");
}

static void print_ops(const struct rates *r, const struct kernels_peaks *p, uint32_t n_threads)
{
    const double attn[] = {r->attn_one_flops_per_s, r->attn_many_flops_per_s};
    printf("%u threads; measured: read %.1f GB/s, int8 %.0f GOP/s, f32 %.0f GFLOP/s\n", n_threads,
           p->read_bytes_per_s * 1e-9, p->int8_ops_per_s * 1e-9, p->f32_flops_per_s * 1e-9);
    printf("products, 2048 x 1024, share of the limit beside each; 1 row");
    for (int k = 1; k < RATES_POINTS; k++)
        printf(", %d", rates_rows[k]);
    printf(" rows (GOP/s)\n");
    for (int32_t i = 0; i < r->n_type; i++)
        print_type(&r->types[i], p, 2048 * 1024);
    for (int i = 0; i < 2; i++)
        printf("attention at depth 1024, %s: %.1f GFLOP/s, %.0f %%\n",
               i ? "rows of a prompt" : "one row", attn[i] * 1e-9,
               100 * attn[i] / p->f32_flops_per_s);
    printf(
        "beside: a product %.2f us; the rest of a layer %.2f us at one row, %.3f ns a float more "
        "and %.2f us a sequence more; choosing a token %.3f ns a logit\n",
        r->product_us, r->layer_us, r->float_ns, r->seq_us, r->logit_ns);
}

static err_t ops(const struct bench_args *a, struct err_text *why)
{
    struct kernels_peaks peaks;
    struct rates r;
    err_t err = rate_measure(a->b.device, (int32_t)a->b.n_threads, &r, why);
    if (!err)
        err = kernels_measure_peaks_of(a->b.device, (int32_t)a->b.n_threads, OPS_PEAK_MS, &peaks,
                                       why);
    if (err) return err;
    if (a->json)
        print_ops_json(&r, &peaks);
    else
        print_ops(&r, &peaks, a->b.n_threads);
    return OK;
}

static err_t perplexity(struct bench_args *a, struct err_text *why)
{
    double ppl;
    uint32_t n;
    err_t err = bench_perplexity(&a->b, a->perplexity, a->window, a->windows, &ppl, &n, why);
    if (err) return err;
    if (a->json)
        printf("{\"perplexity\":%.5f,\"scored\":%u,\"window\":%u,\"precision\":\"%s\"}\n", ppl, n,
               a->window, a->b.precision ? "exact" : "fast");
    else
        printf("perplexity %.4f over %u tokens, windows of %u, %s\n", ppl, n, a->window,
               a->b.precision ? "exact" : "fast");
    return OK;
}

static err_t with_model(struct bench_args *a, const char *model, const uint32_t *batches,
                        uint32_t n_batch, struct err_text *why)
{
    struct bench *b = &a->b;
    const uint32_t kv_dtypes[] = {
        b->precision ? DT_F32 : DT_F16, DT_F16, DT_BF16, DT_F8_E4M3, DT_Q8_0, DT_F32};
    b->kv_dtype = kv_dtypes[a->kv_choice];
    b->max_tok = 512;
    b->n_slot = 1;
    for (uint32_t i = 0; i < n_batch; i++)
        if (batches[i] > b->n_slot) b->n_slot = batches[i];
    b->ctx = a->perplexity ? a->window : a->depth + a->n_prompt + a->n_decode;
    if (b->ctx < WARM_PROMPT + WARM_TOKENS) b->ctx = WARM_PROMPT + WARM_TOKENS;
    err_t err = bench_open(b, model, why);
    if (!err && a->perplexity) err = perplexity(a, why);
    if (!err && a->predict) err = predict(a, batches, n_batch, why);
    if (!err && !a->perplexity && !a->predict) err = speed(a, batches, n_batch, why);
    bench_close(b);
    return err;
}

int cmd_bench(int argc, char **argv)
{
    struct bench_args a = {
        .batches = "1,4,16", .workers = "1,2,3", .n_prompt = 512, .n_decode = 64, .window = 512};
    const char *args[1] = {NULL};
    uint32_t batches[BATCHES_MAX], n_batch = 0, eager = 0;
    const struct opt opts[] = {
        {"json", OPT_FLAG, &a.json, NULL, "print JSON", 0, 0},
        {"threads", OPT_U32, &a.b.n_threads, "N", "compute threads (all cores)", 1, 1024},
        {"batch", OPT_STR, &a.batches, "LIST", "batch sizes (1,4,16)", 0, 0},
        {"depth", OPT_U32, &a.depth, "N", "tokens before the prompt, not counted (0)", 0, 1 << 20},
        {"prompt", OPT_U32, &a.n_prompt, "N", "prompt tokens (512)", 1, 1 << 20},
        {"tokens", OPT_U32, &a.n_decode, "N", "decoded tokens (64)", 1, 1 << 20},
        {"precision", OPT_CHOICE, &a.b.precision, "fast|exact", "8-bit or float activations (fast)",
         0, 0},
        {"deterministic", OPT_FLAG, &a.b.deterministic, NULL,
         "the same bits in any batch on GPUs too", 0, 0},
        {"kv", OPT_CHOICE, &a.kv_choice, "auto|f16|bf16|fp8|q8|f32",
         "type of keys and values (auto)", 0, 0},
        {"device", OPT_STR, &a.b.device, "NAME",
         "cpu (the best), reference, avx2, vnni, neon, dotprod, i8mm, cuda, cuda:1", 0, 0},
        {"predict", OPT_FLAG, &a.predict, NULL, "what the planner predicts beside what is measured",
         0, 0},
        {"workers", OPT_STR, &a.workers, "LIST", "of predictions: numbers of workers (1,2,3)", 0,
         0},
        {"split", OPT_CHOICE, &a.split, "layers|tensor|experts",
         "of predictions: how they share the model (layers)", 0, 0},
        {"link", OPT_STR, &a.link_text, "US,BYTES",
         "of predictions: workers' latency and bytes/s, as `status` has them (of one host)", 0, 0},
        {"kept-rates", OPT_FLAG, &a.kept_rates, NULL,
         "of predictions: by operations and steps measured before", 0, 0},
        {"kept-operations", OPT_FLAG, &a.kept_operations, NULL,
         "of predictions: by operations measured before, and steps measured now", 0, 0},
        {"profile", OPT_FLAG, &a.b.profile, NULL, "where the time of a step goes", 0, 0},
        {"graphs", OPT_CHOICE, &eager, "on|off",
         "repeat recorded decode steps on a device, or start each operation (on)", 0, 0},
        {"no-limits", OPT_FLAG, &a.b.no_limits, NULL, "leave this machine's limits unmeasured", 0,
         0},
        {"ops", OPT_FLAG, &a.ops, NULL, "operations one by one beside their limits, without MODEL",
         0, 0},
        {"perplexity", OPT_STR, &a.perplexity, "FILE", "perplexity of a text instead of speed", 0,
         0},
        {"window", OPT_U32, &a.window, "N", "its window in tokens (512)", 4, 8192},
        {"windows", OPT_U32, &a.windows, "N", "windows at most (all)", 1, 1 << 20},
        {0},
    };
    const struct opt_spec spec = {"bench [MODEL] [options]",
                                  "Measures prompt and decode speed beside this machine's limits.",
                                  opts, 0, 1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code < 0 && !a.ops && !args[0]) {
        fprintf(stderr, "error: bench takes a MODEL, or --ops\n");
        code = 2;
    }
    if (code < 0 &&
        (code = parse_list("--batch", a.batches, STEP_ROWS_MAX, batches, &n_batch)) == 0)
        code = -1;
    if (code >= 0) return code;
    struct err_text why = {0};
    a.b.eager = eager;
    if (!a.b.n_threads) a.b.n_threads = (uint32_t)probe_usable();
    err_t err = a.ops ? ops(&a, &why) : with_model(&a, args[0], batches, n_batch, &why);
    return err ? cmd_fail(err, &why) : 0;
}
