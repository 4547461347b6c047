#include "topology/safetensors.h"

#include "topology/file.h"
#include "topology/pull.h"

#include <stdlib.h>
#include <string.h>

enum {
    HEADER_MAX = 100 * 1000 * 1000, // the reference's limit
    HEADER_MIN = 2,                 // "{}"
    DIMS_MAX = 16,
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

struct header {
    struct pull pull; // of its text
    struct file file;
    uint8_t *text;
    struct span *spans; // of the data, one for each tensor that has some
    size_t n_span, cap_span;
    bool sorted; // spans came in the order of the data
    const struct safetensors_sink *sink;
};

static err_t numbers(struct pull *s, int max, uint64_t *out, int *n)
{
    bool again = false;
    err_t e = pull_open(s, '[', ']', &again);
    *n = 0;
    while (!e && again) {
        if (*n == max)
            return pull_fail(s, "over %d numbers in an array at byte %llu of %s", max,
                             (unsigned long long)s->at, s->part);
        e = pull_number(s, &out[(*n)++]);
        if (!e) e = pull_more(s, ']', &again);
    }
    return e;
}

// ---- tensors

static err_t add_span(struct header *h, uint64_t from, uint64_t to)
{
    if (from == to) return OK;
    if (h->n_span == h->cap_span) {
        size_t cap = h->cap_span ? 2 * h->cap_span : 256;
        struct span *spans = realloc(h->spans, cap * sizeof *spans);
        if (!spans)
            return err_say(h->pull.why, ERR_MEMORY, "%s: no memory for its table",
                           file_tail(h->file.path));
        h->spans = spans;
        h->cap_span = cap;
    }
    if (h->n_span && from < h->spans[h->n_span - 1].to) h->sorted = false;
    h->spans[h->n_span++] = (struct span){from, to};
    return OK;
}

// Shape and type must make up the bytes; what has no data may lie anywhere inside.
static err_t check_bytes(struct header *h, int type, const uint64_t *shape, int n_dim,
                         const uint64_t *place)
{
    const uint64_t data = h->file.bytes - 8 - h->pull.len;
    uint64_t n = 1, bits;
    for (int i = 0; i < n_dim; i++)
        if (__builtin_mul_overflow(n, shape[i], &n) || n > INT64_MAX)
            return pull_fail(&h->pull, "its dimensions multiply to over 2^63-1 elements");
    if (__builtin_mul_overflow(n, (uint64_t)types[type].bits, &bits) || bits % 8)
        return pull_fail(&h->pull,
                         "%llu elements of %s are no whole number of bytes that a file can have",
                         (unsigned long long)n, types[type].name);
    if (place[0] > place[1] || place[1] > data)
        return pull_fail(&h->pull, "data_offsets %llu to %llu, the file has data from 0 to %llu",
                         (unsigned long long)place[0], (unsigned long long)place[1],
                         (unsigned long long)data);
    if (place[1] - place[0] != bits / 8)
        return pull_fail(&h->pull, "data_offsets give %llu bytes, shape and type %s make %llu",
                         (unsigned long long)(place[1] - place[0]), types[type].name,
                         (unsigned long long)(bits / 8));
    return OK;
}

static err_t give_tensor(struct header *h, int type, const uint64_t *shape, int n_dim,
                         const uint64_t *place)
{
    struct model_tensor t = {.dtype = types[type].dtype,
                             .n_dim = n_dim < 4 ? n_dim : 4,
                             .offset = 8 + h->pull.len + place[0],
                             .bytes = place[1] - place[0]};
    err_t e = check_bytes(h, type, shape, n_dim, place);
    if (e) return e;
    for (int i = 0; i < n_dim; i++) {
        const int to = i < 4 ? i : 3;
        t.shape[to] = i < 4 ? (int64_t)shape[i] : t.shape[to] * (int64_t)shape[i];
    }
    if ((e = add_span(h, place[0], place[1]))) return e;
    return h->sink->on_tensor(h->sink->user, h->pull.name, h->pull.name_len, &t, h->pull.why);
}

static err_t type_of(struct header *h, const char *name, int *out)
{
    for (int i = 0; i < N_TYPE; i++) {
        if (strcmp(types[i].name, name) == 0) {
            *out = i;
            return OK;
        }
    }
    return pull_fail(&h->pull, "dtype '%s' is none of the format's", name);
}

// {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}, in any order, nothing else.
static err_t tensor(struct header *h)
{
    uint64_t shape[DIMS_MAX], place[2];
    int type = -1, n_dim = -1, n_place = -1;
    err_t e = pull_expect(&h->pull, '{');
    bool again = !e;
    while (!e && again) {
        char key[16], name[24];
        size_t len;
        if ((e = pull_string(&h->pull, key, sizeof key, &len)) || (e = pull_expect(&h->pull, ':')))
            return e;
        if (strcmp(key, "dtype") == 0 && type < 0) {
            if ((e = pull_string(&h->pull, name, sizeof name, &len))) return e;
            e = type_of(h, name, &type);
        } else if (strcmp(key, "shape") == 0 && n_dim < 0) {
            e = numbers(&h->pull, DIMS_MAX, shape, &n_dim);
        } else if (strcmp(key, "data_offsets") == 0 && n_place < 0) {
            e = numbers(&h->pull, 2, place, &n_place);
        } else {
            return pull_fail(&h->pull,
                             "key '%s', allowed are dtype, shape, data_offsets, once each", key);
        }
        if (!e) e = pull_more(&h->pull, '}', &again);
    }
    if (e) return e;
    if (type < 0 || n_dim < 0 || n_place < 0)
        return pull_fail(&h->pull, "has no %s",
                         type < 0    ? "dtype"
                         : n_dim < 0 ? "shape"
                                     : "data_offsets");
    if (n_place != 2)
        return pull_fail(&h->pull, "data_offsets has %d numbers, expected 2", n_place);
    return give_tensor(h, type, shape, n_dim, place);
}

// {"format": "pt"}: strings only; nobody needs them.
static err_t metadata(struct pull *s)
{
    size_t len;
    bool again = false;
    err_t e = pull_open(s, '{', '}', &again);
    while (!e && again) {
        if ((e = pull_string(s, NULL, 0, &len)) || (e = pull_expect(s, ':'))) return e;
        if (pull_peek(s) != '"')
            return pull_fail(s, "__metadata__ at byte %llu of %s: allowed are strings",
                             (unsigned long long)s->at, s->part);
        e = pull_string(s, NULL, 0, &len);
        if (!e) e = pull_more(s, '}', &again);
    }
    return e;
}

static err_t header(struct header *h)
{
    struct pull *s = &h->pull;
    bool had_metadata = false, again = false;
    if (s->text[0] != '{')
        return pull_fail(s, "%s begins with 0x%02x, expected '{'", s->part, s->text[0]);
    err_t e = pull_open(s, '{', '}', &again);
    while (!e && again) {
        if ((e = pull_name(s))) return e;
        if (strcmp(s->name, "__metadata__")) {
            e = tensor(h);
        } else if (had_metadata) {
            return pull_fail(s, "is there twice, allowed once");
        } else {
            had_metadata = true;
            s->name_len = 0;
            e = metadata(s);
        }
        s->name_len = 0;
        if (!e) e = pull_more(s, '}', &again);
    }
    return e ? e : pull_end(s);
}

static int by_place(const void *pa, const void *pb)
{
    const struct span *a = pa, *b = pb;
    return a->from < b->from ? -1 : a->from > b->from;
}

static err_t check_cover(struct header *h)
{
    const uint64_t data = h->file.bytes - 8 - h->pull.len;
    uint64_t at = 0;
    if (!h->sorted) qsort(h->spans, h->n_span, sizeof *h->spans, by_place);
    for (size_t i = 0; i < h->n_span; i++) {
        if (h->spans[i].from != at)
            return pull_fail(&h->pull, "tensors %s at byte %llu of its data",
                             h->spans[i].from < at ? "overlap" : "leave a hole",
                             (unsigned long long)at);
        at = h->spans[i].to;
    }
    if (at != data)
        return pull_fail(&h->pull, "its tensors end at byte %llu of the data, the file has %llu",
                         (unsigned long long)at, (unsigned long long)data);
    return OK;
}

// ---- the file

static err_t load(struct header *h)
{
    uint8_t head[8];
    uint64_t len = 0;
    if (h->file.bytes < 8 + HEADER_MIN)
        return pull_fail(&h->pull, "has %llu bytes, a safetensors file has at least %d",
                         (unsigned long long)h->file.bytes, 8 + HEADER_MIN);
    err_t e = file_read(&h->file, 0, head, 8, h->pull.why);
    if (e) return e;
    for (int i = 0; i < 8; i++)
        len |= (uint64_t)head[i] << (8 * i);
    if (len < HEADER_MIN || len > HEADER_MAX)
        return pull_fail(&h->pull, "its header has %llu bytes, allowed %d to %d",
                         (unsigned long long)len, HEADER_MIN, HEADER_MAX);
    if (len > h->file.bytes - 8)
        return pull_fail(&h->pull, "its header has %llu bytes, the file ends after %llu",
                         (unsigned long long)len, (unsigned long long)(h->file.bytes - 8));
    h->pull.text = h->text = malloc(len);
    if (!h->text)
        return err_say(h->pull.why, ERR_MEMORY, "%s: no memory for its header",
                       file_tail(h->file.path));
    h->pull.len = len;
    if ((e = file_read(&h->file, 8, h->text, len, h->pull.why))) return e;
    if ((e = header(h))) return e;
    return check_cover(h);
}

err_t safetensors_read(const char *path, const struct safetensors_sink *sink, struct sha256 *sha,
                       uint64_t *file_bytes, struct err_text *why)
{
    struct header h = {
        .pull = {.path = path, .part = "its header", .why = why}, .sorted = true, .sink = sink};
    err_t e = file_open(path, &h.file, why);
    if (e) return e;
    e = load(&h);
    if (!e) {
        sha256_add(sha, h.text, h.pull.len);
        e = file_add_samples(&h.file, 8 + h.pull.len, SAFETENSORS_SAMPLES, sha, why);
    }
    if (!e) *file_bytes = h.file.bytes;
    file_close(&h.file);
    free(h.text);
    free(h.spans);
    return e;
}
