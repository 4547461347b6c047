// share: how the members of a group divide one stage among themselves. Nothing is ever summed
// across members: a weight is cut by its output rows (heads, middle rows, output rows, vocabulary)
// or by expert, so every number is computed whole by one member, in the order in which one member
// alone would compute it, and then handed round. That makes any division give the same bits.
//
// Two ways to divide:
//   SPLIT_TENSOR   every member runs every step: its heads of attention, its rows of each matrix,
//                  those of every expert too. What each made is gathered by all, four times a
//                  layer.
//   SPLIT_EXPERTS  member 0 (the lead) runs the step; the others own experts only. The lead sends
//                  an owner the rows that chose its experts, and gets each product back.
//
// The same numbers are asked here by the cost model (bytes, time) and by the worker (what to load).
#pragma once
#include "topology/model.h"

enum { SHARE_MEMBERS_MAX = 16, SHARE_TOTAL = 1 << 16 };

enum share_split { SPLIT_NONE, SPLIT_TENSOR, SPLIT_EXPERTS, SPLIT_COUNT };

// What a weight's output rows are cut by.
enum share_axis {
    SHARE_WHOLE,   // each member that computes this part holds all of it
    SHARE_HEADS,   // query heads: rows in units of head_dim
    SHARE_KV,      // key/value heads that the member's query heads read: may overlap
    SHARE_DIM,     // rows of an output matrix (dim, ..)
    SHARE_MIDDLE,  // rows of gate and up; of a stack, of each of its matrices
    SHARE_EXPERTS, // matrices of a stack
    SHARE_VOCAB,   // rows of the output matrix
};

// Which experts of each layer a member computes, of the layers [layer_from, layer_from + n_layer):
// owner[(l - layer_from) * n_expert + e] is the member that computes expert e of layer l; experts
// in spare memory of others besides. Other layers go by `part`.
struct share_experts {
    int32_t layer_from, n_layer, n_expert; // n_layer 0: by `part` alone
    const uint8_t *owner;                  // (n_layer, n_expert)
    const struct share_replica {
        uint32_t layer, expert, member; // as a plan carries them (msg_plan.replicas)
    } * replicas;                       // ascending by layer, expert, member; never the owner
    uint32_t n_replica;
};

struct share {
    enum share_split split;
    int32_t n_member, member;         // 1, 0: alone
    uint32_t part[SHARE_MEMBERS_MAX]; // how much of the work each takes; sum SHARE_TOTAL
    struct share_experts experts;
};

// The whole stage to one member.
struct share share_alone(void);
// Parts in proportion to `speed` (n), summing to SHARE_TOTAL, none below 1.
void share_parts(const double *speed, int32_t n, uint32_t *part);

// Cuts n units among the members: member i has [from[i], from[i + 1]). Cumulated parts are rounded
// to the nearest unit, so nobody differs from his part by more than one.
void share_cut(const struct share *s, int64_t n, int64_t *from); // (n_member + 1)
struct share_range {
    int64_t from, to;
};
// The same of one member, in rows: n_row rows in units of `unit`.
struct share_range share_rows(const struct share *s, int32_t member, int64_t n_row, int64_t unit);

// Axis of a slot in a layer of this kind under this way to divide (layer NULL: a slot of the
// model). Mixers whose heads do not stand alone (latent attention, DeltaNet, norms over a whole
// projection) are SHARE_WHOLE: every member of a tensor group computes them.
enum share_axis share_axis_of(const struct model_shape *m, const struct model_layer *layer,
                              enum slot slot, enum share_split split);
// Rows of `slot` that a member holds; from == to: none. SHARE_EXPERTS: of the stack, when experts
// are cut by part; with a table (share.experts) ask share_owns.
struct share_range share_of(const struct share *s, int32_t member, const struct model_shape *m,
                            const struct model_layer *layer, enum slot slot);
// Query heads of a member in this layer, and the key/value heads they read.
struct share_range share_heads(const struct share *s, int32_t member, const struct model_shape *m,
                               const struct model_layer *layer);
struct share_range share_kv_heads(const struct share *s, int32_t member,
                                  const struct model_shape *m, const struct model_layer *layer);
// Whether whole experts are dealt out among members. Else each holds its rows of all of them, and a
// table has no meaning.
static inline bool share_deals_experts(const struct share *s)
{
    return s->n_member > 1 && s->split == SPLIT_EXPERTS;
}
// Whether a member holds this expert, as its owner or besides it; for experts that are dealt out.
bool share_owns(const struct share *s, int32_t member, int32_t layer, int32_t expert, int32_t n);
// The member that computes each of `n_prod` products (ascending by expert) of one layer's step:
// its owner, or of those that hold a copy the one that has least to do by then in proportion to its
// part; products of one expert stay together, by the dozen. Every member comes to the same answer.
// `load` (n_member) is scratch.
void share_assign(const struct share *s, int32_t layer, int32_t n_expert, const int32_t *expert,
                  int32_t n_prod, uint8_t *member, uint64_t *load);
// True if the member takes part in the dense work of a step: all of a tensor group, the lead of an
// expert group.
static inline bool share_is_dense(const struct share *s, int32_t member)
{
    return s->split != SPLIT_EXPERTS || member == 0;
}
const char *share_split_name(enum share_split s); // "none", "tensor", "experts"
