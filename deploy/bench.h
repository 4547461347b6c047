// bench: drives one whole-model stage directly, without scheduler or network: what the kernels and
// the forward pass give on this machine, beside what the machine could give.
#pragma once
#include "kernels/kernels.h"
#include "topology/model.h"
#include "worker/stage.h"

struct bench {
    struct model *model;
    struct stage *stage;
    struct kernels_peaks peaks; // zeros: not measured, and no shares then
    bool no_limits;             // do not measure them
    bool profile;               // fill bench_row's profiles
    bool eager;                 // stage_config's
    double load_s;              // of bench_open: reading, packing, touching pages
    uint64_t taken_bytes;       // of the backend's memory, by all that the stage has
    struct arena arena;
    float *x; // (max_tok, dim)
    uint32_t n_threads, max_tok, n_slot, ctx;
    uint32_t precision, kv_dtype;
    bool deterministic; // of fast
    const char *device;
    uint64_t step;         // number of the last step
    uint64_t matrix_elems; // multiply-adds of one token through all layers
    uint64_t head_elems;   // and through the output matrix
    uint64_t decode_bytes; // weight bytes one decode step reads
};

// Speed of one batch size.
struct bench_row {
    uint32_t batch;
    double prompt_tok_s, decode_tok_s;
    // Of the measured peak, 0..1: int8, a device's 16-bit floats, f32 when exact.
    double prompt_share;
    double decode_share; // of the measured read bandwidth, 0..1
    // Parts of the time in which a device was at work on a step; 0: it is the CPU.
    double prompt_busy, decode_busy;
    uint64_t prompt_us, decode_us;
    struct kernels_profile prompt, decode; // if bench.profile
};

err_t bench_open(struct bench *b, const char *path, struct err_text *why);
void bench_close(struct bench *b);
// What is measured: in each of `batch` sequences, behind `depth` tokens that are not counted,
// n_prompt tokens are prefilled, then n_decode tokens of all are decoded.
struct bench_ask {
    uint32_t batch, depth, n_prompt, n_decode;
};
err_t bench_run(struct bench *b, const struct bench_ask *ask, struct bench_row *out,
                struct err_text *why);
// Perplexity of a text in windows of `window` tokens, of which the second half is scored (so every
// scored token has at least window/2 of context); the first token of a window is BOS where the
// model wants one. `windows`: how many at most, 0: all.
err_t bench_perplexity(struct bench *b, const char *file, uint32_t window, uint32_t windows,
                       double *perplexity, uint32_t *n_scored, struct err_text *why);
