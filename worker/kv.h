// kv: the KV pages of a stage's layers and the page tables of its slots. Page numbers come from the
// coordinator alone; here they only become addresses. All memory is taken at open, and zeroed: a
// step that reads pages which nothing was written to, or which two sequences share by mistake, gets
// wrong numbers and does no harm.
//
// Two pools: layers that see everything take pages of the first (n_page); those that see a window
// or chunk take pages of the second (n_page_local), or of the first where the plan has no second.
// Recurrent layers have no pages (state.h).
#pragma once
#include "kernels/kernels.h"
#include "proto/wire/wire.h"
#include "topology/share.h"
#include "worker/mem.h"

// Whose keys and values. Layers are known by their index in the stage: 0 .. layer_to - layer_from,
// and one more, the last, for the layer of the prediction head (mtp).
struct kv_config {
    const struct plan_settings *settings;
    const struct model_shape *shape;
    uint32_t layer_from, layer_to;
    bool mtp;
    const struct share *share; // its heads of attention; NULL: all
    struct kernels *kernels;   // says how large a page is
};

struct kv_slot {
    bool is_bound;       // holds a sequence
    bool has_rows;       // next_pos is known: rows have passed since the bind
    uint32_t n_page;     // page table entries set: [0, n_page)
    uint32_t local_from; // and of local pages: [local_from, n_local)
    uint32_t n_local;
    uint32_t next_pos;
};

struct kv_layer {
    struct kv_view view; // data NULL: the layer keeps no keys
    bool is_local;       // pages of the second pool
};

struct kv {
    struct mem pages;
    struct kv_layer layers[MODEL_LAYERS_MAX + 1];
    uint32_t n_layer; // the mtp layer included
    uint32_t n_page, n_page_local, page_tok;
    uint32_t window, chunk;   // what local layers see, 0: no such bound
    uint32_t n_slot, n_table; // entries of one slot's page table
    struct kv_slot *slots;    // (n_slot)
    int32_t *tables;          // (n_slot, n_table)
    int32_t *local_tables;    // (n_slot, n_table) or NULL
};

// Settings of a plan that this build can hold: counts in range, page size a power of two. A
// sentence names the setting. ERR_CONFIG.
err_t kv_check_settings(const struct plan_settings *s, struct err_text *why);
// Bytes of all pages. ERR_MODEL: the kernels have no pages of this shape.
err_t kv_bytes(const struct kv_config *c, uint64_t *out, struct err_text *why);
// The tables live in the caller's work space: carved twice, first to count. The pages are left as
// they are.
void kv_carve(struct kv *kv, const struct kv_config *c, struct mem_carver *carver);
// After the carving; takes the pages. What kv_bytes says.
err_t kv_open(struct kv *kv, const struct kv_config *c, struct err_text *why);
void kv_close(struct kv *kv);
void kv_reset(struct kv *kv); // forgets all sequences

// Where layer `index` keeps its keys and values; not of recurrent layers.
static inline const struct kv_view *kv_layer(const struct kv *kv, int32_t index)
{
    return &kv->layers[index].view;
}
// Its runs are those with local pages.
static inline bool kv_is_local(const struct kv *kv, int32_t index)
{
    return kv->layers[index].is_local;
}

// A row fits: its slot holds a sequence (or `is_fresh`: a bind of the same step gives it one), its
// position continues the slot, and its pages exist, begin where its first token begins to see and
// reach its last token. ERR_LINK_PROTOCOL.
err_t kv_check_row(const struct kv *kv, const struct step_row *r, bool is_fresh,
                   struct err_text *why);
void kv_bind(struct kv *kv, uint32_t slot);
// Enters a checked row's pages and tells where its keys lie: in layers with global pages, and in
// those with local ones (the same where the plan has no second pool).
void kv_extend(struct kv *kv, const struct step_row *r, int32_t tok_from, struct attn_run *global,
               struct attn_run *local);
