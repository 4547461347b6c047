#include "topology/shape.h"

#include "topology/sha256.h"
#include "topology/shape_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char prefix[] = "shape:";

bool shape_is(const char *path)
{
    return strncmp(path, prefix, strlen(prefix)) == 0;
}

// All names, in the 400 bytes of a sentence; there is always room for the table.
static err_t unknown(const char *name, struct err_text *why)
{
    char all[360] = "";
    for (int32_t i = 0; i < shape_table_n; i++) {
        const size_t len = strlen(all);
        snprintf(all + len, sizeof all - len, "%s%s", i ? " " : "", shape_table[i].name);
    }
    return err_say(why, ERR_MODEL, "shape:%.12s: not one of %s", name, all);
}

static const struct shape_entry *find(const char *name)
{
    for (int32_t i = 0; i < shape_table_n; i++)
        if (strcmp(shape_table[i].name, name) == 0) return &shape_table[i];
    return NULL;
}

static err_t read_layers(const char *text, const struct shape_entry *entry, int32_t *out,
                         struct err_text *why)
{
    static const char key[] = "layers=";
    char *end;
    const size_t n = strlen(key);
    const bool digits = strncmp(text, key, n) == 0 && text[n] >= '0' && text[n] <= '9';
    const long v = digits ? strtol(text + n, &end, 10) : 0;
    if (!digits || *end || v < 1 || v > entry->n_layer)
        return err_say(why, ERR_MODEL, "shape:%s: '@%.40s', allowed @layers=1 to @layers=%d",
                       entry->name, text, entry->n_layer);
    *out = (int32_t)v;
    return OK;
}

static err_t read_type(const char *text, const struct shape_entry *entry, enum dtype *out,
                       struct err_text *why)
{
    for (int t = DT_NONE + 1; t < DT_COUNT; t++) {
        if (!dtype_is_weight((enum dtype)t) || strcmp(dtype_info((enum dtype)t)->name, text))
            continue;
        *out = (enum dtype)t;
        return OK;
    }
    return err_say(why, ERR_MODEL,
                   "shape:%s: type '%.40s', allowed F32, F16, BF16, Q4_0, Q8_0, Q4_K, Q6_K, NVFP4 "
                   "and the other types of weights",
                   entry->name, text);
}

// What follows NAME: "@layers=4", ":Q4_K", each at most once, in any order. `text` is written to.
static err_t read_options(char *text, struct shape *s, const struct shape_entry *entry,
                          int32_t *n_layer, struct err_text *why)
{
    *n_layer = entry->n_layer;
    bool had_layers = false;
    while (text) {
        const char what = *text++;
        char *next = strpbrk(text, "@:"), next_what = next ? *next : 0;
        if (next) *next = 0;
        if (what == '@' ? had_layers : s->override != DT_NONE)
            return err_say(why, ERR_MODEL, "shape:%s: '%c' is there twice, allowed once",
                           entry->name, what);
        had_layers = had_layers || what == '@';
        err_t e = what == '@' ? read_layers(text, entry, n_layer, why)
                              : read_type(text, entry, &s->override, why);
        if (e) return e;
        if (next) *next = next_what;
        text = next;
    }
    return OK;
}

// One spelling of each shape, so that all machines agree on its hash.
static err_t name_it(struct shape *s, struct arena *a, const struct shape_entry *entry,
                     int32_t n_layer, struct err_text *why)
{
    char layers[32] = "", type[32] = "";
    struct sha256 sha;
    if (n_layer != entry->n_layer) snprintf(layers, sizeof layers, "@layers=%d", n_layer);
    if (s->override) snprintf(type, sizeof type, ":%s", dtype_info(s->override)->name);
    s->name = entry->name;
    s->word = arena_printf(a, "%s%s%s%s", prefix, entry->name, layers, type);
    if (!s->word) return err_say(why, ERR_MEMORY, "shape:%s: no memory", entry->name);
    sha256_init(&sha);
    sha256_add(&sha, s->word, strlen(s->word));
    sha256_add(&sha, entry->config, strlen(entry->config));
    sha256_end(&sha, s->hash);
    return OK;
}

err_t shape_open(const char *path, struct arena *a, struct shape *out, struct err_text *why)
{
    struct shape s = {.override = DT_NONE};
    int32_t n_layer;
    char *name = arena_copy_str(a, path + strlen(prefix), strlen(path) - strlen(prefix));
    if (!name) return err_say(why, ERR_MEMORY, "shape: no memory");
    char *options = strpbrk(name, "@:");
    const char first = options ? *options : 0;
    if (options) *options = 0;
    const struct shape_entry *entry = find(name);
    if (!entry) return unknown(name, why);
    if (options) *options = first;
    err_t e = read_options(options, &s, entry, &n_layer, why);
    if (!e) e = name_it(&s, a, entry, n_layer, why);
    if (e) return e;
    char *text = arena_printf(a, "{\"num_hidden_layers\":%d,%s}", n_layer, entry->config);
    if (!text) return err_say(why, ERR_MEMORY, "%s: no memory", s.word);
    e = json_read(text, strlen(text), a, &s.config, NULL, why);
    BUG_ON(e && e != ERR_TOO_LARGE); // the text is ours
    if (e) return e;
    s.type = entry->type;
    s.quant = s.override ? dtype_info(s.override)->name : entry->type->words;
    *out = s;
    return OK;
}

static enum shape_class class_of(enum slot slot)
{
    switch (slot) {
    case SLOT_EMBED:
        return CLASS_EMBED;
    case SLOT_HEAD:
        return CLASS_HEAD;
    case SLOT_FFN_GATE:
    case SLOT_FFN_UP:
    case SLOT_FFN_DOWN:
        return CLASS_DENSE;
    case SLOT_MOE_GATE:
    case SLOT_MOE_UP:
    case SLOT_MOE_DOWN:
        return CLASS_EXPERT;
    case SLOT_SHARED_GATE:
    case SLOT_SHARED_UP:
    case SLOT_SHARED_DOWN:
        return CLASS_SHARED;
    case SLOT_MOE_ROUTER:
    case SLOT_SHARED_ROUTER:
    case SLOT_MLA_K_B: // turned at load, so it is never quantised
    case SLOT_MTP_FC:
        return CLASS_FLOAT;
    default:
        return CLASS_MIXER;
    }
}

err_t shape_dtype(const struct shape *s, enum slot slot, int64_t cols, enum dtype *out,
                  struct err_text *why)
{
    const enum shape_class class = class_of(slot);
    const bool asked = s->override && class != CLASS_FLOAT;
    const enum dtype t = asked ? s->override : s->type->dtype[class];
    const int64_t block = dtype_info(t)->block;
    if (cols % block && asked)
        return err_say(why, ERR_MODEL,
                       "%s: rows of %lld elements, allowed with %s: multiples of %lld", s->word,
                       (long long)cols, dtype_info(t)->name, (long long)block);
    *out = cols % block ? DT_F32 : t; // as it would be loaded
    return OK;
}
