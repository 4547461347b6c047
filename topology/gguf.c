#include "topology/gguf.h"

#include "proto/base/utf8.h"
#include "topology/file.h"
#include "topology/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Limits of what a header may ask of us. Real headers are 1-30 MB, nearly all of it vocabulary.
enum {
    HEADER_MAX = 256 << 20,
    PIECE_MIN = 64 << 10,
    PIECE_MAX = 32 << 20,
    KV_MAX = 1 << 16,
    TENSOR_MAX = 1 << 18,
    KEY_MAX = 65535, // the format's own limits: keys and tensor names
    NAME_MAX_BYTES = 64,
    STR_MAX = 16 << 20,
    ARR_MAX = 1 << 24,
    ALIGN_DEFAULT = 32,
    ALIGN_MIN = 8,
    ALIGN_MAX = 1 << 20,
    FIXED_BYTES = 24, // magic, version, two counts
    KV_MIN_BYTES = 14,
    TENSOR_MIN_BYTES = 33,
};

static const uint8_t type_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}; // by enum gguf_type
enum { N_TYPE = sizeof type_bytes };

struct gguf {
    char *path;
    uint64_t file_bytes, header_bytes;
    uint8_t hash[32];
    uint8_t *header;
    uint64_t n_kv, n_tensor;
    struct gguf_kv *kvs;
    struct gguf_tensor *tensors;
    struct names by_key, by_name;
};

// The header is read in growing pieces, so the buffer moves: until `settle`, pointers into it are
// kept as offsets.
struct reader {
    struct file file;
    uint8_t *buf;
    uint64_t len, cap, at;
    const char *kind;           // what is being read, for the sentence: "key", "tensor"
    uint64_t number;            // its place in the file, while it has no name
    uint64_t name_at, name_len; // in buf; name_len 0: no name yet
    struct err_text *why;
};

// ---- sentences

static bool is_utf8(const uint8_t *s, uint64_t len)
{
    uint64_t i = 0, n, word;
    for (; i + 8 <= len; i += 8) { // nearly all is ASCII
        memcpy(&word, s + i, 8);
        if (word & 0x8080808080808080) break;
    }
    for (; i < len; i += n)
        if ((n = utf8_len(s + i, len - i)) == 0) return false;
    return true;
}

static bool is_clean(const uint8_t *s, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++)
        if (s[i] < 0x20 || s[i] == 0x7f) return false;
    return is_utf8(s, len);
}

__attribute__((format(printf, 2, 3))) static err_t fail(const struct reader *r, const char *fmt,
                                                        ...)
{
    char msg[160], subject[96] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (r->name_len)
        snprintf(subject, sizeof subject, "%s '%.*s%s': ", r->kind,
                 (int)(r->name_len > 64 ? 61 : r->name_len), (const char *)r->buf + r->name_at,
                 r->name_len > 64 ? "..." : "");
    else if (r->kind)
        snprintf(subject, sizeof subject, "%s number %llu: ", r->kind,
                 (unsigned long long)r->number);
    return err_say(r->why, ERR_MODEL, "%s: %s%s", file_tail(r->file.path), subject, msg);
}

// ---- reading

static err_t reader_grow(struct reader *r, uint64_t end)
{
    uint64_t cap = r->cap ? r->cap * 2 : PIECE_MIN;
    if (cap > r->cap + PIECE_MAX) cap = r->cap + PIECE_MAX;
    if (cap < end) cap = end;
    if (cap > r->file.bytes) cap = r->file.bytes;
    uint8_t *buf = realloc(r->buf, cap);
    if (!buf)
        return err_say(r->why, ERR_MEMORY, "%s: no memory for its header", file_tail(r->file.path));
    r->buf = buf;
    r->cap = cap;
    err_t e = file_read(&r->file, r->len, r->buf + r->len, cap - r->len, r->why);
    if (!e) r->len = cap;
    return e;
}

// Makes `n` bytes at r->at readable.
static err_t reader_need(struct reader *r, uint64_t n)
{
    if (n > r->file.bytes - r->at)
        return fail(r, "needs %llu bytes at byte %llu, the file ends at %llu",
                    (unsigned long long)n, (unsigned long long)r->at,
                    (unsigned long long)r->file.bytes);
    if (n > HEADER_MAX - r->at) return fail(r, "the header is over %d MiB", HEADER_MAX >> 20);
    return r->at + n > r->len ? reader_grow(r, r->at + n) : OK;
}

static uint64_t le(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static err_t reader_u32(struct reader *r, uint32_t *out)
{
    err_t e = reader_need(r, 4);
    if (e) return e;
    *out = (uint32_t)le(r->buf + r->at, 4);
    r->at += 4;
    return OK;
}

static err_t reader_u64(struct reader *r, uint64_t *out)
{
    err_t e = reader_need(r, 8);
    if (e) return e;
    *out = le(r->buf + r->at, 8);
    r->at += 8;
    return OK;
}

// Key or tensor name. *out holds the offset until `settle`.
static err_t reader_name(struct reader *r, uint64_t max, struct gguf_str *out)
{
    uint64_t len;
    err_t e = reader_u64(r, &len);
    if (e) return e;
    if (len < 1 || len > max)
        return fail(r, "its name has %llu bytes, allowed 1 to %llu", (unsigned long long)len,
                    (unsigned long long)max);
    if ((e = reader_need(r, len))) return e;
    if (!is_clean(r->buf + r->at, len))
        return fail(r, "its name is not UTF-8 or holds control bytes");
    *out = (struct gguf_str){(const char *)(uintptr_t)r->at, len};
    r->name_at = r->at;
    r->name_len = len;
    r->at += len;
    return OK;
}

// ---- metadata

static err_t payload_strings(struct reader *r, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t len;
        err_t e = reader_u64(r, &len);
        if (e) return e;
        if (len > STR_MAX)
            return fail(r, "string %llu has %llu bytes, allowed %d", (unsigned long long)i,
                        (unsigned long long)len, STR_MAX);
        if ((e = reader_need(r, len))) return e;
        if (!is_utf8(r->buf + r->at, len))
            return fail(r, "string %llu is not UTF-8", (unsigned long long)i);
        r->at += len;
    }
    return OK;
}

static err_t payload_fixed(struct reader *r, enum gguf_type t, uint64_t n)
{
    uint64_t bytes = n * type_bytes[t]; // n <= ARR_MAX
    err_t e = reader_need(r, bytes);
    if (e) return e;
    if (t == GGUF_BOOL)
        for (uint64_t i = 0; i < n; i++)
            if (r->buf[r->at + i] > 1)
                return fail(r, "a boolean is %d, allowed 0 and 1", r->buf[r->at + i]);
    r->at += bytes;
    return OK;
}

static err_t read_kv(struct reader *r, struct gguf_kv *out)
{
    struct gguf_kv kv = {.n = 1};
    uint32_t type, elem = 0;
    err_t e = reader_name(r, KEY_MAX, &kv.key);
    if (e || (e = reader_u32(r, &type))) return e;
    if (type >= N_TYPE) return fail(r, "value type %u, allowed 0 to %d", type, N_TYPE - 1);
    if (type == GGUF_ARR) {
        if ((e = reader_u32(r, &elem)) || (e = reader_u64(r, &kv.n))) return e;
        if (elem >= N_TYPE || elem == GGUF_ARR)
            return fail(r, "array of element type %u, allowed 0 to %d but not %d (array)", elem,
                        N_TYPE - 1, GGUF_ARR);
        if (kv.n > ARR_MAX)
            return fail(r, "array of %llu elements, allowed %d", (unsigned long long)kv.n, ARR_MAX);
    }
    kv.type = (enum gguf_type)type;
    kv.elem = (enum gguf_type)elem;
    kv.data = (const uint8_t *)(uintptr_t)r->at;
    enum gguf_type t = type == GGUF_ARR ? kv.elem : kv.type;
    e = t == GGUF_STR ? payload_strings(r, kv.n) : payload_fixed(r, t, kv.n);
    if (e) return e;
    *out = kv;
    return OK;
}

// ---- tensors

static err_t tensor_bytes(struct reader *r, struct gguf_tensor *t)
{
    uint64_t n = 1, rows = 1, row = (uint64_t)t->shape[t->n_dim - 1];
    for (int i = 0; i < t->n_dim; i++) {
        if (t->shape[i] < 1)
            return fail(r, "dimension %d of %d is %llu, allowed 1 to 2^63-1", i + 1, t->n_dim,
                        (unsigned long long)t->shape[i]);
        if (__builtin_mul_overflow(n, (uint64_t)t->shape[i], &n) || n > INT64_MAX)
            return fail(r, "its dimensions multiply to over 2^63-1 elements");
        if (i < t->n_dim - 1) rows *= (uint64_t)t->shape[i];
    }
    if (!dtype_ggml_name(t->ggml_type))
        return fail(r, "tensor type number %u, which GGML does not define or has removed",
                    t->ggml_type);
    t->dtype = dtype_of_ggml(t->ggml_type);
    if (t->dtype == DT_NONE) return OK;
    const struct dtype_info *d = dtype_info(t->dtype);
    if (row % d->block)
        return fail(r, "rows of %llu elements, allowed with %s: multiples of %u",
                    (unsigned long long)row, d->name, d->block);
    uint64_t row_bytes = dtype_row_bytes(t->dtype, row);
    if (!row_bytes || __builtin_mul_overflow(row_bytes, rows, &t->bytes) || t->bytes > INT64_MAX)
        return fail(r, "its data would take over 2^63-1 bytes");
    return OK;
}

static err_t read_tensor(struct reader *r, struct gguf_tensor *out)
{
    struct gguf_tensor t = {0};
    uint32_t n_dim;
    err_t e = reader_name(r, NAME_MAX_BYTES, &t.name);
    if (e || (e = reader_u32(r, &n_dim))) return e;
    if (n_dim < 1 || n_dim > 4) return fail(r, "%u dimensions, allowed 1 to 4", n_dim);
    t.n_dim = (int32_t)n_dim;
    for (int i = t.n_dim - 1; i >= 0; i--) { // the file has the innermost first
        uint64_t d;
        if ((e = reader_u64(r, &d))) return e;
        t.shape[i] = (int64_t)d;
    }
    if ((e = reader_u32(r, &t.ggml_type)) || (e = reader_u64(r, &t.offset))) return e;
    if ((e = tensor_bytes(r, &t))) return e;
    *out = t;
    return OK;
}

static uint64_t align_up(uint64_t v, uint64_t a)
{
    return (v + a - 1) & ~(a - 1);
}

// Offsets of the file count from the data section. GGML writes, and reads, tensors one directly
// after another in the order of the table; where a type's size is unknown, order is all we check.
static err_t check_layout(struct gguf *g, struct reader *r)
{
    uint32_t align = ALIGN_DEFAULT;
    err_t e = gguf_get_u32(g, "general.alignment", &align, r->why);
    if (e && e != ERR_NOT_FOUND) return e;
    if (align < ALIGN_MIN || align > ALIGN_MAX || (align & (align - 1)))
        return err_say(r->why, ERR_MODEL,
                       "%s: key 'general.alignment': %u, allowed powers of two from %d to %d",
                       file_tail(r->file.path), align, ALIGN_MIN, ALIGN_MAX);
    uint64_t start = align_up(r->at, align), at = 0;
    bool exact = true;
    r->kind = "tensor";
    for (uint64_t i = 0; i < g->n_tensor; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        r->name_at = (uint64_t)((const uint8_t *)t->name.s - g->header);
        r->name_len = t->name.len;
        if (t->offset % align)
            return fail(r, "offset %llu is not a multiple of the alignment %u",
                        (unsigned long long)t->offset, align);
        if (exact ? t->offset != at : t->offset < at)
            return fail(r, "offset %llu, expected %s%llu: tensors lie one after another",
                        (unsigned long long)t->offset, exact ? "" : "at least ",
                        (unsigned long long)at);
        exact = t->dtype != DT_NONE;
        uint64_t least = exact ? t->bytes : 1;
        if (start > r->file.bytes || t->offset > r->file.bytes - start ||
            least > r->file.bytes - start - t->offset)
            return fail(r, "its data ends %llu bytes after byte %llu, the file has %llu bytes",
                        (unsigned long long)least, (unsigned long long)(start + t->offset),
                        (unsigned long long)r->file.bytes);
        at = align_up(t->offset + least, align);
        t->offset += start;
    }
    return OK;
}

// ---- index

static const char *key_at(const void *table, uint32_t i, uint64_t *len)
{
    const struct gguf_kv *kv = (const struct gguf_kv *)table + i;
    *len = kv->key.len;
    return kv->key.s;
}

static const char *tensor_name_at(const void *table, uint32_t i, uint64_t *len)
{
    const struct gguf_tensor *t = (const struct gguf_tensor *)table + i;
    *len = t->name.len;
    return t->name.s;
}

// x is initialised and empty.
static err_t build_index(struct reader *r, struct names *x, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (names_add(x, (uint32_t)i)) continue;
        const char *name = x->name_at(x->table, (uint32_t)i, &r->name_len);
        r->name_at = (uint64_t)((const uint8_t *)name - r->buf);
        return fail(r, "is there twice, allowed once");
    }
    return OK;
}

static err_t build_indices(struct gguf *g, struct reader *r)
{
    err_t e = names_init(&g->by_key, g->kvs, key_at, g->n_kv);
    if (!e) e = names_init(&g->by_name, g->tensors, tensor_name_at, g->n_tensor);
    if (e) return err_say(r->why, e, "%s: no memory for its index", file_tail(r->file.path));
    r->kind = "key";
    if ((e = build_index(r, &g->by_key, g->n_kv))) return e;
    r->kind = "tensor";
    return build_index(r, &g->by_name, g->n_tensor);
}

// ---- the file

static err_t read_counts(struct reader *r, uint64_t *n_tensor, uint64_t *n_kv)
{
    if (r->file.bytes < FIXED_BYTES)
        return fail(r, "has %llu bytes, a GGUF file has at least %d",
                    (unsigned long long)r->file.bytes, FIXED_BYTES);
    err_t e = reader_need(r, FIXED_BYTES);
    if (e) return e;
    if (memcmp(r->buf, "GGUF", 4))
        return fail(r, "begins with %02x %02x %02x %02x, a GGUF file with 47 47 55 46", r->buf[0],
                    r->buf[1], r->buf[2], r->buf[3]);
    uint32_t version = (uint32_t)le(r->buf + 4, 4);
    if (version && !(version & 0xffff))
        return fail(r, "is a big-endian GGUF file, only little-endian ones can be read");
    if (version < 2 || version > 3) return fail(r, "GGUF version %u, allowed 2 and 3", version);
    *n_tensor = le(r->buf + 8, 8);
    *n_kv = le(r->buf + 16, 8);
    r->at = FIXED_BYTES;
    uint64_t kv_fit = (r->file.bytes - FIXED_BYTES) / KV_MIN_BYTES;
    uint64_t tensor_fit = (r->file.bytes - FIXED_BYTES) / TENSOR_MIN_BYTES;
    if (kv_fit > KV_MAX) kv_fit = KV_MAX;
    if (tensor_fit > TENSOR_MAX) tensor_fit = TENSOR_MAX;
    if (*n_kv > kv_fit)
        return fail(r, "announces %llu metadata entries, a file of this size has at most %llu",
                    (unsigned long long)*n_kv, (unsigned long long)kv_fit);
    if (*n_tensor > tensor_fit)
        return fail(r, "announces %llu tensors, a file of this size has at most %llu",
                    (unsigned long long)*n_tensor, (unsigned long long)tensor_fit);
    return OK;
}

static err_t read_tables(struct gguf *g, struct reader *r)
{
    err_t e = OK;
    g->kvs = calloc(g->n_kv + 1, sizeof *g->kvs);
    g->tensors = calloc(g->n_tensor + 1, sizeof *g->tensors);
    if (!g->kvs || !g->tensors)
        return err_say(r->why, ERR_MEMORY, "%s: no memory for its tables", file_tail(r->file.path));
    r->kind = "key";
    for (r->number = 0; !e && r->number < g->n_kv; r->number++, r->name_len = 0)
        e = read_kv(r, &g->kvs[r->number]);
    if (e) return e;
    r->kind = "tensor";
    for (r->number = 0; !e && r->number < g->n_tensor; r->number++, r->name_len = 0)
        e = read_tensor(r, &g->tensors[r->number]);
    return e;
}

// The header has its final place: offsets become pointers.
static void settle(struct gguf *g, struct reader *r)
{
    uint8_t *exact = realloc(r->buf, r->at);
    if (exact) r->buf = exact;
    g->header = r->buf;
    g->header_bytes = r->at;
    for (uint64_t i = 0; i < g->n_kv; i++) {
        g->kvs[i].key.s = (const char *)g->header + (uintptr_t)g->kvs[i].key.s;
        g->kvs[i].data = g->header + (uintptr_t)g->kvs[i].data;
    }
    for (uint64_t i = 0; i < g->n_tensor; i++)
        g->tensors[i].name.s = (const char *)g->header + (uintptr_t)g->tensors[i].name.s;
}

static err_t take_hash(struct gguf *g, struct reader *r)
{
    struct sha256 sha;
    sha256_init(&sha);
    sha256_add(&sha, g->header, r->at);
    err_t e = file_add_samples(&r->file, r->at, GGUF_SAMPLES, &sha, r->why);
    if (!e) sha256_end(&sha, g->hash);
    return e;
}

static err_t load(struct gguf *g, struct reader *r)
{
    err_t e = read_counts(r, &g->n_tensor, &g->n_kv);
    if (e) return e;
    g->file_bytes = r->file.bytes;
    if ((e = read_tables(g, r))) return e;
    settle(g, r);
    if ((e = build_indices(g, r))) return e;
    if ((e = check_layout(g, r))) return e;
    return take_hash(g, r);
}

err_t gguf_open(const char *path, struct gguf **out, struct err_text *why)
{
    struct reader r = {.why = why};
    err_t e = file_open(path, &r.file, why);
    if (e) return e;
    struct gguf *g = calloc(1, sizeof *g);
    if (!g || !(g->path = strdup(path)))
        e = err_say(why, ERR_MEMORY, "%s: no memory", file_tail(path));
    if (!e) e = load(g, &r);
    file_close(&r.file);
    if (g) g->header = r.buf;
    if (e) {
        gguf_close(g);
        return e;
    }
    *out = g;
    return OK;
}

void gguf_close(struct gguf *g)
{
    if (!g) return;
    names_fini(&g->by_key);
    names_fini(&g->by_name);
    free(g->kvs);
    free(g->tensors);
    free(g->header);
    free(g->path);
    free(g);
}

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    return g->file_bytes;
}

uint64_t gguf_header_bytes(const struct gguf *g)
{
    return g->header_bytes;
}

const uint8_t *gguf_hash(const struct gguf *g)
{
    return g->hash;
}

uint64_t gguf_n_tensor(const struct gguf *g)
{
    return g->n_tensor;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i)
{
    BUG_ON(i >= g->n_tensor);
    return &g->tensors[i];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    int64_t i = names_find(&g->by_name, name, strlen(name));
    return i < 0 ? NULL : &g->tensors[i];
}

uint64_t gguf_n_kv(const struct gguf *g)
{
    return g->n_kv;
}

const struct gguf_kv *gguf_kv_at(const struct gguf *g, uint64_t i)
{
    BUG_ON(i >= g->n_kv);
    return &g->kvs[i];
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    int64_t i = names_find(&g->by_key, key, strlen(key));
    return i < 0 ? NULL : &g->kvs[i];
}
