// GGUF files into the table, whole or split (llama.cpp, tools/gguf-split): pieces are named
// STEM-00001-of-00003.gguf, piece i has split.no i - 1, and each has all of split.count and
// split.tensors.count.
#include "topology/tensors_build.h"

#include "topology/file.h"

#include <stdio.h>
#include <string.h>

enum { PIECES_MAX = TENSORS_FILES_MAX, SUFFIX_BYTES = 20 /* -00001-of-00003.gguf */ };

struct split {
    uint32_t no, count, n_tensor;
    bool has_total;
};

static err_t read_split(const struct gguf *g, struct split *out, struct err_text *why)
{
    struct split s = {.count = 1};
    err_t e = gguf_get_u32(g, "split.count", &s.count, why);
    if (e && e != ERR_NOT_FOUND) return e;
    e = gguf_get_u32(g, "split.no", &s.no, why);
    if (e && e != ERR_NOT_FOUND) return e;
    e = gguf_get_u32(g, "split.tensors.count", &s.n_tensor, why);
    if (e && e != ERR_NOT_FOUND) return e;
    s.has_total = !e;
    if (s.count == 0) s.count = 1;
    if (s.count > PIECES_MAX || s.no >= s.count)
        return err_say(why, ERR_MODEL,
                       "%s: piece %u of %u (split.no, split.count), allowed 0 to %d",
                       file_tail(gguf_path(g)), s.no, s.count, PIECES_MAX - 1);
    *out = s;
    return OK;
}

static err_t take(struct tensors_build *b, const struct gguf *g)
{
    err_t e = tensors_build_file(b, gguf_path(g), gguf_file_bytes(g));
    sha256_add(&b->sha, gguf_hash(g), 32);
    for (uint64_t i = 0; !e && i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *from = gguf_tensor_at(g, i);
        struct model_tensor t = {.dtype = from->dtype,
                                 .n_dim = from->n_dim,
                                 .offset = from->offset,
                                 .bytes = from->bytes};
        memcpy(t.shape, from->shape, sizeof t.shape);
        if (from->dtype == DT_NONE)
            return err_say(b->why, ERR_MODEL, "%s: tensor '%.*s': type %s, which no weight has",
                           file_tail(gguf_path(g)), (int)from->name.len, from->name.s,
                           dtype_ggml_name(from->ggml_type));
        e = tensors_build_tensor(b, from->name.s, from->name.len, &t);
    }
    return e;
}

// Piece `no` of the split whose piece `whole` is given. Number 0 stays open: the metadata is its.
static err_t take_piece(struct tensors_build *b, const char *path, uint32_t no,
                        const struct split *whole)
{
    struct gguf *g;
    struct split s;
    err_t e = gguf_open(path, &g, b->why);
    if (e) return e;
    e = read_split(g, &s, b->why);
    if (!e && (s.no != no || s.count != whole->count || s.n_tensor != whole->n_tensor))
        e = err_say(
            b->why, ERR_MODEL,
            "%s: says piece %u of %u with %u tensors in all, expected piece %u of %u with %u",
            file_tail(path), s.no, s.count, s.n_tensor, no, whole->count, whole->n_tensor);
    if (!e) e = take(b, g);
    if (!e && no == 0)
        b->t->gguf = g;
    else
        gguf_close(g);
    return e;
}

static err_t take_split(struct tensors_build *b, const struct split *whole)
{
    const char *path = b->t->path;
    char suffix[2 * SUFFIX_BYTES];
    const size_t len = strlen(path);
    snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", whole->no + 1, whole->count);
    if (len < strlen(suffix) || strcmp(path + len - strlen(suffix), suffix))
        return err_say(b->why, ERR_MODEL, "%s: is piece %u of %u, so its name should end in %s",
                       file_tail(path), whole->no + 1, whole->count, suffix);
    for (uint32_t i = 0; i < whole->count; i++) {
        char *piece = arena_printf(b->a, "%.*s-%05u-of-%05u.gguf", (int)(len - strlen(suffix)),
                                   path, i + 1, whole->count);
        if (!piece) return tensors_build_no_memory(b, path);
        err_t e = take_piece(b, piece, i, whole);
        if (e) return e;
    }
    if (whole->has_total && whole->n_tensor != (uint32_t)b->n)
        return err_say(b->why, ERR_MODEL,
                       "%s: key 'split.tensors.count': found %u, its %u pieces have %d",
                       file_tail(path), whole->n_tensor, whole->count, b->n);
    return OK;
}

err_t tensors_gguf(struct tensors_build *b)
{
    struct gguf *g;
    struct split s;
    err_t e = gguf_open(b->t->path, &g, b->why);
    if (e) return e;
    e = read_split(g, &s, b->why);
    if (!e && s.count == 1) {
        b->t->gguf = g;
        return take(b, g);
    }
    gguf_close(g);
    return e ? e : take_split(b, &s);
}
