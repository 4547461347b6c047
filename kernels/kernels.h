// kernels: arithmetic on views of memory. One table of operations per device kind; nothing here
// knows of models, requests or networks.
//
// A backend is opened once per worker with every limit it will ever see, and allocates then; the
// operations allocate nothing, cannot fail, and are called by one thread (the compute thread),
// which the backend's own pool joins inside each operation. What goes wrong on a device is kept
// and told by `status`.
//
// Memory. Operations read and write memory of the backend (`take`); what they are given in host
// memory is said at each: lists of runs and their pages, ids to embed, positions, factors of
// frequencies, arrays of pointers, and results that are numbers to decide by. Operations are done
// in the order of the calls but may be done later; only `get` and those that return numbers wait.
// Host lists may be changed when the call has returned. A backend whose memory is the host's own
// (`is_host`) has done each operation when the call returns.
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
    int64_t stride[4]; // of a stack (n, rows, cols) of packed weights, stride[0] is that of one
    float factor;      // packed weights: every value is multiplied by it; 0 means 1
};

// Weight i of a packed stack (n, rows, cols), as a view (rows, cols).
static inline struct view view_of_stack(const struct view *w, int64_t i)
{
    struct view v = *w;
    v.data = (char *)w->data + i * w->stride[0];
    v.n_dim = 2;
    v.shape[0] = w->shape[1];
    v.shape[1] = w->shape[2];
    return v;
}

enum precision { PRECISION_FAST, PRECISION_EXACT };

struct kernels_limits {
    int32_t n_threads; // of the pool, the caller included; >= 1
    enum precision precision;
    int32_t max_tok;  // rows in one call
    int32_t max_cols; // widest gemm input
    int32_t max_rows; // tallest gemm weight (vocabulary)
    int32_t max_head; // query heads
    int32_t max_head_dim;
    int32_t max_ctx;         // tokens a query may look back
    int32_t max_expert_rows; // products in one gemm_experts call; 0: it is not used
    // PRECISION_FAST: the order of every sum depends on its element alone here too, on devices as
    // it does on the CPU anyway, which costs the fastest ways to do much at once.
    bool deterministic;
    bool eager; // do every step's operations one by one, record none
};

// Bytes of a backend's own memory, and of host memory where that is another one (what copies go
// through).
struct kernels_bytes {
    uint64_t own, host;
};

// Types of weights: dtype_is_weight. Columns are a multiple of the type's block.
//
// One product of a gemm call: y[n_tok, rows] = x[n_tok, cols] * w[rows, cols]^T (+ bias).
struct gemm_job {
    const struct view *w; // (rows, cols), LAYOUT_PACKED, from weight_pack of the same backend
    const float *bias;    // (rows) or NULL
    float *y;             // (n_tok, rows), row stride ldy floats
    int64_t ldy;
    // PRECISION_FAST: x as the sum of two terms of 8 bits, for twice the work. For the few products
    // whose errors weigh most (keys and values).
    bool fine;
};

enum rope_kind {
    ROPE_INTERLEAVED, // pairs (2i, 2i+1): GGUF architecture llama
    ROPE_NEOX         // pairs (i, i + n_rot/2): gemma, qwen, ...
};
struct rope {
    enum rope_kind kind;
    int32_t n_rot;      // leading dimensions of a head that turn; even
    double theta;       // base frequency
    double freq_scale;  // positions are multiplied by it (1/factor of linear scaling)
    double attn_factor; // cos and sin are multiplied by it (1 unless yarn)
    // (n_rot/2) divisors of the frequencies, or NULL: each scaling that treats frequencies
    // differently (llama3, yarn, longrope) comes down to such a list.
    const double *freq_factors;
};

// A run of consecutive tokens of one sequence inside a step's rows.
struct attn_run {
    int32_t tok_from, n_tok; // rows [tok_from, tok_from + n_tok) of q, k, v, out
    int32_t pos_from;        // position of the first of them in its sequence
    // Page of positions [i*page_tok, (i+1)*page_tok). Entries whose positions no query of the run
    // may see (window, chunk) are not read.
    const int32_t *pages;
};

// Keys and values of one layer: an array of pages, each holding page_tok tokens of all KV heads.
// What is inside a page is the backend's business; kv_page_bytes says how large one is.
struct kv_view {
    void *data; // page p begins at data + p * page_bytes
    int64_t page_bytes;
    int32_t page_tok; // power of two, 16..256
    int32_t n_head_kv;
    int32_t head_dim;   // of keys
    int32_t head_dim_v; // of values; <= head_dim
    // The values are the first head_dim_v elements of the keys and are not stored twice (multi-head
    // latent attention: DeepSeek-AI 2024, arXiv 2405.04434).
    bool v_in_k;
    // DT_F32, DT_F16, DT_BF16; DT_Q8_0: 8 bits, a scale for every 32 elements; DT_F8_E4M3: 8 bits,
    // a scale for each token's keys and values of each head.
    enum dtype dtype;
};

// What lies between the projections of a token and attention:
//     q, key = norm of each head;  turned by rope;  norm of each head without a weight;  q *= scale
// with norm as in rms_norm, and what is not there left out; each step rounds as if it were an
// operation of its own. Then keys and values go to their pages, as kv_store does it.
struct attn_place {
    float *q;           // (n_tok, n_head, head_dim)
    float *key;         // (n_tok, n_head_kv, head_dim), spent
    const float *value; // (n_tok, n_head_kv, head_dim_v)
    int32_t n_tok, n_head;
    const float *q_norm, *k_norm; // (head_dim) or NULL: none
    float eps;
    const struct rope *rope;     // NULL: no turning
    const float *cos_sin;        // of rope_table
    bool is_unit;                // the norm without a weight
    const float *q_scale;        // (n_tok) or NULL
    struct kv_view kv;           // not v_in_k
    const struct attn_run *runs; // all n_tok rows
    int32_t n_run;
};

struct attn_args {
    const float *q; // (n_tok, n_head, head_dim)
    float *out;     // (n_tok, n_head, head_dim_v); must not alias q
    int32_t n_head; // head h reads KV head (head_from + h) / group
    // Query heads of each KV head, and how many of the first one's are left out; the last one's may
    // be fewer too. group 0: n_head / kv.n_head_kv, which divides it.
    int32_t group, head_from;
    struct kv_view kv;
    const struct attn_run *runs;
    int32_t n_run;
    float scale;    // of q.k, before soft-cap
    float softcap;  // s = softcap * tanh(s / softcap); 0: none
    int32_t window; // a query at p sees keys in (p - window, p]; 0: all of [0, p]
    int32_t chunk;  // and, unless 0, none before the last multiple of chunk that is <= p
    // (n_head) or NULL: one more score of each head that takes part in the softmax and has no value
    // (Xiao et al. 2023; gpt-oss).
    const float *sinks;
};

enum glu_kind {
    GLU_SILU,
    GLU_GELU_TANH,
    GLU_GELU, // with erf
    // gate' = min(gate, limit), up' = clamp(up, +-limit);
    // gate' * sigmoid(alpha * gate') * (up' + 1): gpt-oss, alpha 1.702, limit 7
    GLU_SWIGLU_OAI
};
struct glu {
    enum glu_kind kind;
    float alpha, limit; // GLU_SWIGLU_OAI
};

// The residual stream and the norm of what comes next:
//     y += more;  y = norm(y) post;  x += scale y;  out = norm(x) w
// with norm as in rms_norm, and what is not there left out; each step rounds as if it were an
// operation of its own.
struct add_norm {
    float *x;          // (n_row, dim)
    float *y;          // (n_row, dim), spent; NULL: nothing is added
    const float *more; // (n_row, dim) or NULL
    const float *post; // (dim) or NULL: y is added as it is
    float scale;       // of y
    const float *w;    // (dim) or NULL: all 1
    float *out;        // (n_row, dim), may be y; NULL: the sum is all that is wanted
    int32_t dim;
    float eps;
};

// A gated feed-forward part (Shazeer 2020): y = (act(x G^T) (x U^T)) D^T (+ biases).
struct ffn {
    const float *x; // (n_tok, cols)
    int32_t cols;
    struct gemm_job gate, up;      // of x; y (n_tok, middle) are work space, without gaps
    const struct gemm_job *beside; // one more of x, or NULL
    struct glu glu;
    struct gemm_job down; // of the middle; w NULL: act(gate) up is the result, in gate.y
};

// How a router picks experts for one token. s = softmax(logits) or sigmoid(logits); experts are
// chosen by s + correction, groups of experts first where there are groups; ties go to the lower
// number. The weights are s of the chosen ones (without the correction).
struct route_args {
    const float *logits;     // (n_tok, n_expert), bias included
    const float *correction; // (n_expert) or NULL: e_score_correction_bias (arXiv 2408.15664)
    int32_t n_expert, n_used;
    int32_t n_group, n_group_used; // groups of neighbours, n_group_used stay; 0 or 1: none
    bool sigmoid;                  // else softmax
    bool late_softmax;             // softmax over the chosen logits only (gpt-oss, mixtral)
    bool normalise;                // weights are divided by their sum (+ 1e-20)
    bool group_by_two; // a group's score is the sum of its best two (deepseek_v3), else its best
    float scale;       // weights are multiplied by it at last
    int32_t *ids;      // out (n_tok, n_used), ascending within a token
    float *weights;    // out (n_tok, n_used), of ids
    const struct route_sort *sort; // done at once with what was chosen, or NULL
};

// Products of many rows with few experts: y[i] = x[row[i]] * w[expert[i]]^T (+ bias[expert[i]]).
struct expert_gemm {
    const struct view *w;  // (n_expert, rows, cols), a packed stack
    const float *factors;  // (n_expert) each expert's view.factor, or NULL: all as in w
    const float *bias;     // (n_expert, rows) or NULL
    const float *x;        // (.., cols)
    int32_t n;             // products
    int32_t n_x;           // rows of x; each row number is below
    const int32_t *row;    // (n) rows of x
    const int32_t *expert; // (n) ascending
    float *y;              // (n, rows)
};

// The whole of a feed-forward part of experts, of n products (struct expert_gemm):
//     y[i] = (act(x[row[i]] G^T) (x[row[i]] U^T)) D^T (+ biases), matrices of expert[i]
// and, if `out` is given, what combine makes of it.
struct expert_stack {
    const struct view *w; // (n_expert, rows, cols), a packed stack
    const float *factors; // as in expert_gemm
    const float *bias;
};
struct expert_ffn {
    struct expert_stack gate, up;
    struct expert_stack down; // w NULL: act(gate) up is the result, in middle[0]
    struct glu glu;
    const float *x; // (n_x, cols)
    int32_t n, n_x;
    const int32_t *row, *expert; // (n) as in expert_gemm
    const int32_t *seq;          // (n) 0, 1, 2, ...
    float *middle[2];            // (n, middle) work space
    float *y;                    // (n, dim); with `out` it is work space
    const int32_t *at;           // the rest: as in combine; n = n_tok * n_used
    const float *weights;
    int32_t n_tok, n_used;
    float *out; // or NULL
};

// What a host needs of a row of finite logits to draw an id: its largest values, and what the
// others come to. Pointers are to host memory.
enum { KERNELS_TOP_MAX = 1024, KERNELS_TOP_CHUNK = 1024, KERNELS_TOP_PICKS = 4096 };
struct top_row {
    int32_t row;          // of x
    const uint32_t *mask; // (n / 32, rounded up) bits of those that count, or NULL: all do
    const int32_t *picks; // (n_pick <= KERNELS_TOP_PICKS) of these the values, whether they count
    int32_t n_pick;
    float per_t;  // > 0
    float *value; // out (n_top) the largest that count, lower index first among equals
    int32_t *id;  // out (n_top) where they are
    int32_t n;    // out: how many there are; fewer than n_top: no others count
    float *pick;  // out (n_pick)
    // out (n / KERNELS_TOP_CHUNK, rounded up) of each chunk of the row the sum in double, in any
    // order, of weight_of((x - value[0]) per_t) (weight.h) over those that count and are not more
    // than WEIGHT_NATS below.
    double *mass;
};

// Causal convolution over time of each channel by itself, kernel (n_channel, n_tap), then SiLU; the
// last tap is the present token. state holds the n_tap - 1 tokens before the run, oldest first.
struct conv_args {
    const float *x;           // (n_tok, n_channel)
    const float *w;           // (n_channel, n_tap)
    const float *bias;        // (n_channel) or NULL
    int32_t n_channel, n_tap; // n_tap 2..8
    const struct attn_run *runs;
    int32_t n_run;
    const uint32_t *slots; // (n_run), in host memory
    float *state;     // run i's at state + slots[i] * state_ld: (n_tap - 1, n_channel), updated
    int64_t state_ld; // floats
    float *out;       // (n_tok, n_channel); must not alias x
};

// Gated delta rule (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464), token after token:
//     S = exp(g) S;  S += k (beta (v - S^T k))^T;  out = S^T q
// with q and k brought to unit length first (x / sqrt(sum x^2 + 1e-6)) and q then multiplied by
// 1 / sqrt(dim_k).
//     g = a_neg[h] * softplus(a + dt_bias[h]),  beta = sigmoid(b)
struct delta_args {
    const float *q, *k;   // (n_tok, n_head_k, dim_k), row stride ld floats
    const float *v;       // (n_tok, n_head_v, dim_v), row stride ld floats
    int64_t ld;           // q, k, v are parts of one buffer's rows
    const float *a, *b;   // (n_tok, n_head_v)
    const float *a_neg;   // (n_head_v) -exp(A_log)
    const float *dt_bias; // (n_head_v)
    int32_t n_head_k, n_head_v, dim_k, dim_v;
    bool tiled; // value head h uses key head h % n_head_k, else h / (n_head_v / n_head_k)
    const struct attn_run *runs;
    int32_t n_run;
    const uint32_t *slots; // as in conv_args
    float *state; // run i's at state + slots[i] * state_ld: (n_head_v, dim_k, dim_v), updated
    int64_t state_ld;
    float *out; // (n_tok, n_head_v, dim_v)
};

// Which experts each token chose, sorted: product i of n = n_tok * n_used is token row[i] with
// expert expert[i]; ascending by expert, then by token. All in the backend's memory.
struct route_sort {
    const int32_t *ids;       // (n_tok, n_used) of route
    const int32_t *place;     // (n_expert) expert e lies at place[e] of the stacks; NULL: at e
    int32_t n_expert, n_used; // as in route_args
    int32_t *at;           // out (n_tok, n_used) where the product of ids[..] lies: at of combine
    int32_t *row, *expert; // out (n); expert is the place
    uint32_t *count;       // (n_expert) how often each was chosen is added, or NULL
};

// What a whole step has in common, in host memory; the lists and what they point to do not change
// until the next `enter`. Operations are given these very lists.
enum { KERNELS_LISTS_MAX = 6 };
struct kernels_step {
    const int32_t *ids; // (n_tok) to embed, or NULL
    const int32_t *pos; // (n_tok)
    int32_t n_tok;
    const struct attn_run *runs[KERNELS_LISTS_MAX];
    const uint32_t *slots[KERNELS_LISTS_MAX]; // (n_run) where recurrent state lies
    int32_t n_run[KERNELS_LISTS_MAX];
    int32_t n_list;
    int32_t page_tok;
    // Steps of one key (not 0) consist of the same operations on the same memory and differ only in
    // what stands here: a backend may record the operations up to `leave` once and repeat them.
    uint64_t key;
};

struct kernels {
    const struct kernels_ops *ops;
    bool is_host; // memory of the backend is host memory, and operations are done when they return
    // Which of several devices with these operations. Memory taken from one backend of a device may
    // be used with and given to another one of the same device.
    int32_t device;
};

struct kernels_ops {
    const char *name; // "cpu avx2", "cpu neon", "cpu reference"
    void (*close)(struct kernels *k);

    // -- memory --
    // Zeroed, aligned to 256 bytes. On the host its pages cost nothing until they are used. `what`
    // is for the sentence. ERR_MEMORY.
    err_t (*take)(struct kernels *k, uint64_t bytes, const char *what, void **out,
                  struct err_text *why);
    void (*give)(struct kernels *k, void *data, uint64_t bytes);
    // From the host; src may change when it returns. Thread-safe (loading).
    void (*put)(struct kernels *k, void *dst, const void *src, uint64_t bytes);
    // To the host, after all operations before it; waits for them.
    void (*get)(struct kernels *k, void *dst, const void *src, uint64_t bytes);
    // n_row rows of n floats each, from row to row dst_ld and src_ld floats. No overlap.
    void (*copy)(struct kernels *k, float *dst, int64_t dst_ld, const float *src, int64_t src_ld,
                 int64_t n_row, int64_t n);
    void (*zero)(struct kernels *k, void *dst, uint64_t bytes);
    // First error since opening, OK: none. ERR_SYSTEM, ERR_MEMORY.
    err_t (*status)(struct kernels *k, struct err_text *why);
    // What a backend of this kind and device takes for itself when it is opened with such limits,
    // counted by the code that takes it.
    void (*scratch_bytes)(struct kernels *k, const struct kernels_limits *l,
                          struct kernels_bytes *out);
    // What this process has taken by now and not given back, by `take` and for backends: of this
    // one's device, all backends together; on the host, this backend's scratch and the mappings of
    // the whole process (proto/base/map.h).
    void (*taken_bytes)(struct kernels *k, struct kernels_bytes *out);

    // -- weights (load time; thread-safe) --
    // Bytes of the packed form of a (rows, cols) weight; 0 if the type or the sizes are refused. Of
    // a multiple of 16 rows: also where in a longer weight the next row's form begins, so that
    // rows from there on are a weight of their own.
    uint64_t (*weight_bytes)(struct kernels *k, enum dtype t, int64_t rows, int64_t cols);
    // Packs rows [row_from, row_from + n_row) of a weight from file layout at src into dst, which
    // is a view of the whole (rows, cols) weight in memory of weight_bytes, aligned to 64. row_from
    // is a multiple of 64; n_row too unless it reaches the last row. Different row ranges may be
    // packed by different threads at once.
    void (*weight_pack)(struct kernels *k, const void *src, int64_t row_from, int64_t n_row,
                        struct view *dst);
    // Bytes of one KV page of one layer; kv's data and page_bytes are not looked at. 0 if refused.
    uint64_t (*kv_page_bytes)(struct kernels *k, const struct kv_view *kv);

    // -- step path --
    // A step begins. True: the operations up to `leave` were recorded under this key and have been
    // started again; the caller leaves them out.
    bool (*enter)(struct kernels *k, const struct kernels_step *s);
    void (*leave)(struct kernels *k);
    // out[i] = row ids[i] of table as float. table (n_vocab, dim), LAYOUT_PACKED. out (n_tok, dim)
    void (*embed)(struct kernels *k, const struct view *table, const int32_t *ids, int32_t n_tok,
                  float *out);
    // y[i] = x[i] / sqrt(mean(x[i]^2) + eps) * w; rows of dim elements; y may be x; w NULL: all 1.
    // Zhang and Sennrich 2019. Also used per head: n_row = n_tok * n_head, dim = head_dim.
    void (*rms_norm)(struct kernels *k, const float *x, const float *w, int64_t n_row, int32_t dim,
                     float eps, float *y);
    // The same bits of out for the same x, whether something was added or not.
    void (*add_norm)(struct kernels *k, const struct add_norm *a, int64_t n_row);
    // All jobs share x (n_tok, cols), which is quantised at most once. Outputs do not alias x.
    void (*gemm)(struct kernels *k, const float *x, int32_t n_tok, int32_t cols,
                 const struct gemm_job *jobs, int32_t n_job);
    // gemm, glu, gemm; x and the middle are quantised at most once.
    void (*ffn)(struct kernels *k, const struct ffn *f, int32_t n_tok);
    // y (n_tok, w.n, w.rows): product i of each token is x (n_tok, w.n, cols) [i] with weight i of
    // the packed stack w (n, rows, cols).
    void (*gemm_each)(struct kernels *k, const struct view *w, const float *x, int32_t n_tok,
                      float *y);
    // out[i][c] = x[i][order[c]]; x, out (n_tok, cols); out is not x.
    void (*gather)(struct kernels *k, const float *x, const int32_t *order, int32_t n_tok,
                   int32_t cols, float *out);
    // The same for products: out[i][c] = x[row[i]][order[expert[i] * cols + c]]; out (n, cols),
    // order
    // (.., cols); row and expert as in expert_gemm.
    void (*gather_experts)(struct kernels *k, const float *x, const int32_t *row,
                           const int32_t *order, const int32_t *expert, int32_t n, int32_t cols,
                           float *out);
    // cos_sin (n_tok, n_rot/2, 2) for the positions pos[n_tok]; made once per step and rope.
    void (*rope_table)(struct kernels *k, const struct rope *r, const int32_t *pos, int32_t n_tok,
                       float *cos_sin);
    // Turns x (n_tok, n_head, head_dim) in place. To turn the end of each head only, x begins there
    // (the strides stay).
    void (*rope)(struct kernels *k, const struct rope *r, const float *cos_sin, int32_t n_tok,
                 int32_t n_head, int32_t head_dim, float *x);
    // Writes keys (n_tok, n_head_kv, head_dim) and values (n_tok, n_head_kv, head_dim_v; not read
    // if v_in_k) of the runs into their pages.
    void (*kv_store)(struct kernels *k, const struct kv_view *kv, const struct attn_run *runs,
                     int32_t n_run, const float *key, const float *value);
    void (*place)(struct kernels *k, const struct attn_place *a);
    // Causal attention over the pages. Every run's own keys are stored already. Online softmax
    // (Milakov and Gimelshein 2018) over tiles of absolute positions.
    void (*attention)(struct kernels *k, const struct attn_args *a);
    void (*conv)(struct kernels *k, const struct conv_args *a);
    void (*delta)(struct kernels *k, const struct delta_args *a);
    void (*route)(struct kernels *k, const struct route_args *a, int32_t n_tok);
    void (*route_sort)(struct kernels *k, const struct route_sort *a, int32_t n_tok);
    void (*gemm_experts)(struct kernels *k, const struct expert_gemm *g);
    void (*expert_ffn)(struct kernels *k, const struct expert_ffn *f);
    // out[at[i][j]] = x[i] * weights[i][j], and weights[i][j] becomes 1; x (n_tok, dim), at and
    // weights (n_tok, n_used), out (.., dim).
    void (*spread)(struct kernels *k, const float *x, const int32_t *at, float *weights,
                   int32_t n_tok, int32_t n_used, int32_t dim, float *out);
    // out[i] = sum over j < n_used, ascending, of weights[i][j] * y[at[i][j]]; out (n_tok, dim), y
    // (.., dim), at and weights (n_tok, n_used).
    void (*combine)(struct kernels *k, const float *y, const int32_t *at, const float *weights,
                    int32_t n_tok, int32_t n_used, int32_t dim, float *out);
    // out[i] = act(gate[i]) * up[i]; out may be gate or up. Shazeer 2020.
    void (*glu)(struct kernels *k, const struct glu *kind, const float *gate, const float *up,
                int64_t n, float *out);
    // x[i] *= sigmoid(gate[i])
    void (*gate)(struct kernels *k, float *x, const float *gate, int64_t n);
    // x[i][..] *= sigmoid(gate[i]); x (n_tok, dim), gate (n_tok)
    void (*gate_rows)(struct kernels *k, float *x, const float *gate, int32_t n_tok, int32_t dim);
    // x[i][..] *= s[i]; x (n_tok, dim), s (n_tok)
    void (*scale_rows)(struct kernels *k, float *x, const float *s, int32_t n_tok, int32_t dim);
    // x[i] += y[i]
    void (*add)(struct kernels *k, float *x, const float *y, int64_t n);
    // x[i] *= s
    void (*scale)(struct kernels *k, float *x, float s, int64_t n);
    // x[i] = cap * tanh(x[i] / cap)
    void (*softcap)(struct kernels *k, float *x, float cap, int64_t n);
    // Lowest index of the largest value of each row (n_row, n). NaN never wins. out in host memory.
    void (*argmax)(struct kernels *k, const float *x, int32_t n_row, int64_t n, int32_t *out);
    // Whether every element of each row (n_row, n) is a finite number. out in host memory.
    void (*finite)(struct kernels *k, const float *x, int32_t n_row, int64_t n, bool *out);
    // out[i] = log(sum(exp(x[i]))) of each row (n_row, n), summed in double in a fixed order. out
    // in host memory.
    void (*logsumexp)(struct kernels *k, const float *x, int32_t n_row, int64_t n, double *out);
    // The n_top <= KERNELS_TOP_MAX largest of rows of x (.., n), and more. NULL: the memory is the
    // host's, who can look by itself.
    void (*top)(struct kernels *k, const float *x, int64_t n, int32_t n_top, struct top_row *rows,
                int32_t n_row);
    // Moves (once per parallel region) while an operation runs: proof of progress for heartbeats.
    // Safe to read from any thread.
    uint64_t (*progress)(struct kernels *k);
    // How long the calling thread has waited at the end of operations for the others of the
    // backend's pool, since opening.
    uint64_t (*wait_ns)(struct kernels *k);
    // How long the device was at work between `enter` and `leave`, of all steps since opening;
    // waits for them. 0: the backend is the host's, whose threads are busy as long as the call
    // takes.
    uint64_t (*busy_ns)(struct kernels *k);
};

// Opens the best CPU backend of this machine. `isa` NULL chooses; "reference", "avx2", "vnni",
// "neon", "dotprod", "i8mm" force one. ERR_UNSUPPORTED if this machine lacks it, ERR_MEMORY.
err_t kernels_open_cpu(const char *isa, const struct kernels_limits *limits, struct kernels **out,
                       struct err_text *why);

// A backend of a device, from a module that is opened when it is asked for: libtrireme-cuda.so
// beside the program, or the file that TRIREME_CUDA names. `device` counts from 0. ERR_UNSUPPORTED:
// no module, no driver or no such device; the sentence says which.
err_t kernels_open_cuda(int32_t device, const struct kernels_limits *limits, struct kernels **out,
                        struct err_text *why);
// By name: NULL or "cpu" the best of this machine, "reference", "avx2", "vnni", "neon",
// "dotprod", "i8mm", "cuda", "cuda:1".
err_t kernels_open(const char *device, const struct kernels_limits *limits, struct kernels **out,
                   struct err_text *why);

// What a device of this name is. Of the CPU only `is_host` is told.
struct kernels_about {
    bool is_host;
    bool is_unified;  // its memory is the machine's own
    bool is_emulated; // it is a part of this process, for tests: its speed means nothing
    char name[64];    // "NVIDIA H100 80GB HBM3"
    char driver[32];  // version of the driver
    uint64_t memory_bytes, memory_free_bytes;
    int32_t sm; // compute capability: 86, 90, 121
    int32_t n_processor;
    uint64_t l2_bytes;
};
err_t kernels_about(const char *device, struct kernels_about *out, struct err_text *why);
// ERR_UNSUPPORTED: no module or no driver; the sentence says which.
err_t kernels_count_cuda(int32_t *out, struct err_text *why);

// A backend whose step-path operations are timed one by one: on a device each one is waited for,
// and nothing is recorded. Takes `inner` over, also when it fails. ERR_MEMORY.
err_t kernels_profile_open(struct kernels *inner, struct kernels **out);
// What a backend that times stands in front of; any other backend: itself.
struct kernels *kernels_profile_inner(struct kernels *k);
enum { KERNELS_PROFILE_OPS = 40 };
struct kernels_profile {
    uint64_t n_step, wait_ns; // wait_ns: of kernels_ops, part of the operations' times
    int32_t n_op;
    struct kernels_profile_op {
        const char *name;
        uint64_t n, ns;
    } ops[KERNELS_PROFILE_OPS];
};
// What was counted since the call before. False: `k` is no such backend.
bool kernels_profile_take(struct kernels *k, struct kernels_profile *out);

// How products with weights of a type are computed, on every instruction set.
enum kernels_path {
    KERNELS_PATH_NONE,   // no such weights
    KERNELS_PATH_BLOCKS, // packed for the products; 8-bit products where PRECISION_FAST
    KERNELS_PATH_FLOAT,  // packed for the products, in float in both precisions
    KERNELS_PATH_DECODED // as in the file; decoded run by run within each product
};
enum kernels_path kernels_path_of(enum dtype t);

// Peaks of this machine with n_threads, for "share of the limit" figures and the cost model. Each
// takes about `budget_ms`.
struct kernels_peaks {
    double read_bytes_per_s; // streaming reads of a buffer far larger than the caches
    double int8_ops_per_s;   // multiply and add count as 2: maddubs + madd + add, or the ISA's best
    double f32_flops_per_s;  // fused multiply-add counts as 2
    // Of a device: products of matrices of 16-bit floats with sums of 32; 0: not told.
    double half_flops_per_s;
};
err_t kernels_measure_peaks(int32_t n_threads, int32_t budget_ms, struct kernels_peaks *out);
// The same of a device by name (kernels_open), whose memory it takes up to 1 GiB of meanwhile.
// ERR_UNSUPPORTED, ERR_MEMORY, ERR_DEVICE; ERR_CONFIG.
err_t kernels_measure_peaks_of(const char *device, int32_t n_threads, int32_t budget_ms,
                               struct kernels_peaks *out, struct err_text *why);
