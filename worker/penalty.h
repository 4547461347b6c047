// penalty: which ids a sequence holds and how often it generated each, for the penalties of struct
// sampling. One small hash table per slot, sized for a full context; its memory is reserved at open
// and only touched by sequences that use penalties.
#pragma once
#include "proto/wire/step.h"
#include "worker/mem.h"

struct penalty_entry {
    uint32_t key; // id + 1; 0: empty
    uint32_t n_generated;
};

struct penalty {
    struct mem mem;
    uint32_t n_slot, cap; // entries per slot, a power of two
    uint32_t *n_used;     // (n_slot)
};

uint64_t penalty_bytes(uint32_t n_slot, uint32_t ctx);
err_t penalty_open(struct penalty *p, uint32_t n_slot, uint32_t ctx, struct err_text *why);
void penalty_close(struct penalty *p);
void penalty_clear(struct penalty *p, uint32_t slot);
// At most 2 * ctx different ids per slot between clears: history and rows are each bounded by ctx.
void penalty_add(struct penalty *p, uint32_t slot, int32_t id, bool is_generated);
// Ids that were counted, in no order, from *at = 0 on; -1: no more.
int32_t penalty_next(const struct penalty *p, uint32_t slot, uint32_t *at);
// Changes logits (n_vocab) by what the slot holds.
void penalty_apply(const struct penalty *p, uint32_t slot, const struct sampling *s, float *logits);
