// cost: what a run of layers costs a device: bytes of memory, line by line, and time. Closed
// formulas over the model's tensor table and the device's measured figures: a roofline (bytes read
// over bandwidth, or arithmetic over peak, whichever is longer) per layer, latency plus bytes over
// bandwidth per hop. Pure; times are whole nanoseconds so that sums do not depend on their order.
#pragma once
#include "topology/cluster.h"
#include "topology/model.h"

// Weights of one part of the model.
struct cost_part {
    uint64_t bytes;   // in memory
    uint64_t n_quant; // elements of quantised matrices, multiplied at the device's int8 rate
    uint64_t n_float; // elements of the other matrices
};

struct cost_layer {
    struct cost_part part;    // but for the routed experts
    struct cost_part experts; // all of them; a token passes n_used of n_expert
    bool is_local;            // sees window or chunk only
    uint64_t kv_elems;        // of one token's keys and values; 0: none
    uint64_t state_bytes;     // recurrent state of one sequence; 0: none
    double seen_flops;        // of one token with each token it sees
    double state_flops;       // of one token with the state
};

// The model as the formulas see it. Filled from a model by cost_of_model, or by hand in
// simulations.
struct cost_model {
    uint8_t hash[32];
    char name[96];
    int32_t n_layer, dim, n_vocab, window, chunk, n_expert, n_used;
    bool tied_head;
    uint64_t row_floats; // work space of one row in the widest layer
    struct cost_layer layers[MODEL_LAYERS_MAX];
    struct cost_part embed, head, shared; // head: all it reads; the embedding's matrix if tied
};

// What a plan must hold, and what its speed is predicted on.
struct cost_ask {
    int64_t kv_tokens;      // tokens of keys and values to hold, over all requests
    int64_t local_tokens;   // the same in local layers; 0: what `batch` requests see
    int32_t n_state;        // recurrent states to hold; 0: of `batch` requests and two copies each
    int64_t depth;          // tokens already there where speed is predicted
    int32_t batch;          // rows of a decode step, one request each
    int32_t chunk;          // rows of a prefill step, one request
    uint32_t kv_elem_bytes; // 2: F16
};

struct cost_memory {
    uint64_t weights, kv, state, workspace, reserve; // bytes
};

// A step: `rows` rows of n_seq sequences with `depth` tokens before each; logit_rows of them are
// asked for an output token.
struct cost_step {
    int32_t rows, n_seq, logit_rows;
    int64_t depth;
    uint32_t kv_elem_bytes;
};

enum { COST_KV_TOKENS_MAX = 1 << 30, COST_ROWS_MAX = 1 << 16 };

void cost_of_model(const struct model *m, struct cost_model *out);
// For requests of `ctx` tokens, `batch` at once: room for all of them, speed at half of it.
struct cost_ask cost_ask_of(int64_t ctx, int32_t batch);
// ERR_INVALID naming the number that is out of range.
err_t cost_ask_check(const struct cost_ask *a, struct err_text *why);
struct cost_step cost_decode_step(const struct cost_ask *a);
struct cost_step cost_prefill_step(const struct cost_ask *a);

// Memory of layers [from, to): with the embedding if from is 0, the head if to is n_layer.
struct cost_memory cost_memory_of(const struct cost_model *m, const struct cost_ask *a,
                                  const struct cluster_device *d, int32_t from, int32_t to);
uint64_t cost_memory_sum(const struct cost_memory *c);
// What stays free of mem_free_bytes: 8 %; on machines with unified memory, which stop dead when it
// runs out, 8 % of all memory and at least 8 GiB.
uint64_t cost_reserve(const struct cluster_device *d);

// Nanoseconds of one step.
int64_t cost_layer_ns(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *s, int32_t layer);
int64_t cost_embed_ns(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *s);
int64_t cost_head_ns(const struct cost_model *m, const struct cluster_device *d,
                     const struct cost_step *s);
// Activations (F32) of one step over a link: all of it, and the part during which the link is busy
// (latency is not: the next frame may follow).
int64_t cost_hop_ns(const struct cost_model *m, const struct cluster_link *l,
                    const struct cost_step *s);
int64_t cost_hop_busy_ns(const struct cost_model *m, const struct cluster_link *l,
                         const struct cost_step *s);
