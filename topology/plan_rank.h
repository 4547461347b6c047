// plan_rank: the same model on the same cluster in ways of different kinds, best first, with the
// reason why each of the others loses.
#pragma once
#include "topology/plan.h"

enum plan_kind {
    PLAN_ALONE,   // the best device by itself: what every split has to beat
    PLAN_LAYERS,  // stages of one device each
    PLAN_TENSOR,  // one stage, a tensor group
    PLAN_EXPERTS, // one stage, a lead and owners of experts
    PLAN_MIXED,   // stages of groups
    PLAN_LANES,   // several complete copies
    PLAN_KINDS
};

struct plan_option {
    enum plan_kind kind;
    int32_t n_lane;                                  // 0: there is none of this kind
    struct plan *lanes;                              // (n_lane); one, but for PLAN_LANES
    double decode_us;                                // of the fastest lane
    double stream_tok_s, total_tok_s, prefill_tok_s; // of the fastest lane; of all together
    char why[400]; // why it is not the first, or why there is none
};

struct plan_ranking {
    int32_t n; // those that have lanes come first
    struct plan_option options[PLAN_KINDS];
    char verdict[400]; // whether to split
};

// Groups as ask->split allows; of ask->n_member members where that is not 0.
// ERR_CAPACITY if there is no placement of any kind, as plan_make says it.
err_t plan_rank(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                struct plan_ranking **out, struct err_text *why);
void plan_rank_free(struct plan_ranking *r);
const char *plan_kind_name(enum plan_kind kind); // "one device", "layers"
// For people: every device on its own, the first plan line by line (with `explain` also where a
// step's time goes), the others with their reasons, the verdict.
void plan_rank_text(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                    const struct plan_ranking *r, bool explain, struct buf *out);
