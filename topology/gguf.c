#include "topology/gguf.h"

#include "topology/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

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

// Names -> item number, open addressing. Items start with their name.
struct index {
    const uint8_t *items;
    size_t stride;
    uint32_t *slots; // item + 1, 0: empty
    uint64_t mask;
    uint64_t base; // random, so that nobody can prepare names that collide
};

struct gguf {
    char *path;
    uint64_t file_bytes;
    uint8_t hash[32];
    uint8_t *header;
    uint64_t n_kv, n_tensor;
    struct gguf_kv *kvs;
    struct gguf_tensor *tensors;
    struct index by_key, by_name;
};
_Static_assert(offsetof(struct gguf_kv, key) == 0, "index expects the name first");
_Static_assert(offsetof(struct gguf_tensor, name) == 0, "index expects the name first");

// The header is read in growing pieces, so the buffer moves: until `settle`, pointers into it are
// kept as offsets.
struct reader {
    int fd;
    const char *path;
    uint64_t file_bytes;
    uint8_t *buf;
    uint64_t len, cap, at;
    const char *kind; // what is being read, for the sentence: "key", "tensor"
    uint64_t number;  // its place in the file, while it has no name
    const uint8_t *name;
    uint64_t name_len;
    struct err_text *why;
};

// ---- sentences

// Strict UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
static bool is_utf8(const uint8_t *s, uint64_t len)
{
    for (uint64_t i = 0; i < len;) {
        uint8_t c = s[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        int more = c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 0;
        if (!more || len - i <= (uint64_t)more) return false;
        uint8_t lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
        uint8_t hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if (s[i + 1] < lo || s[i + 1] > hi) return false;
        for (int k = 2; k <= more; k++)
            if ((s[i + (uint64_t)k] & 0xc0) != 0x80) return false;
        i += (uint64_t)more + 1;
    }
    return true;
}

static bool is_clean(const uint8_t *s, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++)
        if (s[i] < 0x20 || s[i] == 0x7f) return false;
    return is_utf8(s, len);
}

// The end of a path says more than its beginning. Odd bytes take four times the room when the
// sentence escapes them.
static const char *path_tail(const char *path)
{
    size_t len = strlen(path), max = is_clean((const uint8_t *)path, len) ? 80 : 20;
    return len > max ? path + len - max : path;
}

__attribute__((format(printf, 2, 3))) static err_t fail(const struct reader *r, const char *fmt,
                                                        ...)
{
    char msg[160], subject[96] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (r->name)
        snprintf(subject, sizeof subject, "%s '%.*s%s': ", r->kind,
                 (int)(r->name_len > 64 ? 61 : r->name_len), r->name,
                 r->name_len > 64 ? "..." : "");
    else if (r->kind)
        snprintf(subject, sizeof subject, "%s number %llu: ", r->kind,
                 (unsigned long long)r->number);
    return err_say(r->why, ERR_MODEL, "%s: %s%s", path_tail(r->path), subject, msg);
}

// ---- reading

static err_t reader_grow(struct reader *r, uint64_t end)
{
    uint64_t cap = r->cap ? r->cap * 2 : PIECE_MIN;
    if (cap > r->cap + PIECE_MAX) cap = r->cap + PIECE_MAX;
    if (cap < end) cap = end;
    if (cap > r->file_bytes) cap = r->file_bytes;
    uint8_t *buf = realloc(r->buf, cap);
    if (!buf) return err_say(r->why, ERR_MEMORY, "%s: no memory for its header", path_tail(r->path));
    r->buf = buf;
    r->cap = cap;
    while (r->len < cap) {
        ssize_t n = pread(r->fd, r->buf + r->len, cap - r->len, (off_t)r->len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_say(r->why, ERR_SYSTEM, "%s: cannot read: %m", path_tail(r->path));
        if (n == 0) break;
        r->len += (uint64_t)n;
    }
    if (r->len < end)
        return fail(r, "the file shrank to %llu bytes while it was read, it had %llu",
                    (unsigned long long)r->len, (unsigned long long)r->file_bytes);
    return OK;
}

// Makes `n` bytes at r->at readable.
static err_t reader_need(struct reader *r, uint64_t n)
{
    if (n > r->file_bytes - r->at)
        return fail(r, "needs %llu bytes at byte %llu, the file ends at %llu", (unsigned long long)n,
                    (unsigned long long)r->at, (unsigned long long)r->file_bytes);
    if (n > HEADER_MAX - r->at)
        return fail(r, "the header is over %d MiB", HEADER_MAX >> 20);
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
    r->at += len;
    return OK;
}

// For the sentences of this item from here on. `at` is valid while the buffer does not move.
static void reader_show(struct reader *r, const struct gguf_str *name)
{
    r->name = r->buf + (uintptr_t)name->s;
    r->name_len = name->len;
}

// ---- metadata

static err_t payload_strings(struct reader *r, const struct gguf_str *key, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t len;
        err_t e = reader_u64(r, &len);
        if (e) return e;
        if (len > STR_MAX)
            return fail(r, "string %llu has %llu bytes, allowed %d", (unsigned long long)i,
                        (unsigned long long)len, STR_MAX);
        e = reader_need(r, len);
        reader_show(r, key);
        if (e) return e;
        if (!is_utf8(r->buf + r->at, len))
            return fail(r, "string %llu is not UTF-8", (unsigned long long)i);
        r->at += len;
    }
    return OK;
}

static err_t payload_fixed(struct reader *r, const struct gguf_str *key, enum gguf_type t,
                           uint64_t n)
{
    uint64_t bytes = n * type_bytes[t]; // n <= ARR_MAX
    err_t e = reader_need(r, bytes);
    reader_show(r, key);
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
    if (e) return e;
    // The name is shown only while the buffer stands still: a read may move it.
    if ((e = reader_need(r, 4))) return e;
    reader_u32(r, &type);
    reader_show(r, &kv.key);
    if (type >= N_TYPE) return fail(r, "value type %u, allowed 0 to %d", type, N_TYPE - 1);
    if (type == GGUF_ARR) {
        r->name = NULL;
        if ((e = reader_need(r, 12))) return e;
        reader_u32(r, &elem);
        reader_u64(r, &kv.n);
        reader_show(r, &kv.key);
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
    e = t == GGUF_STR ? payload_strings(r, &kv.key, kv.n) : payload_fixed(r, &kv.key, t, kv.n);
    if (e) return e;
    *out = kv;
    return OK;
}
