// The tokenizer in a GGUF's own metadata: tokenizer.ggml.model "gpt2" (byte-level BPE, with the
// pre-tokenisers that tokenizer.ggml.pre names) and "llama" (SentencePiece by score, "SPM").
#include "coordinator/text/vocab.h"

#include <stdlib.h>
#include <string.h>

struct load {
    const struct gguf *g;
    struct tokenizer *t;
    struct err_text *why;
    struct arena scratch; // gone when the tokenizer is open
    const struct gguf_str *tokens, *merges;
    const int32_t *types;
    const float *scores;
    uint64_t n_token, n_merge;
    struct vocab_piece *pieces;
};

static err_t no_memory(struct load *l)
{
    return err_say(l->why, ERR_MEMORY, "tokenizer: out of memory");
}

static err_t check_count(struct load *l, const char *key, err_t err, uint64_t n)
{
    if (err == ERR_NOT_FOUND || (!err && n == l->n_token)) return OK;
    if (err) return err;
    return err_say(l->why, ERR_MODEL, "%s: %llu values, but there are %llu tokens", key,
                   (unsigned long long)n, (unsigned long long)l->n_token);
}

static err_t read_arrays(struct load *l)
{
    static const char tokens[] = "tokenizer.ggml.tokens";
    static const char types[] = "tokenizer.ggml.token_type", scores[] = "tokenizer.ggml.scores";
    const struct gguf_kv *kv = gguf_find(l->g, tokens);
    uint64_t n = 0;
    if (!kv) return err_say(l->why, ERR_MODEL, "%s: missing", tokens);
    if (kv->n == 0 || kv->n > VOCAB_TOKENS_MAX)
        return err_say(l->why, ERR_MODEL, "%s: %llu tokens, 1 to %d are possible", tokens,
                       (unsigned long long)kv->n, VOCAB_TOKENS_MAX);
    err_t err = gguf_get_strs(l->g, tokens, &l->scratch, &l->tokens, &l->n_token, l->why);
    if (err) return err;
    l->pieces = arena_take_n(&l->scratch, l->n_token, sizeof *l->pieces);
    if (!l->pieces) return no_memory(l);
    err = gguf_get_i32s(l->g, types, &l->scratch, &l->types, &n, l->why);
    err = check_count(l, types, err, n);
    if (err) return err;
    err = gguf_get_f32s(l->g, scores, &l->scratch, &l->scores, &n, l->why);
    if (l->t->kind == VOCAB_SPM && err == ERR_NOT_FOUND)
        return err_say(l->why, ERR_MODEL, "%s: missing", scores);
    return check_count(l, scores, err, n);
}

static err_t read_token(struct load *l, uint64_t i)
{
    const struct gguf_str *s = &l->tokens[i];
    struct vocab_piece *p = &l->pieces[i];
    int type = l->types ? l->types[i] : VOCAB_NORMAL, byte = vocab_byte_name(s->s, s->len);
    bool spm = l->t->kind == VOCAB_SPM;
    size_t n = s->len;
    if (s->len == 0 || s->len > VOCAB_PIECE_MAX)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.tokens: token %llu has %llu bytes",
                       (unsigned long long)i, (unsigned long long)s->len);
    if (type < 0 || type > VOCAB_BYTE)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.token_type: token %llu has type %d",
                       (unsigned long long)i, type);
    char *out = arena_take(&l->scratch, s->len);
    if (!out) return no_memory(l);
    *p = (struct vocab_piece){.type = (uint8_t)(type ? type : VOCAB_NORMAL)};
    if (l->scores) p->score = (double)l->scores[i];
    if (p->type == VOCAB_BYTE && spm) {
        if (byte < 0)
            return err_say(l->why, ERR_MODEL,
                           "tokenizer.ggml.tokens: byte token %llu is not <0xNN>",
                           (unsigned long long)i);
        out[0] = (char)byte;
        n = 1;
        l->t->bytes[byte] = (int32_t)i;
    } else if (p->type == VOCAB_NORMAL && spm) {
        n = vocab_marks(s->s, s->len, out);
        p->flags = VOCAB_FIND;
    } else if (p->type == VOCAB_NORMAL && vocab_letters(s->s, s->len, out, &n)) {
        p->flags = VOCAB_FIND;
        if (n == 1) l->t->bytes[(unsigned char)out[0]] = (int32_t)i;
    } else {
        memcpy(out, s->s, n = s->len);
    }
    p->s = p->shown = out;
    p->len = p->n_shown = (uint32_t)n;
    return OK;
}

static err_t read_tokens(struct load *l)
{
    memset(l->t->bytes, 0xff, sizeof l->t->bytes);
    for (uint64_t i = 0; i < l->n_token; i++) {
        err_t err = read_token(l, i);
        if (err) return err;
    }
    return vocab_build(l->t, l->pieces, (int32_t)l->n_token, "tokenizer.ggml.tokens", l->why);
}

static err_t read_merge(struct load *l, uint64_t i, char *text)
{
    struct tokenizer *t = l->t;
    const struct gguf_str *s = &l->merges[i];
    const char *gap = s->len > 2 ? memchr(s->s + 1, ' ', s->len - 1) : NULL;
    size_t n_left = 0, n_right = 0;
    if (!gap || s->len > 2 * VOCAB_PIECE_MAX)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.merges: merge %llu is not two pieces",
                       (unsigned long long)i);
    size_t split = (size_t)(gap - s->s);
    int32_t left = -1, right = -1, both = -1;
    if (vocab_letters(s->s, split, text, &n_left) &&
        vocab_letters(gap + 1, s->len - split - 1, text + n_left, &n_right)) {
        left = vocab_find(t, text, n_left);
        right = vocab_find(t, text + n_left, n_right);
        both = vocab_find(t, text, n_left + n_right);
    }
    if (left < 0 || right < 0 || both < 0)
        return err_say(l->why, ERR_MODEL,
                       "tokenizer.ggml.merges: merge %llu, '%.*s', has an unknown piece",
                       (unsigned long long)i, s->len > 60 ? 60 : (int)s->len, s->s);
    vocab_merge_add(t, left, right, both, (int32_t)i);
    return OK;
}

static err_t read_merges(struct load *l)
{
    static const char key[] = "tokenizer.ggml.merges";
    const struct gguf_kv *kv = gguf_find(l->g, key);
    if (!kv) return err_say(l->why, ERR_MODEL, "%s: missing", key);
    if (kv->n > 4 * (uint64_t)VOCAB_TOKENS_MAX)
        return err_say(l->why, ERR_MODEL, "%s: too many", key);
    err_t err = gguf_get_strs(l->g, key, &l->scratch, &l->merges, &l->n_merge, l->why);
    if (err) return err;
    char *text = arena_take(&l->scratch, 2 * VOCAB_PIECE_MAX);
    if (!text || !vocab_merges_room(l->t, l->n_merge)) return no_memory(l);
    for (uint64_t i = 0; !err && i < l->n_merge; i++)
        err = read_merge(l, i, text);
    return err;
}

// Bytes without a token of their own become the unknown token. In BPE that may be missing too: some
// vocabularies lack the bytes that no UTF-8 contains, and encoding those is an error.
static err_t check_bytes(struct load *l)
{
    for (int i = 0; i < 256; i++) {
        if (l->t->bytes[i] < 0) l->t->bytes[i] = l->t->unk;
        if (l->t->bytes[i] < 0 && l->t->kind == VOCAB_SPM)
            return err_say(
                l->why, ERR_MODEL,
                "tokenizer.ggml.tokens: no token for byte 0x%02X and no unknown_token_id",
                (unsigned)i);
    }
    return OK;
}

static err_t read_id(struct load *l, const char *key, int32_t *out)
{
    uint32_t id;
    *out = -1;
    err_t err = gguf_get_u32(l->g, key, &id, l->why);
    if (err == ERR_NOT_FOUND) return OK;
    if (err) return err;
    if (id >= l->n_token)
        return err_say(l->why, ERR_MODEL, "%s: %u, but there are %llu tokens", key, id,
                       (unsigned long long)l->n_token);
    *out = (int32_t)id;
    return OK;
}

static err_t read_bool(struct load *l, const char *key, bool *out)
{
    err_t err = gguf_get_bool(l->g, key, out, l->why);
    return err == ERR_NOT_FOUND ? OK : err;
}

static err_t read_metadata(struct load *l)
{
    struct tokenizer *t = l->t;
    int32_t eot, eom;
    err_t err = read_id(l, "tokenizer.ggml.bos_token_id", &t->bos);
    if (!err) err = read_id(l, "tokenizer.ggml.eos_token_id", &t->eos);
    if (!err) err = read_id(l, "tokenizer.ggml.unknown_token_id", &t->unk);
    if (!err) err = read_id(l, "tokenizer.ggml.eot_token_id", &eot);
    if (!err) err = read_id(l, "tokenizer.ggml.eom_token_id", &eom);
    if (!err) err = read_bool(l, "tokenizer.ggml.add_bos_token", &t->add_bos);
    if (!err) err = read_bool(l, "tokenizer.ggml.add_eos_token", &t->add_eos);
    if (!err) err = read_bool(l, "tokenizer.ggml.add_space_prefix", &t->add_space);
    if (err) return err;
    if (t->add_bos && t->bos < 0 && gguf_find(l->g, "tokenizer.ggml.add_bos_token"))
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.bos_token_id: missing, but wanted");
    if (t->add_eos && t->eos < 0)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.eos_token_id: missing, but wanted");
    if (eot >= 0 && eot < t->n_token) t->tokens[eot].ends = true;
    if (eom >= 0 && eom < t->n_token) t->tokens[eom].ends = true;
    return OK;
}

static err_t open_kind(const struct gguf *g, struct tokenizer *t, struct err_text *why)
{
    struct gguf_str model, pre = {"default", 7};
    err_t err = gguf_get_str(g, "tokenizer.ggml.model", &model, why);
    if (err == ERR_NOT_FOUND) return err_say(why, ERR_MODEL, "tokenizer.ggml.model: missing");
    if (err) return err;
    if (model.len == 5 && memcmp(model.s, "llama", 5) == 0) {
        t->kind = VOCAB_SPM;
        t->add_bos = t->add_space = true;
        return OK;
    }
    if (model.len != 4 || memcmp(model.s, "gpt2", 4) != 0)
        return err_say(why, ERR_MODEL, "tokenizer.ggml.model: '%.*s' is not supported",
                       model.len > 60 ? 60 : (int)model.len, model.s);
    t->kind = VOCAB_BPE;
    err = gguf_get_str(g, "tokenizer.ggml.pre", &pre, why);
    if (err && err != ERR_NOT_FOUND) return err;
    return pretokenize_open(pre.s, pre.len, &t->pre, &t->ignore_merges, &t->add_bos, why);
}

err_t from_gguf(const struct gguf *g, struct tokenizer *t, struct err_text *why)
{
    struct load l = {.g = g, .t = t, .why = why};
    arena_init(&l.scratch, 0);
    err_t err = open_kind(g, t, why);
    if (!err) err = read_arrays(&l);
    if (!err) err = read_tokens(&l);
    if (!err && t->kind == VOCAB_BPE) err = read_merges(&l);
    if (!err && t->kind == VOCAB_SPM) err = vocab_scores(t, l.pieces, "tokenizer.ggml.scores", why);
    if (!err) err = read_metadata(&l);
    if (!err) err = check_bytes(&l);
    t->spaces = t->kind == VOCAB_SPM;
    t->strips_space = t->spaces && t->add_space;
    arena_fini(&l.scratch);
    return err;
}
