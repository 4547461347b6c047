#include "coordinator/text/pooling.h"
#include "coordinator/text/scan.h"
#include "coordinator/text/sidecar.h"
#include "proto/base/buf.h"
#include "topology/model.h"

#include <stdio.h>
#include <string.h>

// Words of requests, of sentence-transformers' "pooling_mode" and its flags, and numbers of GGUF.
static const struct {
    enum pooling kind;
    const char *word, *mode, *flag;
    uint32_t gguf;
} ways[] = {
    {POOLING_MEAN, "mean", "mean", "pooling_mode_mean_tokens", 1},
    {POOLING_FIRST, "cls", "cls", "pooling_mode_cls_token", 2},
    {POOLING_LAST, "last", "lasttoken", "pooling_mode_lasttoken", 3},
};
enum { N_WAY = sizeof ways / sizeof *ways, GGUF_UNSAID = 0 };

enum pooling pooling_named(const char *word)
{
    for (size_t i = 0; i < N_WAY; i++)
        if (strcmp(ways[i].word, word) == 0) return ways[i].kind;
    return POOLING_NONE;
}

static struct pooling_said cannot(const char *why)
{
    return (struct pooling_said){.why = why};
}

// *out NULL: there is no such file, or (with the answer false) no JSON in it.
static bool read_json(const char *dir, const char *name, struct arena *mem, const struct json **out)
{
    struct buf text = {0};
    *out = NULL;
    err_t err = scan_file(dir, name, SIDECAR_FILE_MAX, &text, NULL);
    const bool is_there = err == OK;
    if (is_there) err = json_read(text.data, text.len, mem, out, NULL, NULL);
    buf_fini(&text);
    return err == ERR_NOT_FOUND || (is_there && !err);
}

static bool ends_with(const struct json *s, const char *end)
{
    const size_t n = strlen(end);
    return s->str.len >= n && memcmp(s->str.s + s->str.len - n, end, n) == 0;
}

// Modules of the pipeline that are neither the model, nor pooling, nor what is done anyway.
static bool has_more(const struct json *modules)
{
    static const char *const known[] = {".Transformer", ".Pooling", ".Normalize"};
    for (size_t i = 0; modules && modules->kind == J_ARR && i < modules->arr.n; i++) {
        const struct json *type = json_get(&modules->arr.items[i], "type");
        bool is_known = false;
        for (size_t k = 0; type && type->kind == J_STR && k < sizeof known / sizeof *known; k++)
            is_known |= ends_with(type, known[k]);
        if (!is_known) return true;
    }
    return false;
}

static struct pooling_said of_config(const struct json *config)
{
    const struct json *mode = json_get(config, "pooling_mode");
    struct pooling_said said = {0};
    uint32_t n = 0;
    for (size_t i = 0; i < N_WAY; i++) {
        const struct json *flag = json_get(config, ways[i].flag);
        if (!json_is(mode, ways[i].mode) && !(flag && flag->kind == J_BOOL && flag->b)) continue;
        said.kind = ways[i].kind;
        n++;
    }
    for (size_t i = 0; i < config->obj.n; i++) {
        const struct json_member *m = &config->obj.members[i];
        const bool is_flag = strncmp(m->key, "pooling_mode_", strlen("pooling_mode_")) == 0;
        bool is_known = !is_flag || m->value.kind != J_BOOL || !m->value.b;
        for (size_t k = 0; k < N_WAY; k++)
            is_known |= strcmp(ways[k].flag, m->key) == 0;
        n += !is_known; // one that is set, and not among ours
    }
    return n == 1 && said.kind ? said : cannot("the model pools in a way that is not supported");
}

static struct pooling_said of_folder(const char *dir)
{
    struct arena mem;
    const struct json *modules, *config;
    struct pooling_said said = {.kind = POOLING_LAST};
    arena_init(&mem, 0);
    if (!read_json(dir, "modules.json", &mem, &modules) ||
        !read_json(dir, "1_Pooling/config.json", &mem, &config))
        said = cannot("the model's modules.json or 1_Pooling/config.json cannot be read");
    else if (has_more(modules))
        said = cannot("the model puts more layers behind its pooling, which is not supported");
    else if (config)
        said = config->kind == J_OBJ ? of_config(config)
                                     : cannot("1_Pooling/config.json is not an object");
    arena_fini(&mem);
    return said;
}

static struct pooling_said of_gguf(const struct model *m)
{
    char key[64];
    uint32_t type = GGUF_UNSAID;
    snprintf(key, sizeof key, "%s.pooling_type", m->shape.arch);
    gguf_get_u32(m->gguf, key, &type, NULL); // without the key it stays as it is
    if (type == GGUF_UNSAID) return (struct pooling_said){.kind = POOLING_LAST};
    for (size_t i = 0; i < N_WAY; i++)
        if (ways[i].gguf == type) return (struct pooling_said){.kind = ways[i].kind};
    return cannot("the model pools in a way that is not supported");
}

struct pooling_said pooling_find(const struct model *m)
{
    if (m->text_dir) return of_folder(m->text_dir);
    return m->gguf ? of_gguf(m) : (struct pooling_said){.kind = POOLING_LAST};
}
