// state: what recurrent layers (MIXER_DELTA) remember of each sequence, and copies of it. One place
// per slot, n_snapshot more for snapshots; a place holds, one after the other, each recurrent layer
// of the stage: the convolution's last inputs, then the state matrices. All memory is taken at
// open.
#pragma once
#include "proto/wire/wire.h"
#include "topology/model.h"
#include "worker/mem.h"

struct state_config {
    const struct plan_settings *settings;
    const struct model_shape *shape;
    uint32_t layer_from, layer_to;
    struct kernels *kernels; // whose memory
};

struct state {
    struct kernels *k;
    struct mem places;    // (n_slot + n_snapshot) places; empty without recurrent layers
    uint64_t place_bytes; // 0: no recurrent layers
    uint64_t conv_bytes;  // of one layer; its matrices follow
    uint64_t layer_bytes; // of one layer
    uint32_t n_slot, n_snapshot;
    int16_t nth[MODEL_LAYERS_MAX]; // layer index in the stage -> which of the recurrent ones, or -1
};

// Bytes of all places.
uint64_t state_bytes(const struct state_config *c);
err_t state_open(struct state *st, const struct state_config *c, struct err_text *why);
void state_close(struct state *st);

// Layer `index` of the stage, which is recurrent.
float *state_conv(const struct state *st, int32_t index, uint32_t slot);  // (n_tap - 1, 2 k + v)
float *state_delta(const struct state *st, int32_t index, uint32_t slot); // (n_head_v, dim_k,
                                                                          // dim_v)

// Floats from a slot's to the next one's.
static inline int64_t state_ld(const struct state *st)
{
    return (int64_t)(st->place_bytes / sizeof(float));
}

// Snapshots named exist; of stages without recurrent layers too, so that all stages agree. A slot's
// first row begins at 0, or its bind restores a snapshot. `bind` is the row's in the same step, or
// NULL. ERR_LINK_PROTOCOL.
err_t state_check_row(const struct state *st, const struct step_row *r,
                      const struct step_bind *bind, struct err_text *why);
// The slot starts from the bind's snapshot, or from zeros.
void state_bind(struct state *st, const struct step_bind *b);
// Call it for each row when all layers have run: copies the slot's state if the row says so.
void state_save(struct state *st, const struct step_row *r);
