// Writes models for the tests out of a few lines of text: tensors as "NAME ROWS COLS" a line, '#'
// in a name for each layer; as a Hugging Face folder or as GGUF. All values are zero.
#pragma once
#include "tests/unit/topology/gguf_make.h"

#include <ctype.h>
#include <sys/stat.h>

struct make_line {
    char name[128];
    uint64_t dims[4]; // outermost first
    int n_dim;
};

typedef void make_line_fn(void *user, const struct make_line *line);

static inline void make_one(const char *line, size_t len, int layer, make_line_fn *fn, void *user)
{
    struct make_line l = {.n_dim = 0};
    size_t at = 0, i = 0;
    for (; i < len && line[i] != ' '; i++) {
        if (line[i] == '#')
            at += (size_t)snprintf(l.name + at, sizeof l.name - at, "%d", layer);
        else if (at < sizeof l.name - 1)
            l.name[at++] = line[i];
    }
    l.name[at] = 0;
    while (i < len && l.n_dim < 4) {
        char *end;
        l.dims[l.n_dim++] = strtoull(line + i, &end, 10);
        i = (size_t)(end - line);
    }
    fn(user, &l);
}

static inline void make_lines(const char *text, int n_layer, make_line_fn *fn, void *user)
{
    while (*text) {
        size_t len = strcspn(text, "\n");
        bool per_layer = memchr(text, '#', len) != NULL;
        for (int i = 0; len && i < (per_layer ? n_layer : 1); i++)
            make_one(text, len, i, fn, user);
        text += len + (text[len] == '\n');
    }
}

// ---- a folder

struct make_folder {
    char dir[64];
};

struct make_header {
    struct buf b;
    uint64_t at;
};

static inline void make_hf_tensor(void *user, const struct make_line *l)
{
    struct make_header *h = user;
    uint64_t bytes = 2;
    buf_printf(&h->b, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", h->b.len > 9 ? "," : "", l->name);
    for (int i = 0; i < l->n_dim; i++) {
        buf_printf(&h->b, "%s%llu", i ? "," : "", (unsigned long long)l->dims[i]);
        bytes *= l->dims[i];
    }
    buf_printf(&h->b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)h->at,
               (unsigned long long)(h->at + bytes));
    h->at += bytes;
}

static inline void make_put(const char *dir, const char *name, const void *data, size_t len,
                            uint64_t zeros)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, len, f) != len || fflush(f) ||
        ftruncate(fileno(f), (off_t)(len + zeros)))
        abort();
    fclose(f);
}

static inline struct make_folder make_hf(const char *config, const char *tensors, int n_layer)
{
    struct make_folder d = {"/tmp/trireme-hf-XXXXXX"};
    struct make_header h = {.at = 0};
    if (!mkdtemp(d.dir)) abort();
    make_le(&h.b, 0, 8);
    buf_char(&h.b, '{');
    make_lines(tensors, n_layer, make_hf_tensor, &h);
    buf_char(&h.b, '}');
    uint64_t len = h.b.len - 8;
    memcpy(h.b.data, &len, 8); // the tests run on little-endian machines
    make_put(d.dir, "config.json", config, strlen(config), 0);
    make_put(d.dir, "model.safetensors", h.b.data, h.b.len, h.at);
    buf_fini(&h.b);
    return d;
}

static inline void make_hf_gone(const struct make_folder *d)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", d->dir, names[i]);
        unlink(path);
    }
    rmdir(d->dir);
}

// ---- GGUF

struct make_table {
    struct buf b;
    uint64_t n, at;
};

static inline void make_gguf_tensor(void *user, const struct make_line *l)
{
    struct make_table *t = user;
    uint64_t dims[4], bytes = 4;
    for (int i = 0; i < l->n_dim; i++) {
        dims[i] = l->dims[l->n_dim - 1 - i];
        bytes *= dims[i];
    }
    make_tensor(&t->b, l->name, (uint32_t)l->n_dim, dims, 0, t->at);
    t->at = (t->at + bytes + 31) / 32 * 32;
    t->n++;
}

// One "KEY VALUE" a line, without the architecture: 1, 1.0, true, word.
static inline uint64_t make_keys(struct buf *b, const char *arch, const char *text)
{
    uint64_t n = 1;
    make_str(b, "general.architecture", arch);
    while (*text) {
        char key[128], value[64], full[192];
        size_t len = strcspn(text, "\n");
        if (sscanf(text, "%127s %63s", key, value) == 2) {
            snprintf(full, sizeof full, "%s.%s", arch, key);
            if (!strcmp(value, "true") || !strcmp(value, "false"))
                make_int(b, full, GGUF_BOOL, value[0] == 't', 1);
            else if (isalpha((unsigned char)value[0]))
                make_str(b, full, value);
            else if (strchr(value, '.') || strchr(value, 'e'))
                make_f32(b, full, strtof(value, NULL));
            else
                make_u32(b, full, (uint32_t)strtoul(value, NULL, 10));
            n++;
        }
        text += len + (text[len] == '\n');
    }
    return n;
}

static inline void make_gguf(const char *arch, const char *keys, const char *tensors, int n_layer,
                             char *path, size_t size)
{
    struct buf b = {0};
    struct make_table t = {.n = 0};
    make_head(&b, 3, 0, 0);
    uint64_t n_kv = make_keys(&b, arch, keys);
    make_lines(tensors, n_layer, make_gguf_tensor, &t);
    buf_add(&b, t.b.data, t.b.len);
    make_pad(&b, 32);
    for (uint64_t i = 0; i < t.at; i++)
        buf_char(&b, 0);
    memcpy(b.data + 8, &t.n, 8);
    memcpy(b.data + 16, &n_kv, 8);
    make_file(&b, path, size);
    buf_fini(&b);
    buf_fini(&t.b);
}
