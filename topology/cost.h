// cost: what a run of layers costs a device, or a group of them: bytes of memory, line by line, and
// time. Closed formulas over the model's list of weights and the device's figures. Times of
// operations come from the device's measured rates where it has them (rates.h), else from a
// roofline: bytes read over bandwidth, or arithmetic over peak, whichever is longer. Hops and what
// members hand each other: latency plus bytes over bandwidth. Pure; times are whole nanoseconds so
// that sums do not depend on their order.
#pragma once
#include "topology/cluster.h"
#include "topology/share.h"

// In the order in which a step meets them; the members of a tensor group wait for each other after
// each.
enum cost_use {
    COST_IN,  // into the mixer, and the mixer itself
    COST_OUT, // out of it
    COST_UP,  // of a dense feed-forward
    COST_DOWN,
    COST_ROUTER, // every member's
    COST_EXPERT,
    COST_SHARED_UP, // the expert that every token passes
    COST_SHARED_DOWN,
    COST_LOGITS,
    COST_USES
};

// A matrix, or a stack of n of them.
struct cost_matrix {
    int64_t n, rows, cols;
    uint64_t bytes; // in memory, of all n
    uint8_t dtype;  // enum dtype
    uint8_t use;    // enum cost_use
    uint8_t axis;   // enum share_axis in a tensor group
    int32_t unit;   // rows that stay together
    bool fine;      // multiplied by two terms of 8 bits: twice the rows
};

enum { COST_MATRICES_MAX = 16 }; // of a layer

struct cost_layer {
    struct cost_matrix matrices[COST_MATRICES_MAX];
    int32_t n_matrix;
    uint64_t vector_bytes;        // norms and biases: of the dense part
    uint64_t expert_vector_bytes; // of all experts
    bool is_local;                // sees window or chunk only
    uint64_t kv_elems;            // of one token's keys and values; 0: none
    uint64_t state_bytes;         // recurrent state of one sequence; 0: none
    double seen_flops;            // of one token with each token it sees
    double state_flops;           // of one token with the state
};

// The model as the formulas see it. Filled from a model by cost_of_model, or by hand in
// simulations.
struct cost_model {
    uint8_t hash[32];
    char name[96];
    int32_t n_layer, dim, n_vocab, window, chunk, n_expert, n_used;
    int32_t n_head, n_head_kv; // of layers whose attention a tensor group divides
    bool tied_head;
    uint64_t row_floats; // work space of one row in the widest layer
    uint64_t wide_bytes; // the widest row that members hand each other (near.h)
    int64_t max_cols;    // of any matrix
    struct cost_layer layers[MODEL_LAYERS_MAX];
    uint64_t embed_bytes;
    // What the head reads: the embedding's matrix if tied. bytes 0: nothing.
    struct cost_matrix head;
    uint64_t head_vector_bytes;
    uint64_t shared_bytes; // each stage has its own
};

// What a plan must hold, and what its speed is predicted on.
struct cost_ask {
    int64_t kv_tokens;     // tokens of keys and values to hold, over all requests
    int64_t local_tokens;  // the same in local layers; 0: what `batch` requests see
    int32_t n_state;       // recurrent states to hold; 0: of `batch` requests and two copies each
    int64_t depth;         // tokens already there where speed is predicted
    int32_t batch;         // rows of a decode step, one request each
    int32_t chunk;         // rows of a prefill step, one request
    uint32_t kv_elem_bits; // 16: F16
    int32_t in_flight;     // steps on their way at once; 0: 2
};

struct cost_memory {
    uint64_t weights, kv, state, workspace;
    uint64_t comms;   // frames of the road to other stages, and of the group's
    uint64_t reserve; // stays free
};

// A step: `rows` rows of n_seq sequences with `depth` tokens before each; logit_rows of them are
// asked for an output token.
struct cost_step {
    int32_t rows, n_seq, logit_rows;
    int64_t depth;
    uint32_t kv_elem_bits;
};

enum { COST_KV_TOKENS_MAX = 1 << 30, COST_ROWS_MAX = 1 << 16 };

void cost_of_model(const struct model *m, struct cost_model *out);
// For requests of `ctx` tokens, `batch` at once: room for all of them, speed at half of it.
struct cost_ask cost_ask_of(int64_t ctx, int32_t batch);
// ERR_INVALID naming the number that is out of range.
err_t cost_ask_check(const struct cost_ask *a, struct err_text *why);
struct cost_step cost_decode_step(const struct cost_ask *a);
struct cost_step cost_prefill_step(const struct cost_ask *a);

// ---- memory

// Of layers [from, to): with the embedding if from is 0, the head if to is n_layer.
struct cost_memory cost_memory_of(const struct cost_model *m, const struct cost_ask *a,
                                  const struct cluster_device *d, int32_t from, int32_t to);
// The same of one member (s->member) of a group that has these layers together. Experts that a
// table (s->experts) gives away or copies are counted by the table.
struct cost_memory cost_memory_share(const struct cost_model *m, const struct cost_ask *a,
                                     const struct cluster_device *d, int32_t from, int32_t to,
                                     const struct share *s);
// One layer's part of it: weights, kv, state.
void cost_memory_layer(const struct cost_model *m, const struct cost_ask *a, const struct share *s,
                       int32_t layer, struct cost_memory *add);
// What does not grow with the number of layers.
void cost_memory_ends(const struct cost_model *m, const struct cost_ask *a,
                      const struct cluster_device *d, const struct share *s, bool is_first,
                      bool is_last, struct cost_memory *add);
uint64_t cost_memory_sum(const struct cost_memory *c);
// What stays free of mem_free_bytes: 8 %; on machines with unified memory, which stop dead when it
// runs out, 8 % of all memory and at least 8 GiB.
uint64_t cost_reserve(const struct cluster_device *d);

// ---- time

// What a step's time goes to.
enum cost_kind {
    COST_OF_ATTENTION, // mixers and their projections
    COST_OF_FFN,       // dense
    COST_OF_EXPERTS,   // router and shared expert included
    COST_OF_ENDS,      // embedding and head
    COST_OF_EXCHANGE,  // waiting for what members hand each other, beyond their own work
    COST_KINDS
};

struct cost_time {
    int64_t ns;                         // the sum of kinds
    int64_t kinds[COST_KINDS];          // of the group's slowest at each place
    int64_t own[SHARE_MEMBERS_MAX];     // each member's own work
    int64_t experts[SHARE_MEMBERS_MAX]; // of it, in experts that are dealt out
};

// Who shares a stage. The devices are borrowed.
struct cost_group {
    struct share share; // share.member means nothing here
    const struct cluster_device *devices[SHARE_MEMBERS_MAX];
    struct cluster_link link; // the slowest between two members that talk
};

struct cost_group cost_group_alone(const struct cluster_device *d);
// Each adds to *add.
void cost_time_layer(const struct cost_model *m, const struct cost_group *g,
                     const struct cost_step *s, int32_t layer, struct cost_time *add);
void cost_time_embed(const struct cost_model *m, const struct cost_group *g,
                     const struct cost_step *s, struct cost_time *add);
void cost_time_head(const struct cost_model *m, const struct cost_group *g,
                    const struct cost_step *s, struct cost_time *add);
// Of layers [from, to), with embedding and head as in cost_memory_of.
struct cost_time cost_time_of(const struct cost_model *m, const struct cost_group *g,
                              const struct cost_step *s, int32_t from, int32_t to);

// Nanoseconds of one step on one device alone.
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
