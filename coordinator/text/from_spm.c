// tokenizer.model, SentencePiece's own format: a protobuf message (sentencepiece_model.proto of
// https://github.com/google/sentencepiece), of which few fields matter; the reader is here.
#include "coordinator/text/vocab.h"

#include <stdlib.h>
#include <string.h>

static const char file[] = "tokenizer.model";

// A message, or what is left of it.
struct wire {
    const uint8_t *at, *end;
};
// One field. Numbers are in `number`, the rest in `bytes`.
struct field {
    uint32_t id, type;
    uint64_t number;
    struct wire bytes;
};
enum { TYPE_VARINT = 0, TYPE_64 = 1, TYPE_BYTES = 2, TYPE_32 = 5 };

static bool read_varint(struct wire *w, uint64_t *out)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        uint8_t b = *w->at++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *out = v;
            return true;
        }
    }
    return false;
}

static bool read_fixed(struct wire *w, size_t n, uint64_t *out)
{
    if ((size_t)(w->end - w->at) < n) return false;
    *out = 0;
    for (size_t i = 0; i < n; i++)
        *out |= (uint64_t)w->at[i] << (8 * i);
    w->at += n;
    return true;
}

// False at the end and when the message is damaged (w->at is then before the end).
static bool read_field(struct wire *w, struct field *f)
{
    struct wire v = *w;
    uint64_t tag = 0, len = 0;
    if (v.at == v.end || !read_varint(&v, &tag) || tag >> 3 > UINT32_MAX) return false;
    *f = (struct field){.id = (uint32_t)(tag >> 3), .type = tag & 7};
    switch (f->type) {
    case TYPE_VARINT:
        if (!read_varint(&v, &f->number)) return false;
        break;
    case TYPE_64:
        if (!read_fixed(&v, 8, &f->number)) return false;
        break;
    case TYPE_32:
        if (!read_fixed(&v, 4, &f->number)) return false;
        break;
    case TYPE_BYTES:
        if (!read_varint(&v, &len) || len > (size_t)(v.end - v.at)) return false;
        f->bytes = (struct wire){v.at, v.at + len};
        v.at += len;
        break;
    default: // groups, which nobody writes
        return false;
    }
    *w = v;
    return true;
}

struct spm {
    struct tokenizer *t;
    const struct sidecar *config;
    struct err_text *why;
    struct arena mem;
    struct vocab_piece *pieces;
    int32_t n, n_own; // with and without the added ones
    int32_t bos, eos, unk;
    uint64_t model; // trainer_spec.model_type
    bool as_suffix, has_bytes;
    bool prefix, tight, escape;
    struct wire table;
};

static err_t damaged(struct spm *s)
{
    return err_say(s->why, ERR_MODEL, "%s: damaged, or not a SentencePiece model", file);
}

static err_t no_memory(struct spm *s)
{
    return err_say(s->why, ERR_MEMORY, "%s: out of memory", file);
}

// A negative id is "none".
static int32_t id_of(uint64_t v)
{
    return v < VOCAB_TOKENS_MAX ? (int32_t)v : -1;
}

static err_t read_trainer(struct spm *s, struct wire w)
{
    struct field f;
    while (read_field(&w, &f)) {
        if (f.type != TYPE_VARINT) continue;
        if (f.id == 3) s->model = f.number;
        if (f.id == 24) s->as_suffix = f.number;
        if (f.id == 35) s->has_bytes = f.number;
        if (f.id == 40) s->unk = id_of(f.number);
        if (f.id == 41) s->bos = id_of(f.number);
        if (f.id == 42) s->eos = id_of(f.number);
    }
    return w.at == w.end ? OK : damaged(s);
}

static err_t read_normalizer(struct spm *s, struct wire w)
{
    struct field f;
    while (read_field(&w, &f)) {
        if (f.id == 2 && f.type == TYPE_BYTES) s->table = f.bytes;
        if (f.type != TYPE_VARINT) continue;
        if (f.id == 3) s->prefix = f.number;
        if (f.id == 4) s->tight = f.number;
        if (f.id == 5) s->escape = f.number;
    }
    return w.at == w.end ? OK : damaged(s);
}

static err_t make_piece(struct spm *s, int32_t id, const char *text, size_t len, uint64_t type)
{
    struct vocab_piece *p = &s->pieces[id];
    int byte = vocab_byte_name(text, len);
    if (len > VOCAB_PIECE_MAX || type < VOCAB_NORMAL || type > VOCAB_BYTE)
        return err_say(s->why, ERR_MODEL, "%s: piece %d has %zu bytes and type %llu", file, id, len,
                       (unsigned long long)type);
    char *room = arena_take(&s->mem, len + 1);
    if (!room) return no_memory(s);
    size_t n = len;
    p->type = len ? (uint8_t)type : 0;
    if (type == VOCAB_BYTE) {
        if (byte < 0)
            return err_say(s->why, ERR_MODEL, "%s: byte piece %d is not <0xNN>", file, id);
        room[0] = (char)byte;
        n = 1;
        s->t->bytes[byte] = id;
    } else if (type == VOCAB_CONTROL || type == VOCAB_UNKNOWN) {
        if (len) memcpy(room, text, len);
    } else {
        n = vocab_marks(text, len, room);
        bool find = type == VOCAB_NORMAL || (type == VOCAB_USER && s->t->kind == VOCAB_UNIGRAM);
        if (find) p->flags = VOCAB_FIND;
    }
    p->s = p->shown = room;
    p->len = p->n_shown = (uint32_t)n;
    return OK;
}

static err_t read_piece(struct spm *s, int32_t id, struct wire w)
{
    struct field f;
    struct wire text = {0};
    uint64_t type = VOCAB_NORMAL;
    float score = 0;
    while (read_field(&w, &f)) {
        if (f.id == 1 && f.type == TYPE_BYTES) text = f.bytes;
        if (f.id == 2 && f.type == TYPE_32) {
            uint32_t bits = (uint32_t)f.number;
            memcpy(&score, &bits, sizeof score);
        }
        if (f.id == 3 && f.type == TYPE_VARINT) type = f.number;
    }
    if (w.at != w.end) return damaged(s);
    s->pieces[id].score = (double)score;
    return make_piece(s, id, (const char *)text.at, (size_t)(text.end - text.at), type);
}

static err_t read_specs(struct spm *s, struct wire w)
{
    struct field f;
    err_t err = OK;
    while (!err && read_field(&w, &f)) {
        if (f.type != TYPE_BYTES) continue;
        if (f.id == 1 && ++s->n > VOCAB_TOKENS_MAX) return damaged(s);
        if (f.id == 2) err = read_trainer(s, f.bytes);
        if (f.id == 3) err = read_normalizer(s, f.bytes);
    }
    if (!err && (w.at != w.end || s->n == 0)) return damaged(s);
    s->n_own = s->n;
    return err;
}

static err_t settle(struct spm *s)
{
    struct tokenizer *t = s->t;
    if (s->model != 1 && s->model != 2)
        return err_say(s->why, ERR_MODEL,
                       "%s: model type %llu is not supported; 1 (unigram) and 2 (BPE) are", file,
                       (unsigned long long)s->model);
    if (s->as_suffix || !s->escape)
        return err_say(s->why, ERR_MODEL,
                       "%s: white space as a suffix, or not escaped, is not "
                       "supported",
                       file);
    t->kind = s->model == 1 ? VOCAB_UNIGRAM : VOCAB_SPM;
    t->spaces = t->user_inside = true;
    t->floats = true;
    t->add_space = t->strips_space = s->prefix;
    t->tight_spaces = s->tight;
    t->has_bytes = s->has_bytes;
    size_t n = (size_t)(s->table.end - s->table.at);
    if (n == 0) return OK;
    char *table = arena_copy_str(&t->mem, (const char *)s->table.at, n);
    t->norm = calloc(1, sizeof *t->norm);
    if (!table || !t->norm) return no_memory(s);
    if (!normalize_charsmap_ok(table, n))
        return err_say(s->why, ERR_MODEL, "%s: precompiled_charsmap is damaged", file);
    normalize_add(t->norm, &(struct normalize_step){
                               .kind = NORMALIZE_CHARSMAP, .what = table, .what_len = n});
    return OK;
}

// Added tokens are found in text as it came, wherever they stand.
static err_t put_added(struct spm *s)
{
    const struct sidecar *c = s->config;
    for (size_t i = 0; c && i < c->n_added; i++) {
        const struct sidecar_token *a = &c->added[i];
        if (a->id < s->n_own && s->pieces[a->id].type != VOCAB_NORMAL) continue;
        s->pieces[a->id] = (struct vocab_piece){
            .s = a->s,
            .shown = a->s,
            .len = (uint32_t)a->len,
            .n_shown = (uint32_t)a->len,
            .type = a->special ? VOCAB_CONTROL : VOCAB_USER,
            .flags = (uint8_t)(a->flags & ~VOCAB_NORMALIZED),
        };
    }
    return OK;
}

static err_t read_pieces(struct spm *s, struct wire w)
{
    struct field f;
    err_t err = OK;
    size_t n_added = s->config ? s->config->n_added : 0;
    for (size_t i = 0; i < n_added; i++)
        if (s->config->added[i].id >= s->n) s->n = s->config->added[i].id + 1;
    if ((size_t)s->n > 2 * ((size_t)s->n_own + n_added) + 4096)
        return err_say(s->why, ERR_MODEL, "%s: added ids up to %d, but only %d pieces", file,
                       s->n - 1, s->n_own);
    s->pieces = arena_take_n(&s->mem, (size_t)s->n, sizeof *s->pieces);
    if (!s->pieces) return no_memory(s);
    for (int32_t id = 0; !err && read_field(&w, &f);)
        if (f.id == 1 && f.type == TYPE_BYTES) err = read_piece(s, id++, f.bytes);
    if (!err) err = put_added(s);
    if (!err) err = vocab_build(s->t, s->pieces, s->n, file, s->why);
    return err ? err : vocab_scores(s->t, s->pieces, file, s->why);
}

static err_t set_facts(struct spm *s)
{
    struct tokenizer *t = s->t;
    t->bos = s->bos < t->n_token ? s->bos : -1;
    t->eos = s->eos < t->n_token ? s->eos : -1;
    t->unk = s->unk < t->n_token ? s->unk : -1;
    for (int i = 0; i < 256; i++) {
        if (!t->has_bytes || t->bytes[i] < 0) t->bytes[i] = t->unk;
        if (t->bytes[i] < 0)
            return err_say(s->why, ERR_MODEL, "%s: no piece for byte 0x%02X, and no unknown piece",
                           file, (unsigned)i);
    }
    return OK;
}

err_t from_spm(const char *data, size_t len, const struct sidecar *c, struct tokenizer *t,
               struct err_text *why)
{
    struct spm s = {.t = t,
                    .config = c,
                    .why = why,
                    .bos = 1,
                    .eos = 2,
                    .unk = 0,
                    .model = 1,
                    .prefix = true,
                    .tight = true,
                    .escape = true};
    struct wire w = {(const uint8_t *)data, (const uint8_t *)data + len};
    arena_init(&s.mem, 0);
    memset(t->bytes, 0xff, sizeof t->bytes);
    err_t err = read_specs(&s, w);
    if (!err) err = settle(&s);
    if (!err) err = read_pieces(&s, w);
    if (!err) err = set_facts(&s);
    arena_fini(&s.mem);
    return err;
}
