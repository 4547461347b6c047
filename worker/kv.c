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
        {"n_slot", s->n_slot, 1, STEP_SLOTS_MAX},
        {"max_tok", s->max_tok, 1, STEP_TOKENS_MAX},
        {"max_rows", s->max_rows, 1, STEP_ROWS_MAX},
        {"in_flight", s->in_flight, 1, WIRE_IN_FLIGHT_MAX},
        {"precision", s->precision, PRECISION_FAST, PRECISION_EXACT},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        err_t e = in_range(rules[i].name, rules[i].value, rules[i].min, rules[i].max, why);
        if (e) return e;
    }
    if (s->page_tok & (s->page_tok - 1))
        return err_say(why, ERR_CONFIG, "setting page_tok is %u, not a power of two", s->page_tok);
    if (s->kv_dtype != DT_F16 && s->kv_dtype != DT_F32)
        return err_say(why, ERR_CONFIG, "setting kv_dtype is %u, allowed are F16 and F32",
                       s->kv_dtype);
    if ((uint64_t)(s->ctx / s->page_tok + 1) * s->n_slot * 4 > SLOT_TABLE_BYTES_MAX)
        return err_say(why, ERR_CONFIG, "page tables for %u slots of %u tokens are too large",
                       s->n_slot, s->ctx);
    return OK;
}

uint64_t kv_bytes(const struct kv_config *c)
{
    return c->page_bytes * c->n_layer * c->settings->n_page;
}

void kv_carve(struct kv *kv, const struct kv_config *c, struct mem_carver *carver)
{
    const struct plan_settings *s = c->settings;
    *kv = (struct kv){
        .page_bytes = c->page_bytes,
        .n_layer = c->n_layer,
        .n_page = s->n_page,
        .page_tok = s->page_tok,
        .n_slot = s->n_slot,
        .n_table = (s->ctx + s->page_tok - 1) / s->page_tok,
        .n_head_kv = c->n_head_kv,
        .head_dim = c->head_dim,
        .dtype = (enum dtype)s->kv_dtype,
    };
    kv->slots = mem_carve(carver, kv->n_slot, sizeof *kv->slots);
    kv->tables = mem_carve(carver, (uint64_t)kv->n_slot * kv->n_table, sizeof *kv->tables);
}

err_t kv_open(struct kv *kv, const struct kv_config *c, struct err_text *why)
{
    return mem_take(kv_bytes(c), MEM_TOUCH, "KV pages", &kv->pages, why);
}

void kv_close(struct kv *kv)
{
    mem_give(&kv->pages);
}

void kv_reset(struct kv *kv)
{
    memset(kv->slots, 0, kv->n_slot * sizeof *kv->slots);
}

struct kv_view kv_layer(const struct kv *kv, int32_t index)
{
    return (struct kv_view){
        .data = (char *)kv->pages.data + (uint64_t)index * kv->n_page * kv->page_bytes,
        .page_bytes = (int64_t)kv->page_bytes,
        .page_tok = (int32_t)kv->page_tok,
        .n_head_kv = kv->n_head_kv,
        .head_dim = kv->head_dim,
        .dtype = kv->dtype,
    };
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

    const uint32_t have = is_fresh ? 0 : s->n_page;
    if (r->page_from > have || r->n_page > kv->n_table || r->page_from > kv->n_table - r->n_page)
        return err_say(why, ERR_LINK_PROTOCOL,
                       "step: slot %u sets page entries %u to %u, has %u of %u", r->slot,
                       r->page_from, r->page_from + r->n_page, have, kv->n_table);
    for (uint32_t i = 0; i < r->n_page; i++)
        if (r->pages[i] >= kv->n_page)
            return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u names page %u of %u", r->slot,
                           r->pages[i], kv->n_page);

    const uint32_t entries = r->page_from + r->n_page > have ? r->page_from + r->n_page : have;
    const uint64_t end = (uint64_t)r->pos + r->n_tok;
    if (end > (uint64_t)entries * kv->page_tok)
        return err_say(why, ERR_LINK_PROTOCOL,
                       "step: slot %u reaches position %llu, its pages end at %llu", r->slot,
                       (unsigned long long)end, (unsigned long long)entries * kv->page_tok);
    return OK;
}

void kv_bind(struct kv *kv, uint32_t slot)
{
    kv->slots[slot] = (struct kv_slot){.is_bound = true};
}

struct attn_run kv_extend(struct kv *kv, const struct step_row *r, int32_t tok_from)
{
    struct kv_slot *s = &kv->slots[r->slot];
    int32_t *table = kv->tables + (uint64_t)r->slot * kv->n_table;
    for (uint32_t i = 0; i < r->n_page; i++)
        table[r->page_from + i] = (int32_t)r->pages[i];
    if (r->page_from + r->n_page > s->n_page) s->n_page = r->page_from + r->n_page;
    s->has_rows = true;
    s->next_pos = r->pos + r->n_tok;
    return (struct attn_run){
        .tok_from = tok_from,
        .n_tok = (int32_t)r->n_tok,
        .pos_from = (int32_t)r->pos,
        .pages = table,
    };
}
