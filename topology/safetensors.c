#include "topology/safetensors.h"

#include "proto/base/utf8.h"
#include "topology/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADER_MAX = 100 * 1000 * 1000, // the reference's limit
    HEADER_MIN = 2,                 // "{}"
    NAME_MAX_BYTES = 512,
    DIMS_MAX = 16,
    SAMPLES = 16, // of the data of each file, for the hash
};

static const struct {
    const char *name;
    enum dtype dtype; // DT_NONE: the format has it, no weight does
    int bits;         // of one element
} types[] = {
    {"F32", DT_F32, 32},
    {"F16", DT_F16, 16},
    {"BF16", DT_BF16, 16},
    {"F64", DT_F64, 64},
    {"F8_E4M3", DT_F8_E4M3, 8},
    {"F8_E5M2", DT_F8_E5M2, 8},
    {"F8_E8M0", DT_U8, 8},
    {"BOOL", DT_BOOL, 8},
    {"I8", DT_I8, 8},
    {"U8", DT_U8, 8},
    {"I16", DT_I16, 16},
    {"U16", DT_U16, 16},
    {"I32", DT_I32, 32},
    {"U32", DT_U32, 32},
    {"I64", DT_I64, 64},
    {"U64", DT_U64, 64},
    {"C64", DT_NONE, 64},
    {"F8_E4M3FNUZ", DT_NONE, 8},
    {"F8_E5M2FNUZ", DT_NONE, 8},
    {"F6_E2M3", DT_NONE, 6},
    {"F6_E3M2", DT_NONE, 6},
    {"F4", DT_NONE, 4},
};
enum { N_TYPE = sizeof types / sizeof *types };

struct span {
    uint64_t from, to;
};

// The header and where we are in it.
struct scan {
    struct file file;
    uint8_t *text;
    uint64_t len, at;
    char name[NAME_MAX_BYTES + 1]; // of the tensor at hand; empty: none yet
    size_t name_len;
    struct span *spans; // of the data, one for each tensor that has some
    size_t n_span, cap_span;
    bool sorted; // spans came in the order of the data
    const struct safetensors_sink *sink;
    struct err_text *why;
};

__attribute__((format(printf, 2, 3))) static err_t fail(const struct scan *s, const char *fmt, ...)
{
    char msg[160], subject[96] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (s->name_len)
        snprintf(subject, sizeof subject,
                 "tensor '%.*s%s': ", (int)(s->name_len > 64 ? 61 : s->name_len), s->name,
                 s->name_len > 64 ? "..." : "");
    return err_say(s->why, ERR_MODEL, "%s: %s%s", file_tail(s->file.path), subject, msg);
}

// ---- JSON, as far as headers use it

static int peek(struct scan *s)
{
    for (; s->at < s->len; s->at++) {
        const uint8_t c = s->text[s->at];
        if (c != ' ' && c != '\t' && c != '\r' && c != '\n') return c;
    }
    return -1;
}

static err_t expect(struct scan *s, char c)
{
    int got = peek(s);
    if (got < 0) return fail(s, "its header ends where '%c' is expected", c);
    if (got != c)
        return fail(s, "byte %llu of its header is 0x%02x, expected '%c'",
                    (unsigned long long)s->at, got, c);
    s->at++;
    return OK;
}

// After a value: true if another follows.
static err_t more(struct scan *s, char end, bool *out)
{
    int c = peek(s);
    *out = c == ',';
    if (!*out) return expect(s, end);
    s->at++;
    return OK;
}

static bool hex4(const struct scan *s, uint64_t at, uint32_t *out)
{
    uint32_t v = 0;
    if (s->len - at < 4) return false;
    for (uint64_t i = at; i < at + 4; i++) {
        int c = s->text[i], digit = c >= '0' && c <= '9'   ? c - '0'
                                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                           : -1;
        if (digit < 0) return false;
        v = v << 4 | (uint32_t)digit;
    }
    *out = v;
    return true;
}

static size_t put_utf8(uint32_t u, char *to)
{
    const int n = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
    if (n == 1) {
        to[0] = (char)u;
        return 1;
    }
    for (int i = n - 1; i > 0; i--, u >>= 6)
        to[i] = (char)(0x80 | (u & 0x3f));
    to[0] = (char)((0xf00 >> n & 0xff) | u);
    return (size_t)n;
}

// After a backslash: the character it stands for; false if there is no such escape.
static bool unescape(struct scan *s, char *to, size_t *n)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    if (s->at >= s->len) return false;
    const char c = (char)s->text[s->at++], *which = c ? strchr(from, c) : NULL;
    if (which) {
        *to = into[which - from];
        *n = 1;
        return true;
    }
    uint32_t u, low;
    if (c != 'u' || !hex4(s, s->at, &u)) return false;
    s->at += 4;
    if (u >= 0xd800 && u < 0xe000) { // half of a pair
        if (u >= 0xdc00 || s->len - s->at < 6 || memcmp(s->text + s->at, "\\u", 2) ||
            !hex4(s, s->at + 2, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        s->at += 6;
        u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
    }
    *n = put_utf8(u, to);
    return true;
}

// `max` is the room in `to`, of which one byte is for the NUL. to NULL: any length, kept nowhere.
static err_t string(struct scan *s, char *to, size_t max, size_t *len)
{
    size_t n = 0;
    err_t e = expect(s, '"');
    if (e) return e;
    for (;;) {
        char piece[4];
        if (s->at >= s->len) return fail(s, "its header ends within a string");
        const uint8_t *p = s->text + s->at;
        if (*p == '"') break;
        size_t k = utf8_len(p, s->len - s->at);
        if (!k || *p < 0x20)
            return fail(s, "byte %llu of its header, 0x%02x, is no text", (unsigned long long)s->at,
                        *p);
        memcpy(piece, p, k);
        s->at += k;
        if (*p == '\\' && !unescape(s, piece, &k))
            return fail(s, "byte %llu of its header: bad escape", (unsigned long long)s->at);
        if (to && n + k >= max)
            return fail(s, "a name of over %zu bytes at byte %llu of its header", max - 1,
                        (unsigned long long)s->at);
        if (to) memcpy(to + n, piece, k);
        n += k;
    }
    s->at++;
    if (to) to[n] = 0;
    *len = n;
    return OK;
}

// A JSON integer from 0 to 2^63-1.
static err_t number(struct scan *s, uint64_t *out)
{
    uint64_t v = 0;
    const int first = peek(s);
    const uint64_t from = s->at;
    for (; s->at < s->len && s->text[s->at] >= '0' && s->text[s->at] <= '9'; s->at++)
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s->text[s->at] - '0'), &v) || v > INT64_MAX)
            return fail(s, "a number at byte %llu of its header is over 2^63-1",
                        (unsigned long long)from);
    const bool ends = s->at >= s->len || !memchr(".eE+-", s->text[s->at], 5);
    if (s->at == from || !ends || (first == '0' && s->at - from > 1))
        return fail(s, "byte %llu of its header is no whole number from 0 to 2^63-1",
                    (unsigned long long)from);
    *out = v;
    return OK;
}

static err_t numbers(struct scan *s, int max, uint64_t *out, int *n)
{
    err_t e = expect(s, '[');
    bool again = !e && peek(s) != ']';
    *n = 0;
    if (!e && !again) s->at++;
    while (!e && again) {
        if (*n == max)
            return fail(s, "over %d numbers in an array at byte %llu of its header", max,
                        (unsigned long long)s->at);
        e = number(s, &out[(*n)++]);
        if (!e) e = more(s, ']', &again);
    }
    return e;
}

// ---- tensors

static err_t add_span(struct scan *s, uint64_t from, uint64_t to)
{
    if (from == to) return OK;
    if (s->n_span == s->cap_span) {
        size_t cap = s->cap_span ? 2 * s->cap_span : 256;
        struct span *spans = realloc(s->spans, cap * sizeof *spans);
        if (!spans)
            return err_say(s->why, ERR_MEMORY, "%s: no memory for its table",
                           file_tail(s->file.path));
        s->spans = spans;
        s->cap_span = cap;
    }
    if (s->n_span && from < s->spans[s->n_span - 1].to) s->sorted = false;
    s->spans[s->n_span++] = (struct span){from, to};
    return OK;
}

// Shape and type must make up the bytes; what has no data may lie anywhere inside.
static err_t check_bytes(struct scan *s, int type, const uint64_t *shape, int n_dim,
                         const uint64_t *place)
{
    const uint64_t data = s->file.bytes - 8 - s->len;
    uint64_t n = 1, bits;
    for (int i = 0; i < n_dim; i++)
        if (__builtin_mul_overflow(n, shape[i], &n) || n > INT64_MAX)
            return fail(s, "its dimensions multiply to over 2^63-1 elements");
    if (__builtin_mul_overflow(n, (uint64_t)types[type].bits, &bits) || bits % 8)
        return fail(s, "%llu elements of %s are no whole number of bytes that a file can have",
                    (unsigned long long)n, types[type].name);
    if (place[0] > place[1] || place[1] > data)
        return fail(s, "data_offsets %llu to %llu, the file has data from 0 to %llu",
                    (unsigned long long)place[0], (unsigned long long)place[1],
                    (unsigned long long)data);
    if (place[1] - place[0] != bits / 8)
        return fail(s, "data_offsets give %llu bytes, shape and type %s make %llu",
                    (unsigned long long)(place[1] - place[0]), types[type].name,
                    (unsigned long long)(bits / 8));
    return OK;
}

static err_t give_tensor(struct scan *s, int type, const uint64_t *shape, int n_dim,
                         const uint64_t *place)
{
    struct model_tensor t = {.dtype = types[type].dtype,
                             .n_dim = n_dim < 4 ? n_dim : 4,
                             .offset = 8 + s->len + place[0],
                             .bytes = place[1] - place[0]};
    err_t e = check_bytes(s, type, shape, n_dim, place);
    if (e) return e;
    for (int i = 0; i < n_dim; i++) {
        const int to = i < 4 ? i : 3;
        t.shape[to] = i < 4 ? (int64_t)shape[i] : t.shape[to] * (int64_t)shape[i];
    }
    if ((e = add_span(s, place[0], place[1]))) return e;
    return s->sink->on_tensor(s->sink->user, s->name, s->name_len, &t, s->why);
}

static err_t type_of(struct scan *s, const char *name, int *out)
{
    for (int i = 0; i < N_TYPE; i++) {
        if (strcmp(types[i].name, name) == 0) {
            *out = i;
            return OK;
        }
    }
    return fail(s, "dtype '%s' is none of the format's", name);
}

// {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}, in any order, nothing else.
static err_t tensor(struct scan *s)
{
    uint64_t shape[DIMS_MAX], place[2];
    int type = -1, n_dim = -1, n_place = -1;
    err_t e = expect(s, '{');
    bool again = !e;
    while (!e && again) {
        char key[16], name[24];
        size_t len;
        if ((e = string(s, key, sizeof key, &len)) || (e = expect(s, ':'))) return e;
        if (strcmp(key, "dtype") == 0 && type < 0) {
            if ((e = string(s, name, sizeof name, &len))) return e;
            e = type_of(s, name, &type);
        } else if (strcmp(key, "shape") == 0 && n_dim < 0) {
            e = numbers(s, DIMS_MAX, shape, &n_dim);
        } else if (strcmp(key, "data_offsets") == 0 && n_place < 0) {
            e = numbers(s, 2, place, &n_place);
        } else {
            return fail(s, "key '%s', allowed are dtype, shape, data_offsets, once each", key);
        }
        if (!e) e = more(s, '}', &again);
    }
    if (e) return e;
    if (type < 0 || n_dim < 0 || n_place < 0)
        return fail(s, "has no %s", type < 0 ? "dtype" : n_dim < 0 ? "shape" : "data_offsets");
    if (n_place != 2) return fail(s, "data_offsets has %d numbers, expected 2", n_place);
    return give_tensor(s, type, shape, n_dim, place);
}

// {"format": "pt"}: strings only; nobody needs them.
static err_t metadata(struct scan *s)
{
    size_t len;
    err_t e = expect(s, '{');
    bool again = !e && peek(s) != '}';
    if (!e && !again) s->at++;
    while (!e && again) {
        if ((e = string(s, NULL, 0, &len)) || (e = expect(s, ':'))) return e;
        if (peek(s) != '"')
            return fail(s, "__metadata__ at byte %llu of its header: allowed are strings",
                        (unsigned long long)s->at);
        e = string(s, NULL, 0, &len);
        if (!e) e = more(s, '}', &again);
    }
    return e;
}

static err_t header(struct scan *s)
{
    bool had_metadata = false;
    if (s->text[0] != '{')
        return fail(s, "its header begins with 0x%02x, expected '{'", s->text[0]);
    err_t e = expect(s, '{');
    bool again = !e && peek(s) != '}';
    if (!e && !again) s->at++;
    while (!e && again) {
        if ((e = string(s, s->name, sizeof s->name, &s->name_len))) return e;
        if (s->name_len == 0) return fail(s, "a tensor without a name");
        if (strlen(s->name) != s->name_len) return fail(s, "its name holds a NUL");
        if ((e = expect(s, ':'))) return e;
        if (strcmp(s->name, "__metadata__")) {
            e = tensor(s);
        } else if (had_metadata) {
            return fail(s, "is there twice, allowed once");
        } else {
            had_metadata = true;
            s->name_len = 0;
            e = metadata(s);
        }
        s->name_len = 0;
        if (!e) e = more(s, '}', &again);
    }
    if (e) return e;
    if (peek(s) >= 0)
        return fail(s, "byte %llu of its header: something follows the object",
                    (unsigned long long)s->at);
    return OK;
}

static int by_place(const void *pa, const void *pb)
{
    const struct span *a = pa, *b = pb;
    return a->from < b->from ? -1 : a->from > b->from;
}

static err_t check_cover(struct scan *s)
{
    const uint64_t data = s->file.bytes - 8 - s->len;
    uint64_t at = 0;
    if (!s->sorted) qsort(s->spans, s->n_span, sizeof *s->spans, by_place);
    for (size_t i = 0; i < s->n_span; i++) {
        if (s->spans[i].from != at)
            return fail(s, "tensors %s at byte %llu of its data",
                        s->spans[i].from < at ? "overlap" : "leave a hole", (unsigned long long)at);
        at = s->spans[i].to;
    }
    if (at != data)
        return fail(s, "its tensors end at byte %llu of the data, the file has %llu",
                    (unsigned long long)at, (unsigned long long)data);
    return OK;
}

// ---- the file

static err_t load(struct scan *s)
{
    uint8_t head[8];
    uint64_t len = 0;
    if (s->file.bytes < 8 + HEADER_MIN)
        return fail(s, "has %llu bytes, a safetensors file has at least %d",
                    (unsigned long long)s->file.bytes, 8 + HEADER_MIN);
    err_t e = file_read(&s->file, 0, head, 8, s->why);
    if (e) return e;
    for (int i = 0; i < 8; i++)
        len |= (uint64_t)head[i] << (8 * i);
    if (len < HEADER_MIN || len > HEADER_MAX)
        return fail(s, "its header has %llu bytes, allowed %d to %d", (unsigned long long)len,
                    HEADER_MIN, HEADER_MAX);
    if (len > s->file.bytes - 8)
        return fail(s, "its header has %llu bytes, the file ends after %llu",
                    (unsigned long long)len, (unsigned long long)(s->file.bytes - 8));
    s->text = malloc(len);
    if (!s->text)
        return err_say(s->why, ERR_MEMORY, "%s: no memory for its header", file_tail(s->file.path));
    s->len = len;
    if ((e = file_read(&s->file, 8, s->text, len, s->why))) return e;
    if ((e = header(s))) return e;
    return check_cover(s);
}

err_t safetensors_read(const char *path, const struct safetensors_sink *sink, struct sha256 *sha,
                       uint64_t *file_bytes, struct err_text *why)
{
    struct scan s = {.sink = sink, .why = why, .sorted = true};
    err_t e = file_open(path, &s.file, why);
    if (e) return e;
    e = load(&s);
    if (!e) {
        sha256_add(sha, s.text, s.len);
        e = file_add_samples(&s.file, 8 + s.len, SAMPLES, sha, why);
    }
    if (!e) *file_bytes = s.file.bytes;
    file_close(&s.file);
    free(s.text);
    free(s.spans);
    return e;
}
