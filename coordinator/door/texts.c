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
        if (t->mixes && id->kind == J_STR) continue;
        if (id->kind == J_INT && id->i >= 0 && id->i < p->in->n_vocab) continue;
        return refusal_field(no, t->field, "'%s' must hold token ids from 0 to %d (element %zu)",
                             t->field, p->in->n_vocab - 1, i);
    }
    return OK;
}

static bool is_single(const struct texts *t)
{
    const struct json *q = t->value;
    if (q->kind != J_ARR) return true;
    if (!t->mixes) return q->arr.items[0].kind == J_INT;
    bool has_id = false;
    for (size_t i = 0; i < q->arr.n; i++) {
        has_id |= q->arr.items[i].kind == J_INT;
        if (q->arr.items[i].kind == J_ARR || q->arr.items[i].kind == J_OBJ) return false;
    }
    return has_id;
}

// What an object stands for; NULL: nothing that we can read.
static const struct json *text_in(const struct json *object)
{
    const struct json *text = json_get(object, "prompt_string");
    const struct json *media = json_get(object, "multimodal_data");
    const bool has_media = media && media->kind == J_ARR && media->arr.n;
    return text && text->kind == J_STR && !has_media ? text : NULL;
}

static err_t check_object(const struct texts *t, const struct json *one, struct refusal *no)
{
    if (text_in(one)) return OK;
    return refusal_field(no, t->field, "'%s': an object must have 'prompt_string', and no images",
                         t->field);
}

static err_t check_many(const struct texts *t, const struct prepare *p, struct refusal *no)
{
    const struct json *q = t->value;
    const enum json_kind first = q->arr.items[0].kind;
    if (q->arr.n > t->n_max)
        return refusal_field(no, t->field, "'%s' must hold at most %zu texts here, not %zu",
                             t->field, t->n_max, q->arr.n);
    for (size_t i = 0; i < q->arr.n; i++) {
        const struct json *one = &q->arr.items[i];
        const bool fits =
            one->kind == J_STR || one->kind == J_ARR || (t->mixes && one->kind == J_OBJ);
        if (!fits || (!t->mixes && one->kind != first)) return refuse(t, i, no);
        err_t err = OK;
        if (one->kind == J_ARR) err = check_ids(t, p, one, no);
        if (one->kind == J_OBJ) err = check_object(t, one, no);
        if (err) return err;
    }
    return OK;
}

err_t texts_check(const struct texts *t, const struct prepare *p, struct refusal *no)
{
    const struct json *q = t->value;
    if (!q) return refusal_field(no, t->field, "'%s' is missing", t->field);
    if (q->kind == J_STR) return OK;
    if (q->kind == J_OBJ) return check_object(t, q, no);
    if (q->arr.n == 0) return refusal_field(no, t->field, "'%s' is empty", t->field);
    return is_single(t) ? check_ids(t, p, q, no) : check_many(t, p, no);
}

static bool add_text(const struct prepare *p, const struct json *text, unsigned flags,
                     struct ids *ids)
{
    return tokenizer_encode(p->in->model->tokenizer, text->str.s, text->str.len,
                            flags | TOKENIZER_SPECIAL, NULL, 0, ids->n + text->str.len + 64,
                            ids) == OK;
}

static err_t add(const struct texts *t, const struct prepare *p, struct prepared *out,
                 const struct json *one, struct refusal *no)
{
    struct ids ids = {0};
    const struct json *text = one->kind == J_OBJ ? text_in(one) : one;
    const bool is_text = text->kind == J_STR;
    const unsigned bos = t->bare ? 0 : TOKENIZER_BOS;
    bool ok = !is_text || add_text(p, text, bos, &ids);
    for (size_t i = 0; ok && !is_text && i < one->arr.n; i++) {
        const struct json *part = &one->arr.items[i];
        ok = part->kind == J_INT ? ids_add(&ids, (int32_t)part->i)
                                 : add_text(p, part, i ? 0 : bos, &ids);
    }
    err_t err = ok ? prepare_add(p, out, &ids, is_text && t->keep ? text : NULL, no)
                   : refusal_set(no, 500, "internal_error", "a text could not be tokenised");
    ids_fini(&ids);
    return err;
}

err_t texts_encode(const struct texts *t, const struct prepare *p, struct prepared *out,
                   struct refusal *no)
{
    const struct json *q = t->value;
    const bool single = is_single(t);
    const size_t n = single ? 1 : q->arr.n;
    err_t err = OK;
    out->prompts = arena_take_n(&out->arena, n, sizeof *out->prompts);
    if (!out->prompts) return refusal_set(no, 500, "internal_error", "out of memory");
    for (size_t i = 0; i < n && !err; i++)
        err = prepare_unwanted(p->in) ? ERR_CANCELLED
                                      : add(t, p, out, single ? q : &q->arr.items[i], no);
    return err;
}
