// GGUF files: whatever the bytes, gguf_open and model_open end with a header whose every view is
// readable, or with one sentence. The last byte of the input is no part of the file: when odd, a
// hole of 1 MiB follows the header, so that inputs need not carry weights. Mutations aim at fields.
#include "tests/fuzz/scratch.h"
#include "topology/model.h"

#include <string.h>

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size); // libFuzzer's own

static volatile uint64_t sink; // so that reads are not optimised away

static void touch(const void *p, uint64_t n)
{
    const uint8_t *b = p;
    for (uint64_t i = 0; i < n; i++)
        sink += b[i];
}

static void read_key(const struct gguf *g, const struct gguf_kv *kv)
{
    char key[65536];
    struct arena a;
    uint64_t n;
    uint32_t u;
    float f;
    bool b;
    struct gguf_str s;
    const struct gguf_str *strs;
    const float *floats;
    const int32_t *ints;
    memcpy(key, kv->key.s, kv->key.len);
    key[kv->key.len] = 0;
    BUG_ON(gguf_find(g, key) != kv);
    arena_init(&a, 16 << 20);
    gguf_get_u32(g, key, &u, NULL);
    gguf_get_f32(g, key, &f, NULL);
    gguf_get_bool(g, key, &b, NULL);
    if (!gguf_get_str(g, key, &s, NULL)) touch(s.s, s.len);
    if (!gguf_get_strs(g, key, &a, &strs, &n, NULL))
        for (uint64_t i = 0; i < n; i++)
            touch(strs[i].s, strs[i].len);
    if (!gguf_get_f32s(g, key, &a, &floats, &n, NULL)) touch(floats, n * sizeof *floats);
    if (!gguf_get_i32s(g, key, &a, &ints, &n, NULL)) touch(ints, n * sizeof *ints);
    arena_fini(&a);
}

static void read_tensor(const struct gguf *g, const struct gguf_tensor *t)
{
    char name[65];
    memcpy(name, t->name.s, t->name.len);
    name[t->name.len] = 0;
    BUG_ON(gguf_tensor_find(g, name) != t);
    BUG_ON(t->n_dim < 1 || t->n_dim > 4);
    BUG_ON(t->offset > gguf_file_bytes(g) || t->bytes > gguf_file_bytes(g) - t->offset);
}

static void check_sentence(err_t e, const struct err_text *why)
{
    BUG_ON(e != ERR_MODEL && e != ERR_MEMORY);
    BUG_ON(!strstr(why->s, path) || strlen(why->s) >= sizeof why->s || strchr(why->s, '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct model *m;
    struct err_text why = {{0}};
    if (size == 0) return 0;
    size_t len = size - 1, whole = len + (data[len] & 1 ? 1 << 20 : 0);
    if (ftruncate(fd, 0) || pwrite(fd, data, len, 0) != (ssize_t)len) abort();
    if (ftruncate(fd, (off_t)whole)) abort();
    err_t e = gguf_open(path, &g, &why);
    if (e) {
        check_sentence(e, &why);
        return 0;
    }
    for (uint64_t i = 0; i < gguf_n_kv(g); i++)
        read_key(g, gguf_kv_at(g, i));
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++)
        read_tensor(g, gguf_tensor_at(g, i));
    gguf_close(g);
    e = model_open(path, &m, &why);
    if (e) {
        check_sentence(e, &why);
        return 0;
    }
    for (int32_t i = 0; i < m->n_weight; i++) {
        const struct model_weight *w = &m->weights[i];
        BUG_ON(model_weight_find(m, w->part, w->slot) != w);
        for (int32_t k = 0; k < w->n_source; k++) {
            const struct model_tensor *t = w->sources[k].main;
            const uint64_t end = m->files[t->file].bytes;
            BUG_ON(t->offset > end || t->bytes > end - t->offset);
        }
    }
    for (int32_t part = PART_MTP; part < m->shape.n_layer; part++)
        sink += model_part_bytes(m, part);
    model_close(m);
    return 0;
}

// ---- mutation of fields

enum { FIELDS_MAX = 4096 };
struct fields {
    uint32_t at[FIELDS_MAX];
    uint8_t bytes[FIELDS_MAX];
    int n;
    size_t pos, size;
    const uint8_t *data;
};

// Notes a field and returns its value; 0 past the end.
static uint64_t field(struct fields *f, int bytes)
{
    uint64_t v = 0;
    if (f->size - f->pos < (size_t)bytes) {
        f->pos = f->size;
        return 0;
    }
    if (f->n < FIELDS_MAX) {
        f->at[f->n] = (uint32_t)f->pos;
        f->bytes[f->n++] = (uint8_t)bytes;
    }
    memcpy(&v, f->data + f->pos, (size_t)bytes); // fuzzing is done on little-endian machines
    f->pos += (size_t)bytes;
    return v;
}

static void skip(struct fields *f, uint64_t n)
{
    f->pos += n < f->size - f->pos ? n : f->size - f->pos;
}

static void value(struct fields *f, uint64_t type)
{
    static const int bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == GGUF_STR)
        skip(f, field(f, 8));
    else if (type < 13 && bytes[type])
        field(f, bytes[type]);
}

static void find_fields(struct fields *f)
{
    skip(f, 4);
    field(f, 4);
    uint64_t n_tensor = field(f, 8), n_kv = field(f, 8);
    for (uint64_t i = 0; i < n_kv && f->n < FIELDS_MAX && f->pos < f->size; i++) {
        skip(f, field(f, 8));
        uint64_t type = field(f, 4), n = 1;
        if (type == GGUF_ARR) {
            type = field(f, 4);
            n = field(f, 8);
        }
        for (uint64_t k = 0; k < n && k < FIELDS_MAX && f->pos < f->size; k++)
            value(f, type);
    }
    for (uint64_t i = 0; i < n_tensor && f->n < FIELDS_MAX && f->pos < f->size; i++) {
        skip(f, field(f, 8));
        uint64_t n_dim = field(f, 4);
        for (uint64_t k = 0; k < n_dim && k < 8; k++)
            field(f, 8);
        field(f, 4);
        field(f, 8);
    }
}

static uint64_t odd_value(uint64_t old, unsigned int r)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   2,
                                   3,
                                   4,
                                   5,
                                   8,
                                   9,
                                   12,
                                   13,
                                   31,
                                   32,
                                   33,
                                   64,
                                   65,
                                   255,
                                   256,
                                   65535,
                                   65536,
                                   0x7f800000,
                                   0x7fc00000,
                                   0x7fffffff,
                                   0x80000000,
                                   0xffffffff,
                                   0x100000000,
                                   ((uint64_t)1 << 42) + 1,
                                   (uint64_t)1 << 61,
                                   INT64_MAX,
                                   (uint64_t)1 << 63,
                                   UINT64_MAX - 31,
                                   UINT64_MAX};
    unsigned int n = sizeof odd / sizeof *odd;
    switch (r % 8) {
    case 0:
        return old + 1;
    case 1:
        return old - 1;
    case 2:
        return old * 2;
    case 3:
        return old + 32;
    default:
        return odd[r / 8 % n];
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    static struct fields f;
    if (seed % 4 == 0) return LLVMFuzzerMutate(data, size, max_size);
    f = (struct fields){.data = data, .size = size};
    if (size > 24) find_fields(&f);
    if (f.n == 0) return LLVMFuzzerMutate(data, size, max_size);
    for (unsigned int r = seed / 4, times = 1 + r % 3; times > 0; times--) {
        r = r * 1103515245u + 12345u;
        int i = (int)(r / 16 % (unsigned int)f.n);
        uint64_t v = 0;
        memcpy(&v, data + f.at[i], f.bytes[i]);
        v = odd_value(v, r >> 8);
        memcpy(data + f.at[i], &v, f.bytes[i]);
    }
    return size;
}
