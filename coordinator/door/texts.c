#include "coordinator/door/texts.h"

#include <stdio.h>

static err_t refuse(const struct texts *t, size_t i, struct refusal *no)
{
    char param[48];
    snprintf(param, sizeof param, "%s[%zu]", t->field, i);
    return refusal_field(no, param,
                         "'%s' does not fit: '%s' is a string, strings, token ids, or arrays of "
                         "token ids",
                         param, t->field);
}

static err_t check_ids(const struct texts *t, const struct prepare *p, const struct json *list,
                       struct refusal *no)
{
    for (size_t i = 0; i < list->arr.n; i++) {
        const struct json *id = &list->arr.items[i];
        if (id->kind == J_INT && id->i >= 0 && id->i < p->in->n_vocab) continue;
        return refusal_field(no, t->field, "'%s' must hold token ids from 0 to %d (element %zu)",
                             t->field, p->in->n_vocab - 1, i);
    }
    return OK;
}

static bool is_single(const struct json *q)
{
    return q->kind == J_STR || q->arr.items[0].kind == J_INT;
}

err_t texts_check(const struct texts *t, const struct prepare *p, struct refusal *no)
{
    const struct json *q = t->value;
    if (!q) return refusal_field(no, t->field, "'%s' is missing", t->field);
    if (q->kind == J_STR) return OK;
    if (q->arr.n == 0) return refusal_field(no, t->field, "'%s' is empty", t->field);
    if (is_single(q)) return check_ids(t, p, q, no);
    const enum json_kind kind = q->arr.items[0].kind;
    if (kind != J_STR && kind != J_ARR) return refuse(t, 0, no);
    if (q->arr.n > t->n_max)
        return refusal_field(no, t->field, "'%s' must hold at most %zu texts here, not %zu",
                             t->field, t->n_max, q->arr.n);
    for (size_t i = 0; i < q->arr.n; i++) {
        const struct json *one = &q->arr.items[i];
        if (one->kind != kind) return refuse(t, i, no);
        err_t err = kind == J_ARR ? check_ids(t, p, one, no) : OK;
        if (err) return err;
    }
    return OK;
}

static err_t add(const struct texts *t, const struct prepare *p, struct prepared *out,
                 const struct json *one, struct refusal *no)
{
    struct ids ids = {0};
    const bool is_text = one->kind == J_STR;
    bool ok = true;
    if (is_text)
        ok = tokenizer_encode(p->in->model->tokenizer, one->str.s, one->str.len,
                              TOKENIZER_BOS | TOKENIZER_SPECIAL, NULL, 0, one->str.len + 64,
                              &ids) == OK;
    for (size_t i = 0; ok && !is_text && i < one->arr.n; i++)
        ok = ids_add(&ids, (int32_t)one->arr.items[i].i);
    err_t err = ok ? prepare_add(p, out, &ids, is_text && t->keep ? one : NULL, no)
                   : refusal_set(no, 500, "internal_error", "a text could not be tokenised");
    ids_fini(&ids);
    return err;
}

err_t texts_encode(const struct texts *t, const struct prepare *p, struct prepared *out,
                   struct refusal *no)
{
    const struct json *q = t->value;
    const size_t n = is_single(q) ? 1 : q->arr.n;
    err_t err = OK;
    out->prompts = arena_take_n(&out->arena, n, sizeof *out->prompts);
    if (!out->prompts) return refusal_set(no, 500, "internal_error", "out of memory");
    for (size_t i = 0; i < n && !err; i++)
        err = prepare_unwanted(p->in) ? ERR_CANCELLED
                                      : add(t, p, out, is_single(q) ? q : &q->arr.items[i], no);
    return err;
}
