#include "coordinator/text/sidecar.h"
#include "coordinator/text/scan.h"
#include "coordinator/text/vocab.h"
#include "proto/base/buf.h"

#include <string.h>

void sidecar_fini(struct sidecar *c)
{
    arena_fini(&c->mem);
}

// The tree of a file; *out NULL: there is none.
static err_t read_tree(const char *dir, const char *name, struct arena *mem,
                       const struct json **out, struct err_text *why)
{
    struct buf text = {0};
    struct err_text reason = {""};
    *out = NULL;
    err_t err = scan_file(dir, name, SIDECAR_FILE_MAX, &text, why);
    if (!err && json_read(text.data, text.len, mem, out, NULL, &reason) != OK)
        err = err_say(why, ERR_MODEL, "%s: %s", name, reason.s);
    if (!err && (*out)->kind != J_OBJ)
        err = err_say(why, ERR_MODEL, "%s: an object is expected", name);
    buf_fini(&text);
    return err == ERR_NOT_FOUND ? OK : err;
}

// A token is a string, or an object that has it as its content.
static const struct json *token_of(const struct json *root, const char *key,
                                   const struct json *otherwise)
{
    const struct json *j = json_get(root, key);
    if (j && j->kind == J_OBJ) j = json_get(j, "content");
    return j && j->kind == J_STR ? j : otherwise;
}

static int flag_of(const struct json *root, const char *key)
{
    const struct json *j = json_get(root, key);
    return j && j->kind == J_BOOL ? j->b : -1;
}

static int32_t id_of(const struct json *j)
{
    return j && j->kind == J_INT && j->i >= 0 && j->i < VOCAB_TOKENS_MAX ? (int32_t)j->i : -1;
}

static void read_ends(const struct json *root, struct sidecar *c)
{
    const struct json *j = json_get(root, "eos_token_id");
    if (c->n_end || !j) return;
    size_t n = j->kind == J_ARR ? j->arr.n : 1;
    for (size_t i = 0; i < n && c->n_end < SIDECAR_ENDS_MAX; i++) {
        int32_t id = id_of(j->kind == J_ARR ? &j->arr.items[i] : j);
        if (id >= 0) c->ends[c->n_end++] = id;
    }
}

err_t sidecar_token_read(const struct json *j, int32_t id, struct sidecar_token *out,
                         struct err_text *why)
{
    static const struct {
        const char *key;
        uint8_t flag;
    } flags[] = {{"lstrip", VOCAB_LSTRIP},
                 {"rstrip", VOCAB_RSTRIP},
                 {"single_word", VOCAB_WORD},
                 {"normalized", VOCAB_NORMALIZED}};
    const struct json *content = json_get(j, "content");
    if (id < 0) id = id_of(json_get(j, "id"));
    if (id < 0 || !content || content->kind != J_STR || content->str.len == 0)
        return err_say(why, ERR_MODEL, "added tokens: one without id (below %d) or content",
                       VOCAB_TOKENS_MAX);
    *out = (struct sidecar_token){.s = content->str.s,
                                  .len = content->str.len,
                                  .id = id,
                                  .special = flag_of(j, "special") == 1};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flag_of(j, flags[i].key) == 1) out->flags |= flags[i].flag;
    return OK;
}

static int32_t decimal(const struct json_member *m)
{
    int64_t id = 0;
    if (m->key_len == 0 || m->key_len > 8) return -1;
    for (size_t i = 0; i < m->key_len; i++) {
        if (m->key[i] < '0' || m->key[i] > '9') return -1;
        id = id * 10 + (m->key[i] - '0');
    }
    return id < VOCAB_TOKENS_MAX ? (int32_t)id : -1;
}

// added_tokens_decoder: {"32000": {"content": ...}}; older, added_tokens.json: {"<s>": 32000}.
static err_t read_added(const struct json *decoder, const struct json *map, struct sidecar *c,
                        struct err_text *why)
{
    size_t n = decoder && decoder->kind == J_OBJ ? decoder->obj.n : 0, m = map ? map->obj.n : 0;
    c->added = arena_take_n(&c->mem, n + m, sizeof *c->added);
    if (!c->added) return err_say(why, ERR_MEMORY, "tokenizer: out of memory");
    for (size_t i = 0; i < n; i++) {
        const struct json_member *e = &decoder->obj.members[i];
        int32_t id = decimal(e);
        if (id < 0)
            return err_say(why, ERR_MODEL,
                           "tokenizer_config.json: added_tokens_decoder: '%.40s' is no id", e->key);
        err_t err = sidecar_token_read(&e->value, id, &c->added[c->n_added], why);
        if (err) return err;
        c->n_added++;
    }
    for (size_t i = 0; i < m; i++) {
        const struct json_member *e = &map->obj.members[i];
        int32_t id = id_of(&e->value);
        bool known = false;
        for (size_t k = 0; k < n && !known; k++)
            known = c->added[k].id == id;
        if (known || id < 0 || e->key_len == 0) continue;
        c->added[c->n_added++] =
            (struct sidecar_token){.s = e->key, .len = e->key_len, .id = id, .special = true};
    }
    return OK;
}

static bool class_adds_bos(const struct json *tokenizer)
{
    static const char *const names[] = {"LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer",
                                        "GemmaTokenizerFast", "CohereTokenizerFast"};
    const struct json *name = json_get(tokenizer, "tokenizer_class");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (json_is(name, names[i])) return true;
    return false;
}

err_t sidecar_open(const char *dir, struct sidecar *c, struct err_text *why)
{
    const struct json *special, *generation, *model, *added;
    *c = (struct sidecar){.bos_id = -1, .eos_id = -1, .add_bos = -1, .add_eos = -1};
    arena_init(&c->mem, 0);
    err_t err = read_tree(dir, "tokenizer_config.json", &c->mem, &c->tokenizer, why);
    if (!err) err = read_tree(dir, "special_tokens_map.json", &c->mem, &special, why);
    if (!err) err = read_tree(dir, "generation_config.json", &c->mem, &generation, why);
    if (!err) err = read_tree(dir, "config.json", &c->mem, &model, why);
    if (!err) err = read_tree(dir, "added_tokens.json", &c->mem, &added, why);
    if (err) return err;
    c->bos = token_of(c->tokenizer, "bos_token", token_of(special, "bos_token", NULL));
    c->eos = token_of(c->tokenizer, "eos_token", token_of(special, "eos_token", NULL));
    c->unk = token_of(c->tokenizer, "unk_token", token_of(special, "unk_token", NULL));
    c->add_bos = flag_of(c->tokenizer, "add_bos_token");
    c->add_eos = flag_of(c->tokenizer, "add_eos_token");
    c->adds_bos_by_class = class_adds_bos(c->tokenizer);
    const struct json *text = json_get(model, "text_config");
    c->bos_id = id_of(json_get(json_get(model, "bos_token_id") ? model : text, "bos_token_id"));
    read_ends(generation, c);
    read_ends(model, c);
    read_ends(text, c);
    if (c->n_end) c->eos_id = c->ends[0];
    return read_added(json_get(c->tokenizer, "added_tokens_decoder"), added, c, why);
}
