// kv: the KV pages of a stage's layers and the page tables of its slots. Page numbers come from the
// coordinator alone; here they only become addresses. All memory is taken at open, and zeroed: a
// step that reads pages which nothing was written to, or which two sequences share by mistake, gets
// wrong numbers and does no harm.
#pragma once
#include "kernels/kernels.h"
#include "proto/wire/wire.h"
#include "worker/mem.h"

struct kv_slot {
    bool is_bound;   // holds a sequence
    bool has_rows;   // next_pos is known: rows have passed since the bind
    uint32_t n_page; // page table entries set
    uint32_t next_pos;
};

struct kv {
    struct mem pages; // (n_layer, n_page) pages of page_bytes
    uint64_t page_bytes;
    uint32_t n_layer, n_page, page_tok;
    uint32_t n_slot, n_table; // entries of one slot's page table
    int32_t n_head_kv, head_dim;
    enum dtype dtype;
    struct kv_slot *slots; // (n_slot)
    int32_t *tables;       // (n_slot, n_table)
};

struct kv_config {
    const struct plan_settings *settings;
    uint32_t n_layer;
    int32_t n_head_kv, head_dim;
    uint64_t page_bytes; // of one layer, from the backend
};

// Settings of a plan that this build can hold: counts in range, page size a power of two. A
// sentence names the setting. ERR_CONFIG.
err_t kv_check_settings(const struct plan_settings *s, struct err_text *why);
uint64_t kv_bytes(const struct kv_config *c);
// The tables live in the caller's work space: carved twice, first to count.
void kv_carve(struct kv *kv, const struct kv_config *c, struct mem_carver *carver);
err_t kv_open(struct kv *kv, const struct kv_config *c, struct err_text *why); // takes the pages
void kv_close(struct kv *kv);
void kv_reset(struct kv *kv); // forgets all sequences

struct kv_view kv_layer(const struct kv *kv, int32_t index);

// A row fits: its slot holds a sequence (or `is_fresh`: a bind of the same step gives it one), its
// position continues the slot, and its pages exist and reach its last token. ERR_LINK_PROTOCOL.
err_t kv_check_row(const struct kv *kv, const struct step_row *r, bool is_fresh,
                   struct err_text *why);
void kv_bind(struct kv *kv, uint32_t slot);
// Enters a checked row's pages and tells where its keys lie.
struct attn_run kv_extend(struct kv *kv, const struct step_row *r, int32_t tok_from);
