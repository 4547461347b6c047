// Where a model keeps its chat template: a GGUF in its metadata; a Hugging Face directory in
// chat_template.jinja, else in tokenizer_config.json, else in chat_template.json, else in
// additional_chat_templates/.
#include "coordinator/text/scan.h"
#include "coordinator/text/sidecar.h"
#include "coordinator/text/template.h"
#include "proto/base/buf.h"
#include "topology/model.h"

static err_t keep(struct arena *a, const char *s, size_t n, const char **source, size_t *len,
                  struct err_text *why)
{
    char *copy = arena_copy_str(a, s, n);
    if (!copy) return err_say(why, ERR_MEMORY, "chat template: out of memory");
    *source = copy;
    *len = n;
    return OK;
}

static err_t from_file(const char *dir, const char *name, struct arena *a, const char **source,
                       size_t *len, struct err_text *why)
{
    struct buf text = {0};
    err_t err = scan_file(dir, name, TEMPLATE_SOURCE_MAX, &text, why);
    if (!err) err = keep(a, text.data ? text.data : "", text.len, source, len, why);
    buf_fini(&text);
    return err;
}

// A string, or [{"name": "default", "template": ...}].
static const struct json *one_of(const struct json *j)
{
    const struct json *best = NULL;
    if (!j || j->kind == J_STR) return j;
    for (size_t i = 0; j->kind == J_ARR && i < j->arr.n; i++) {
        const struct json *e = &j->arr.items[i], *t = json_get(e, "template");
        if (t && t->kind == J_STR && (!best || json_is(json_get(e, "name"), "default"))) best = t;
    }
    return best;
}

static err_t from_json_file(const char *dir, const char *name, struct arena *a, const char **source,
                            size_t *len, struct err_text *why)
{
    struct buf text = {0};
    struct arena mem;
    struct err_text reason = {""};
    const struct json *root = NULL;
    arena_init(&mem, 0);
    err_t err = scan_file(dir, name, SIDECAR_FILE_MAX, &text, why);
    if (!err && json_read(text.data, text.len, &mem, &root, NULL, &reason) != OK)
        err = err_say(why, ERR_MODEL, "%s: %s", name, reason.s);
    const struct json *t = err ? NULL : one_of(json_get(root, "chat_template"));
    if (!err && (!t || t->kind != J_STR)) err = ERR_NOT_FOUND;
    if (!err) err = keep(a, t->str.s, t->str.len, source, len, why);
    arena_fini(&mem);
    buf_fini(&text);
    return err;
}

err_t template_find_dir(const char *dir, struct arena *a, const char **source, size_t *len,
                        struct err_text *why)
{
    err_t err = from_file(dir, "chat_template.jinja", a, source, len, why);
    if (err == ERR_NOT_FOUND)
        err = from_json_file(dir, "tokenizer_config.json", a, source, len, why);
    if (err == ERR_NOT_FOUND) err = from_json_file(dir, "chat_template.json", a, source, len, why);
    if (err == ERR_NOT_FOUND)
        err = from_file(dir, "additional_chat_templates/default.jinja", a, source, len, why);
    return err;
}

err_t template_find(const struct model *m, struct arena *a, const char **source, size_t *len,
                    struct err_text *why)
{
    struct gguf_str s;
    if (m->text_dir) return template_find_dir(m->text_dir, a, source, len, why);
    if (!m->gguf) return ERR_NOT_FOUND;
    err_t err = gguf_get_str(m->gguf, "tokenizer.chat_template", &s, why);
    return err ? err : keep(a, s.s, s.len, source, len, why);
}
