// trireme bench: prompt and decode tokens/s by batch size with the share of this machine's measured
// limits, or the perplexity of a text.
#include "deploy/bench.h"
#include "deploy/cmd.h"
#include "deploy/opts.h"
#include "topology/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCHES_MAX = 16 };

struct bench_args {
    struct bench b;
    const char *path, *batches, *perplexity;
    uint32_t n_prompt, n_decode, window, windows, kv_choice;
    bool json;
};

static int parse_batches(const char *list, uint32_t *out, uint32_t *n)
{
    for (const char *p = list; *p;) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || v < 1 || v > STEP_ROWS_MAX || *n == BATCHES_MAX || (*end && *end != ',')) {
            fprintf(stderr, "error: --batch takes up to %d sizes from 1 to %d, like 1,4,16\n",
                    BATCHES_MAX, STEP_ROWS_MAX);
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
    if (a->json) {
        printf("{\"model\":\"%s\",\"threads\":%u,\"precision\":\"%s\",\"read_bytes_per_s\":%.0f,"
               "\"int8_ops_per_s\":%.0f,\"f32_flops_per_s\":%.0f,\"prompt\":%u,\"decode\":%u,"
               "\"rows\":[",
               b->model->shape.arch, b->n_threads, b->precision ? "exact" : "fast",
               b->peaks.read_bytes_per_s, b->peaks.int8_ops_per_s, b->peaks.f32_flops_per_s,
               a->n_prompt, a->n_decode);
        return;
    }
    printf("%s (%s), %u threads, %s; measured: read %.1f GB/s, int8 %.0f GOP/s, f32 %.0f GFLOP/s\n",
           b->model->shape.name, b->model->shape.arch, b->n_threads,
           b->precision ? "exact" : "fast", b->peaks.read_bytes_per_s * 1e-9,
           b->peaks.int8_ops_per_s * 1e-9, b->peaks.f32_flops_per_s * 1e-9);
    printf("%6s %14s %16s %14s %18s\n", "batch", "prompt tok/s",
           b->precision ? "of f32 peak" : "of int8 peak", "decode tok/s", "of read bandwidth");
}

static void print_row(const struct bench_args *a, const struct bench_row *r, bool first)
{
    if (a->json)
        printf("%s{\"batch\":%u,\"prompt_tok_s\":%.2f,\"prompt_share\":%.4f,\"decode_tok_s\":%.2f,"
               "\"decode_share\":%.4f}",
               first ? "" : ",", r->batch, r->prompt_tok_s, r->prompt_share, r->decode_tok_s,
               r->decode_share);
    else
        printf("%6u %14.1f %15.1f%% %14.1f %17.1f%%\n", r->batch, r->prompt_tok_s,
               r->prompt_share * 100, r->decode_tok_s, r->decode_share * 100);
    fflush(stdout);
}

static err_t speed(struct bench_args *a, const uint32_t *batches, uint32_t n, struct err_text *why)
{
    struct bench_row row;
    // The first pass touches every page of weights and KV once; it is not counted.
    err_t err = bench_run(&a->b, 1, 32, 4, &row, why);
    print_head(a);
    for (uint32_t i = 0; !err && i < n; i++) {
        err = bench_run(&a->b, batches[i], a->n_prompt, a->n_decode, &row, why);
        if (!err) print_row(a, &row, i == 0);
    }
    if (a->json) printf("]}\n");
    return err;
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

int cmd_bench(int argc, char **argv)
{
    struct bench_args a = {.batches = "1,4,16", .n_prompt = 512, .n_decode = 64, .window = 512};
    const char *args[1];
    uint32_t batches[BATCHES_MAX], n_batch = 0;
    const struct opt opts[] = {
        {"json", OPT_FLAG, &a.json, NULL, "print JSON", 0, 0},
        {"threads", OPT_U32, &a.b.n_threads, "N", "compute threads (all cores)", 1, 1024},
        {"batch", OPT_STR, &a.batches, "LIST", "batch sizes (1,4,16)", 0, 0},
        {"prompt", OPT_U32, &a.n_prompt, "N", "prompt tokens (512)", 1, 1 << 20},
        {"tokens", OPT_U32, &a.n_decode, "N", "decoded tokens (64)", 1, 1 << 20},
        {"precision", OPT_CHOICE, &a.b.precision, "fast|exact", "8-bit or float activations (fast)",
         0, 0},
        {"kv", OPT_CHOICE, &a.kv_choice, "auto|f16|f32", "type of keys and values (auto)", 0, 0},
        {"isa", OPT_STR, &a.b.isa, "NAME", "kernels: reference, avx2, neon (best)", 0, 0},
        {"perplexity", OPT_STR, &a.perplexity, "FILE", "perplexity of a text instead of speed", 0,
         0},
        {"window", OPT_U32, &a.window, "N", "its window in tokens (512)", 4, 8192},
        {"windows", OPT_U32, &a.windows, "N", "windows at most (all)", 1, 1 << 20},
        {0},
    };
    const struct opt_spec spec = {"bench MODEL [options]",
                                  "Measures prompt and decode speed beside this machine's limits.",
                                  opts, 1, 1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code < 0 && (code = parse_batches(a.batches, batches, &n_batch)) == 0) code = -1;
    if (code >= 0) return code;
    struct bench *b = &a.b;
    if (!b->n_threads) b->n_threads = (uint32_t)probe_usable();
    b->kv_dtype = a.kv_choice == 2 || (a.kv_choice == 0 && b->precision) ? DT_F32 : DT_F16;
    b->max_tok = 512;
    b->n_slot = 1;
    for (uint32_t i = 0; i < n_batch; i++)
        if (batches[i] > b->n_slot) b->n_slot = batches[i];
    b->ctx = a.perplexity ? a.window : a.n_prompt + a.n_decode;
    struct err_text why = {0};
    err_t err = bench_open(b, args[0], &why);
    if (!err && a.perplexity) err = perplexity(&a, &why);
    if (!err && !a.perplexity) err = speed(&a, batches, n_batch, &why);
    bench_close(b);
    return err ? cmd_fail(err, &why) : 0;
}
