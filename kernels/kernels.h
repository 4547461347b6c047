// kernels: arithmetic on views of memory. One table of operations per device kind; nothing here
// knows of models, requests or networks.
//
// A backend is opened once per worker with every limit it will ever see, and allocates then; the
// operations allocate nothing, cannot fail, and are called by one thread (the compute thread),
// which the backend's own pool joins inside each operation.
//
// Exactness (DESIGN 6.5). On the CPU every output element is one chain of operations whose order
// depends on the element alone: not on the number of rows in the call, the threads, the chunking of
// a prompt, or which pages hold the keys. So a token computed alone, in a batch, in a prefill chunk
// or again after a recovery has the same bits. Each operation below keeps this.
//
// Precision. PRECISION_EXACT: float activations against dequantised weights. PRECISION_FAST: gemm
// may quantise activations to 8 bits per block. All other operations are float in both.
#pragma once
#include "proto/base/dtype.h"

enum layout {
    LAYOUT_ROWS,  // as in the file: row after row
    LAYOUT_PACKED // interleaved for the instruction set by weight_pack; opaque to callers
};

// A tensor somewhere in memory. Row-major; shape[0] is the outermost dimension; strides in bytes.
struct view {
    void *data;
    enum dtype dtype;
    enum layout layout;
    int32_t n_dim;
    int64_t shape[4];
    int64_t stride[4];
};

enum precision { PRECISION_FAST, PRECISION_EXACT };

struct kernels_limits {
    int32_t n_threads; // of the pool, the caller included; >= 1
    enum precision precision;
    int32_t max_tok;  // rows in one call
    int32_t max_cols; // widest gemm input
    int32_t max_rows; // tallest gemm weight (vocabulary)
    int32_t max_head; // query heads
    int32_t max_head_dim;
    int32_t max_ctx; // tokens a query may look back
};

// One product of a gemm call: y[n_tok, rows] = x[n_tok, cols] * w[rows, cols]^T (+ bias).
struct gemm_job {
    const struct view *w; // (rows, cols), LAYOUT_PACKED, from weight_pack of the same backend
    const float *bias;    // (rows) or NULL
    float *y;             // (n_tok, rows), row stride ldy floats
    int64_t ldy;
};

enum rope_kind {
    ROPE_INTERLEAVED, // pairs (2i, 2i+1): GGUF architecture llama
    ROPE_NEOX         // pairs (i, i + n_rot/2): gemma, qwen, ...
};
struct rope {
    enum rope_kind kind;
    int32_t n_rot;             // leading dimensions of a head that turn; even
    double theta;              // base frequency
    double freq_scale;         // positions are multiplied by it (1/factor of linear scaling)
    double attn_factor;        // cos and sin are multiplied by it (1 unless yarn)
    const float *freq_factors; // (n_rot/2) divisors of the frequencies, or NULL
};

// A run of consecutive tokens of one sequence inside a step's rows.
struct attn_run {
    int32_t tok_from, n_tok; // rows [tok_from, tok_from + n_tok) of q, k, v, out
    int32_t pos_from;        // position of the first of them in its sequence
    const int32_t *pages;    // page of positions [i*page_tok, (i+1)*page_tok) for every i needed
};

// Keys and values of one layer: an array of pages, each holding page_tok tokens of all KV heads.
// What is inside a page is the backend's business; kv_page_bytes says how large one is.
struct kv_view {
    void *data; // page p begins at data + p * page_bytes
    int64_t page_bytes;
    int32_t page_tok;            // power of two, 16..256
    int32_t n_head_kv, head_dim; // keys and values alike
    enum dtype dtype;            // DT_F32 or DT_F16
};

struct attn_args {
    const float *q; // (n_tok, n_head, head_dim)
    float *out;     // (n_tok, n_head, head_dim); must not alias q
    int32_t n_head; // multiple of kv.n_head_kv; head h reads KV head h / (n_head / n_head_kv)
    struct kv_view kv;
    const struct attn_run *runs;
    int32_t n_run;
    float scale;    // of q.k, before soft-cap
    float softcap;  // s = softcap * tanh(s / softcap); 0: none
    int32_t window; // a query at p sees keys in (p - window, p]; 0: all of [0, p]
};

enum glu_kind { GLU_SILU, GLU_GELU_TANH };

struct kernels {
    const struct kernels_ops *ops;
};

struct kernels_ops {
    const char *name; // "cpu avx2", "cpu neon", "cpu reference"
    void (*close)(struct kernels *k);

    // -- weights (load time; thread-safe) --
    // Bytes of the packed form of a (rows, cols) weight; 0 if the type or the sizes are refused.
    uint64_t (*weight_bytes)(struct kernels *k, enum dtype t, int64_t rows, int64_t cols);
    // Packs rows [row_from, row_from + n_row) of a weight from file layout at src into dst, which
    // is a view of the whole (rows, cols) weight in memory of weight_bytes, aligned to 64. row_from
    // is a multiple of 64; n_row too unless it reaches the last row. Different row ranges may be
    // packed by different threads at once.
    void (*weight_pack)(struct kernels *k, const void *src, int64_t row_from, int64_t n_row,
                        struct view *dst);
    // Bytes of one KV page of one layer.
    uint64_t (*kv_page_bytes)(struct kernels *k, int32_t page_tok, int32_t n_head_kv,
                              int32_t head_dim, enum dtype t);

    // -- step path --
    // out[i] = row ids[i] of table as float. table (n_vocab, dim), LAYOUT_PACKED. out (n_tok, dim)
    void (*embed)(struct kernels *k, const struct view *table, const int32_t *ids, int32_t n_tok,
                  float *out);
    // y[i] = x[i] / sqrt(mean(x[i]^2) + eps) * w; rows of dim elements; y may be x. Zhang and
    // Sennrich 2019. Also used per head: n_row = n_tok * n_head, dim = head_dim.
    void (*rms_norm)(struct kernels *k, const float *x, const float *w, int64_t n_row, int32_t dim,
                     float eps, float *y);
    // All jobs share x (n_tok, cols), which is quantised at most once. Outputs do not alias x.
    void (*gemm)(struct kernels *k, const float *x, int32_t n_tok, int32_t cols,
                 const struct gemm_job *jobs, int32_t n_job);
    // cos_sin (n_tok, n_rot/2, 2) for the positions pos[n_tok]; made once per step and rope.
    void (*rope_table)(struct kernels *k, const struct rope *r, const int32_t *pos, int32_t n_tok,
                       float *cos_sin);
    // Turns x (n_tok, n_head, head_dim) in place.
    void (*rope)(struct kernels *k, const struct rope *r, const float *cos_sin, int32_t n_tok,
                 int32_t n_head, int32_t head_dim, float *x);
    // Writes k and v (n_tok, n_head_kv, head_dim) of the runs into their pages.
    void (*kv_store)(struct kernels *k, const struct kv_view *kv, const struct attn_run *runs,
                     int32_t n_run, const float *key, const float *value);
    // Causal attention over the pages. Every run's own keys are stored already. Online softmax
    // (Milakov and Gimelshein 2018) over tiles of absolute positions.
    void (*attention)(struct kernels *k, const struct attn_args *a);
    // out[i] = act(gate[i]) * up[i]; out may be gate or up. Shazeer 2020.
    void (*glu)(struct kernels *k, enum glu_kind kind, const float *gate, const float *up,
                int64_t n, float *out);
    // x[i] += y[i]
    void (*add)(struct kernels *k, float *x, const float *y, int64_t n);
    // x[i] *= s
    void (*scale)(struct kernels *k, float *x, float s, int64_t n);
    // x[i] = cap * tanh(x[i] / cap)
    void (*softcap)(struct kernels *k, float *x, float cap, int64_t n);
    // Lowest index of the largest value of each row (n_row, n). NaN never wins.
    void (*argmax)(struct kernels *k, const float *x, int32_t n_row, int64_t n, int32_t *out);
    // out[i] = log(sum(exp(x[i]))) of each row (n_row, n), summed in double in a fixed order.
    void (*logsumexp)(struct kernels *k, const float *x, int32_t n_row, int64_t n, double *out);
    // Moves (once per parallel region) while an operation runs: proof of progress for heartbeats.
    // Safe to read from any thread.
    uint64_t (*progress)(struct kernels *k);
};

// Opens the best CPU backend of this machine. `isa` NULL chooses; "reference", "avx2", "neon" force
// one. ERR_UNSUPPORTED if this machine lacks it, ERR_MEMORY.
err_t kernels_open_cpu(const char *isa, const struct kernels_limits *limits, struct kernels **out,
                       struct err_text *why);

// Peaks of this machine with n_threads, for "share of the limit" figures and the cost model. Each
// takes about `budget_ms`.
struct kernels_peaks {
    double read_bytes_per_s; // streaming reads of a buffer far larger than the caches
    double int8_ops_per_s;   // multiply and add count as 2: maddubs + madd + add, or the ISA's best
    double f32_flops_per_s;  // fused multiply-add counts as 2
};
err_t kernels_measure_peaks(int32_t n_threads, int32_t budget_ms, struct kernels_peaks *out);
