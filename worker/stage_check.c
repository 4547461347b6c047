#include "worker/stage_priv.h"

static err_t check_binds(const struct stage *s, const struct step *st, struct err_text *why)
{
    const uint32_t n_slot = s->config.settings.n_slot;
    for (uint32_t i = 0; i < st->n_bind; i++) {
        const struct step_bind *b = &st->binds[i];
        if (b->slot >= n_slot)
            return err_say(why, ERR_LINK_PROTOCOL, "step: bind of slot %u of %u", b->slot, n_slot);
        if (s->fresh[b->slot])
            return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u is bound twice", b->slot);
        s->fresh[b->slot] = (uint16_t)(i + 1);
        err_t e = stage_samples(&s->config) ? head_check_bind(&s->head, b, why) : OK;
        if (e) return e;
    }
    return OK;
}

static err_t check_ids(const struct stage *s, const struct step_row *r, struct err_text *why)
{
    const int32_t n_vocab = s->config.model->shape.n_vocab;
    if (r->flags & ROW_CHAIN) {
        if (r->n_tok == 1 && !s->fresh[r->slot]) return OK;
        return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u chains %u tokens%s", r->slot,
                       r->n_tok, s->fresh[r->slot] ? " of a new sequence" : "");
    }
    for (uint32_t i = 0; i < r->n_tok; i++)
        if (r->ids[i] < 0 || r->ids[i] >= n_vocab)
            return err_say(why, ERR_LINK_PROTOCOL, "step: id %d, vocabulary is %d", r->ids[i],
                           n_vocab);
    return OK;
}

static err_t check_row(const struct stage *s, const struct step *st, const struct step_row *r,
                       struct err_text *why)
{
    const struct plan_settings *p = &s->config.settings;
    const bool scores = r->flags & ROW_SCORE;
    if (r->n_tok < 1 || r->n_tok > p->max_tok || (uint64_t)r->pos + r->n_tok > p->ctx)
        return err_say(why, ERR_LINK_PROTOCOL, "step: %u tokens at position %u, context is %u",
                       r->n_tok, r->pos, p->ctx);
    if (scores && (r->next_id < -1 || r->next_id >= s->config.model->shape.n_vocab))
        return err_say(why, ERR_LINK_PROTOCOL, "step: next id %d, vocabulary is %d", r->next_id,
                       s->config.model->shape.n_vocab);
    if (!(r->flags & ROW_CHAIN) != (r->ids != NULL))
        return err_say(why, ERR_LINK_PROTOCOL, "step: a row has ids or is chained, not both");
    const uint32_t fresh = r->slot < p->n_slot ? s->fresh[r->slot] : 0;
    err_t e = kv_check_row(&s->kv, r, fresh != 0, why);
    if (!e) e = state_check_row(&s->state, r, fresh ? &st->binds[fresh - 1] : NULL, why);
    if (!e) e = check_ids(s, r, why);
    if (!e && r->flags & ROW_CHAIN && stage_samples(&s->config))
        e = head_check_chain(&s->head, r, why);
    if (!e && r->mask && stage_samples(&s->config)) e = head_check_mask(&s->head, r, why);
    if (!e && stage_samples(&s->config))
        e = pooler_check_row(&s->head.pooler, r, fresh ? &st->binds[fresh - 1] : NULL, why);
    return e;
}

static err_t check_rows(const struct stage *s, const struct step *st, struct err_text *why)
{
    const struct plan_settings *p = &s->config.settings;
    uint64_t n_tok = 0, n_vector = 0;
    for (uint32_t i = 0; i < st->n_row; i++) {
        err_t e = check_row(s, st, &st->rows[i], why);
        if (e) return e;
        n_tok += st->rows[i].n_tok;
        if (n_tok > p->max_tok)
            return err_say(why, ERR_LINK_PROTOCOL, "step: more than %u tokens", p->max_tok);
        if (st->rows[i].flags & ROW_POOL) n_vector += (uint64_t)s->config.model->shape.dim;
        if (n_vector > STEP_VECTORS_MAX)
            return err_say(why, ERR_LINK_PROTOCOL, "step: vectors of more than %d numbers",
                           STEP_VECTORS_MAX);
        for (uint32_t j = 0; j < i; j++)
            if (st->rows[j].slot == st->rows[i].slot)
                return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u has two rows",
                               st->rows[i].slot);
    }
    return OK;
}

err_t stage_check(const struct stage *s, const struct step *st, struct err_text *why)
{
    const struct plan_settings *p = &s->config.settings;
    if (st->n_row < 1 || st->n_row > p->max_rows)
        return err_say(why, ERR_LINK_PROTOCOL, "step: %u rows, allowed are 1 to %u", st->n_row,
                       p->max_rows);
    if (st->n_bind > p->n_slot)
        return err_say(why, ERR_LINK_PROTOCOL, "step: %u binds for %u slots", st->n_bind,
                       p->n_slot);
    err_t e = check_binds(s, st, why);
    if (!e) e = check_rows(s, st, why);
    for (uint32_t i = 0; i < st->n_bind; i++)
        if (st->binds[i].slot < p->n_slot) s->fresh[st->binds[i].slot] = 0;
    return e;
}
