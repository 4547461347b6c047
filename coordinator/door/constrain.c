#include "coordinator/door/constrain.h"
#include "coordinator/text/turn_grammar.h"

#include <stdio.h>
#include <string.h>

// -- what the body says --

// The ways to say it; one of them may be used.
enum way { WAY_JSON, WAY_REGEX, WAY_CHOICE, WAY_GRAMMAR, WAY_OBJECT };

struct wish {
    struct prepare *p;
    struct refusal *no;
    const char *field; // where it was found
};

static err_t no_memory(struct refusal *no)
{
    return refusal_set(no, 500, "internal_error", "out of memory");
}

static struct grammar_spec *new_spec(struct wish *w, enum grammar_kind kind)
{
    struct grammar_spec *s = arena_take(&w->p->scratch, sizeof *s);
    if (s) s->kind = kind;
    return s;
}

// A schema as an object, or as the text of one.
static err_t take_schema(struct wish *w, const struct json *j, struct grammar_spec **out)
{
    struct err_text why;
    if (j->kind == J_STR && json_read(j->str.s, j->str.len, &w->p->scratch, &j, NULL, &why) != OK)
        return refusal_field(w->no, w->field, "'%s': %s", w->field, why.s);
    if (j->kind != J_OBJ && j->kind != J_BOOL)
        return refusal_field(w->no, w->field, "'%s' must hold a JSON Schema", w->field);
    *out = new_spec(w, GRAMMAR_SCHEMA);
    if (!*out) return no_memory(w->no);
    (*out)->json = j;
    return OK;
}

static err_t take_text(struct wish *w, const struct json *j, enum grammar_kind kind,
                       struct grammar_spec **out)
{
    if (j->kind != J_STR) return refusal_field(w->no, w->field, "'%s' must be a string", w->field);
    *out = new_spec(w, kind);
    if (!*out) return no_memory(w->no);
    (*out)->text = j->str.s;
    (*out)->len = j->str.len;
    return OK;
}

static err_t take_choice(struct wish *w, const struct json *j, struct grammar_spec **out)
{
    if (j->kind != J_ARR || j->arr.n == 0)
        return refusal_field(w->no, w->field, "'%s' must be a list of strings", w->field);
    struct grammar_spec *parts = arena_take_n(&w->p->scratch, j->arr.n, sizeof *parts);
    *out = new_spec(w, GRAMMAR_ANY);
    if (!*out || !parts) return no_memory(w->no);
    for (size_t i = 0; i < j->arr.n; i++) {
        const struct json *s = &j->arr.items[i];
        if (s->kind != J_STR)
            return refusal_field(w->no, w->field, "'%s' must be a list of strings", w->field);
        parts[i] =
            (struct grammar_spec){.kind = GRAMMAR_LITERAL, .text = s->str.s, .len = s->str.len};
    }
    (*out)->parts = parts;
    (*out)->n_part = j->arr.n;
    return OK;
}

static err_t take(struct wish *w, enum way way, const struct json *j)
{
    struct grammar_spec *spec = NULL;
    err_t err = OK;
    if (!j || j->kind == J_NULL || (way == WAY_OBJECT && j->kind == J_BOOL && !j->b)) return OK;
    if (w->p->answer)
        return refusal_field(w->no, w->field, "'%s': the answer is constrained by '%s' already",
                             w->field, w->p->answer_field);
    switch (way) {
    case WAY_JSON:
        err = take_schema(w, j, &spec);
        break;
    case WAY_REGEX:
        err = take_text(w, j, GRAMMAR_REGEX, &spec);
        break;
    case WAY_CHOICE:
        err = take_choice(w, j, &spec);
        break;
    case WAY_GRAMMAR:
        err = take_text(w, j, GRAMMAR_NOTATION, &spec);
        break;
    case WAY_OBJECT:
        spec = new_spec(w, GRAMMAR_OBJECT);
        if (!spec) err = no_memory(w->no);
        break;
    }
    if (err) return err;
    w->p->answer = spec;
    w->p->answer_field = w->field;
    return OK;
}

static err_t read_format(struct wish *w)
{
    const struct json *f = w->p->p.response_format, *type = json_get(f, "type");
    const struct json *inner = json_get(json_get(f, "json_schema"), "schema");
    w->field = "response_format";
    if (!f || json_is(type, "text")) return OK;
    // Some callers put the schema beside the type.
    const struct json *schema = inner ? inner : json_get(f, "schema");
    if (json_is(type, "json_object"))
        return take(w, schema ? WAY_JSON : WAY_OBJECT, schema ? schema : f);
    if (!json_is(type, "json_schema"))
        return refusal_field(w->no, "response_format",
                             "'response_format.type' must be 'text', 'json_object' or "
                             "'json_schema'");
    if (!schema)
        return refusal_field(w->no, "response_format",
                             "'response_format.json_schema.schema' is missing");
    return take(w, WAY_JSON, schema);
}

static err_t read_structured(struct wish *w)
{
    static const struct {
        const char *key, *field;
        enum way way;
    } keys[] = {
        {"json", "structured_outputs.json", WAY_JSON},
        {"regex", "structured_outputs.regex", WAY_REGEX},
        {"choice", "structured_outputs.choice", WAY_CHOICE},
        {"grammar", "structured_outputs.grammar", WAY_GRAMMAR},
        {"json_object", "structured_outputs.json_object", WAY_OBJECT},
    };
    const struct json *s = w->p->p.structured_outputs;
    err_t err = OK;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !err; i++) {
        w->field = keys[i].field;
        err = take(w, keys[i].way, json_get(s, keys[i].key));
    }
    const struct json *tag = json_get(s, "structural_tag");
    if (!err && tag && tag->kind != J_NULL)
        return refusal_field(w->no, "structured_outputs",
                             "'structured_outputs.structural_tag' is not supported");
    return err;
}

err_t constrain_read(struct prepare *p, struct refusal *no)
{
    const struct params *q = &p->p;
    const struct {
        const char *field;
        enum way way;
        const struct json *value;
    } guided[] = {
        {"guided_json", WAY_JSON, q->guided_json},
        {"guided_regex", WAY_REGEX, q->guided_regex},
        {"guided_choice", WAY_CHOICE, q->guided_choice},
        {"guided_grammar", WAY_GRAMMAR, q->guided_grammar},
        {"json_schema", WAY_JSON, q->json_schema},
        // Its clients send it empty where they mean none.
        {"grammar", WAY_GRAMMAR, q->grammar && q->grammar->str.len ? q->grammar : NULL},
    };
    struct wish w = {.p = p, .no = no};
    err_t err = read_format(&w);
    if (!err) err = read_structured(&w);
    for (size_t i = 0; i < sizeof guided / sizeof *guided && !err; i++) {
        w.field = guided[i].field;
        err = take(&w, guided[i].way, guided[i].value);
    }
    return err;
}

// -- compiling --

static err_t refuse(struct refusal *no, err_t err, const char *field, const struct err_text *why)
{
    const char *code = err == ERR_TOO_LARGE     ? "schema_too_complex"
                       : err == ERR_UNSUPPORTED ? "unsupported_schema"
                                                : "invalid_schema";
    if (err == ERR_MEMORY) return no_memory(no);
    refusal_set(no, 400, code, "'%s': %s", field, why->s);
    snprintf(no->param, sizeof no->param, "%s", field);
    return ERR_INVALID;
}

static bool any_strict(const struct json *tools)
{
    for (size_t i = 0; tools && i < tools->arr.n; i++) {
        const struct json *s = json_get(json_get(&tools->arr.items[i], "function"), "strict");
        if (s && s->kind == J_BOOL && s->b) return true;
    }
    return false;
}

err_t constrain_open(struct prepare *p, const struct prepared *out, struct refusal *no)
{
    const bool strict = any_strict(p->tools);
    const bool calls = p->tools && (p->must_call || p->answer || strict);
    if (!p->answer && !calls) return OK;
    struct err_text why;
    const struct grammar_spec *spec = p->answer;
    const char *field = p->answer ? p->answer_field : "tools";
    if (out->format) {
        const struct turn_ask ask = {
            .format = out->format,
            .tokenizer = p->in->model->tokenizer,
            .book = p->in->model->grammars,
            .tools = calls ? p->tools : NULL,
            .name = p->must_name,
            .one_call = out->one_call || p->must_name,
            .is_thinking = turn_is_thinking(out->format, out->tail, out->tail_len),
            .answer = p->must_call ? NULL : p->answer,
            .free_text = !p->must_call && !p->answer,
        };
        const err_t err = turn_grammar(&ask, &p->scratch, &spec, &why);
        if (err) return refuse(no, err, field, &why);
        if (!spec) return OK;
    }
    const err_t err = grammar_open(p->in->model->grammars, spec, &p->grammar, &why);
    return err ? refuse(no, err, field, &why) : OK;
}
