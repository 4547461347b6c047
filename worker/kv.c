#include "worker/kv.h"

#include <string.h>

enum {
    CTX_MAX = 1 << 22,
    PAGE_TOK_MIN = 16,
    PAGE_TOK_MAX = 256,
    SLOT_TABLE_BYTES_MAX = 1 << 30, // of all slots' page tables
};

static err_t in_range(const char *name, uint32_t value, uint32_t min, uint32_t max,
                      struct err_text *why)
{
    if (value >= min && value <= max) return OK;
    return err_say(why, ERR_CONFIG, "setting %s is %u, allowed are %u to %u", name, value, min,
                   max);
}

err_t kv_check_settings(const struct plan_settings *s, struct err_text *why)
{
    const struct {
        const char *name;
        uint32_t value, min, max;
    } rules[] = {
        {"ctx", s->ctx, 1, CTX_MAX},
        {"page_tok", s->page_tok, PAGE_TOK_MIN, PAGE_TOK_MAX},
        {"n_page", s->n_page, 1, STEP_PAGES_MAX},
        {"n_page_local", s->n_page_local, 0, STEP_PAGES_MAX},
        {"n_snapshot", s->n_snapshot, 0, STEP_SNAPSHOTS_MAX},
        {"n_slot", s->n_slot, 1, STEP_SLOTS_MAX},
        {"max_tok", s->max_tok, 1, STEP_TOKENS_MAX},
        {"max_rows", s->max_rows, 1, STEP_ROWS_MAX},
        {"in_flight", s->in_flight, 1, WIRE_IN_FLIGHT_MAX},
        {"precision", s->precision, PRECISION_FAST, PLAN_DETERMINISTIC},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        err_t e = in_range(rules[i].name, rules[i].value, rules[i].min, rules[i].max, why);
        if (e) return e;
    }
    if (s->page_tok & (s->page_tok - 1))
        return err_say(why, ERR_CONFIG, "setting page_tok is %u, not a power of two", s->page_tok);
    static const enum dtype types[] = {DT_F16, DT_BF16, DT_F32, DT_Q8_0, DT_F8_E4M3};
    bool is_type = false;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        is_type = is_type || s->kv_dtype == (uint32_t)types[i];
    if (!is_type)
        return err_say(why, ERR_CONFIG,
                       "setting kv_dtype is %u, allowed are F16, BF16, F32, Q8_0 and F8_E4M3",
                       s->kv_dtype);
    if ((uint64_t)(s->ctx / s->page_tok + 1) * s->n_slot * 4 > SLOT_TABLE_BYTES_MAX)
        return err_say(why, ERR_CONFIG, "page tables for %u slots of %u tokens are too large",
                       s->n_slot, s->ctx);
    return OK;
}

// -- layers --

static const struct model_layer *layer_of(const struct kv_config *c, uint32_t index)
{
    const uint32_t n = c->layer_to - c->layer_from;
    return index < n ? &c->shape->layers[c->layer_from + index] : &c->shape->mtp;
}

static uint32_t n_layer_of(const struct kv_config *c)
{
    return c->layer_to - c->layer_from + c->mtp;
}

// What a layer keeps, without its place; n_head_kv 0: nothing.
static struct kv_view shape_of(const struct kv_config *c, const struct model_layer *l)
{
    const struct model_shape *s = c->shape;
    struct kv_view v = {.page_tok = (int32_t)c->settings->page_tok,
                        .dtype = (enum dtype)c->settings->kv_dtype};
    struct share_range heads = {0, s->n_head_kv};
    if (c->share) {
        if (!share_is_dense(c->share, c->share->member)) return v;
        heads = share_kv_heads(c->share, c->share->member, s, l);
    }
    if (l->mixer == MIXER_ATTN) {
        v.n_head_kv = (int32_t)(heads.to - heads.from);
        v.head_dim = v.head_dim_v = s->head_dim;
    } else if (l->mixer == MIXER_MLA) {
        // One latent vector for all heads, and the rotated part of the keys.
        v.n_head_kv = 1;
        v.head_dim = s->mla.kv_rank + s->mla.rope_dim;
        v.head_dim_v = s->mla.kv_rank;
        v.v_in_k = true;
    }
    if (v.n_head_kv) v.page_bytes = (int64_t)c->kernels->ops->kv_page_bytes(c->kernels, &v);
    return v;
}

static uint64_t layer_bytes(const struct kv_config *c, const struct model_layer *l,
                            const struct kv_view *v)
{
    const struct plan_settings *s = c->settings;
    return (uint64_t)v->page_bytes * (l->is_local && s->n_page_local ? s->n_page_local : s->n_page);
}

err_t kv_bytes(const struct kv_config *c, uint64_t *out, struct err_text *why)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n_layer_of(c); i++) {
        const struct kv_view v = shape_of(c, layer_of(c, i));
        if (v.n_head_kv && !v.page_bytes)
            return err_say(
                why, ERR_MODEL, "%s has no kernel for keys and values in %s of %d heads of %d",
                c->kernels->ops->name, dtype_info(v.dtype)->name, v.n_head_kv, v.head_dim);
        sum += layer_bytes(c, layer_of(c, i), &v);
    }
    *out = sum;
    return OK;
}

static void place_layers(struct kv *kv, const struct kv_config *c)
{
    char *base = kv->pages.data;
    uint64_t at = 0;
    for (uint32_t i = 0; i < kv->n_layer; i++) {
        const struct model_layer *l = layer_of(c, i);
        struct kv_view v = shape_of(c, l);
        if (v.n_head_kv) v.data = base + at;
        kv->layers[i] = (struct kv_layer){.view = v, .is_local = l->is_local && kv->n_page_local};
        at += layer_bytes(c, l, &v);
    }
}

// -- open and close --

void kv_carve(struct kv *kv, const struct kv_config *c, struct mem_carver *carver)
{
    const struct plan_settings *s = c->settings;
    kv->n_layer = n_layer_of(c);
    kv->n_page = s->n_page;
    kv->n_page_local = s->n_page_local;
    kv->page_tok = s->page_tok;
    kv->window = (uint32_t)c->shape->window;
    kv->chunk = (uint32_t)c->shape->chunk;
    kv->n_slot = s->n_slot;
    kv->n_table = (s->ctx + s->page_tok - 1) / s->page_tok;
    const uint64_t n = (uint64_t)kv->n_slot * kv->n_table;
    kv->slots = mem_carve(carver, kv->n_slot, sizeof *kv->slots);
    kv->tables = mem_carve(carver, n, sizeof *kv->tables);
    kv->local_tables = NULL;
    if (s->n_page_local) kv->local_tables = mem_carve(carver, n, sizeof *kv->local_tables);
}

err_t kv_open(struct kv *kv, const struct kv_config *c, struct err_text *why)
{
    uint64_t bytes;
    err_t e = kv_bytes(c, &bytes, why);
    if (!e && bytes) e = mem_take_of(c->kernels, bytes, "KV pages", &kv->pages, why);
    if (!e) place_layers(kv, c);
    return e;
}

void kv_close(struct kv *kv)
{
    mem_give(&kv->pages);
}

void kv_reset(struct kv *kv)
{
    memset(kv->slots, 0, kv->n_slot * sizeof *kv->slots);
}

// -- steps --

// What a row sets of one of the two page tables.
struct entries {
    const char *kind; // "" or "local "
    uint32_t from, n;
    const uint32_t *pages;
    uint32_t n_page; // pages of this kind
};

static err_t check_entries(const struct kv *kv, uint32_t slot, const struct entries *e,
                           uint32_t have, struct err_text *why)
{
    if (e->from > have || e->n > kv->n_table || e->from > kv->n_table - e->n)
        return err_say(why, ERR_LINK_PROTOCOL,
                       "step: slot %u sets %spage entries %u to %llu, has %u of %u", slot, e->kind,
                       e->from, (unsigned long long)e->from + e->n, have, kv->n_table);
    for (uint32_t i = 0; i < e->n; i++)
        if (e->pages[i] >= e->n_page)
            return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u names %spage %u of %u", slot,
                           e->kind, e->pages[i], e->n_page);
    return OK;
}

static err_t check_reach(const struct kv *kv, const struct step_row *r, const char *kind,
                         uint32_t n_entry, struct err_text *why)
{
    const uint64_t end = (uint64_t)r->pos + r->n_tok, reach = (uint64_t)n_entry * kv->page_tok;
    if (end <= reach) return OK;
    return err_say(why, ERR_LINK_PROTOCOL,
                   "step: slot %u reaches position %llu, its %spages end at %llu", r->slot,
                   (unsigned long long)end, kind, (unsigned long long)reach);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static err_t check_local(const struct kv *kv, const struct step_row *r, bool is_first,
                         struct err_text *why)
{
    const struct kv_slot *s = &kv->slots[r->slot];
    if (!kv->n_page_local) {
        if (!r->n_local) return OK;
        return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u names local pages, there are none",
                       r->slot);
    }
    const struct entries e = {"local ", r->local_from, r->n_local, r->locals, kv->n_page_local};
    // The first row begins the table anywhere.
    const uint32_t have = is_first ? r->local_from : s->n_local;
    const uint32_t from = is_first ? r->local_from : s->local_from;
    err_t err = check_entries(kv, r->slot, &e, have, why);
    if (err) return err;
    const uint32_t sees = step_sees_from(r->pos, kv->window, kv->chunk) / kv->page_tok;
    if (from > sees || (r->n_local && r->local_from < from))
        return err_say(why, ERR_LINK_PROTOCOL,
                       "step: slot %u needs local pages from entry %u on, has them from %u",
                       r->slot, sees, from);
    return check_reach(kv, r, e.kind, larger(have, r->local_from + r->n_local), why);
}

err_t kv_check_row(const struct kv *kv, const struct step_row *r, bool is_fresh,
                   struct err_text *why)
{
    if (r->slot >= kv->n_slot)
        return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u of %u", r->slot, kv->n_slot);
    const struct kv_slot *s = &kv->slots[r->slot];
    if (!is_fresh && !s->is_bound)
        return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u holds no sequence", r->slot);
    if (!is_fresh && s->has_rows && r->pos != s->next_pos)
        return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u goes on at position %u, expected %u",
                       r->slot, r->pos, s->next_pos);
    const struct entries e = {"", r->page_from, r->n_page, r->pages, kv->n_page};
    const uint32_t have = is_fresh ? 0 : s->n_page;
    err_t err = check_entries(kv, r->slot, &e, have, why);
    if (!err) err = check_reach(kv, r, e.kind, larger(have, r->page_from + r->n_page), why);
    if (!err) err = check_local(kv, r, is_fresh || !s->has_rows, why);
    return err;
}

void kv_bind(struct kv *kv, uint32_t slot)
{
    kv->slots[slot] = (struct kv_slot){.is_bound = true};
}

void kv_extend(struct kv *kv, const struct step_row *r, int32_t tok_from, struct attn_run *global,
               struct attn_run *local)
{
    struct kv_slot *s = &kv->slots[r->slot];
    const uint64_t at = (uint64_t)r->slot * kv->n_table;
    for (uint32_t i = 0; i < r->n_page; i++)
        kv->tables[at + r->page_from + i] = (int32_t)r->pages[i];
    s->n_page = larger(s->n_page, r->page_from + r->n_page);
    if (kv->n_page_local) {
        for (uint32_t i = 0; i < r->n_local; i++)
            kv->local_tables[at + r->local_from + i] = (int32_t)r->locals[i];
        if (!s->has_rows) s->local_from = s->n_local = r->local_from;
        s->n_local = larger(s->n_local, r->local_from + r->n_local);
    }
    s->has_rows = true;
    s->next_pos = r->pos + r->n_tok;
    *global = (struct attn_run){
        .tok_from = tok_from,
        .n_tok = (int32_t)r->n_tok,
        .pos_from = (int32_t)r->pos,
        .pages = kv->tables + at,
    };
    *local = *global;
    if (kv->n_page_local) local->pages = kv->local_tables + at;
}
