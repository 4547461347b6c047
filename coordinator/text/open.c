// Which of the files at hand makes the tokenizer, and what the small files beside it add.
#include "coordinator/text/scan.h"
#include "coordinator/text/vocab.h"
#include "topology/model.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 256 << 20 };

static struct tokenizer *new_tokenizer(int32_t n_max)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    arena_init(&t->mem, 0);
    t->bos = t->eos = t->unk = -1;
    t->n_max = n_max;
    return t;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t) return;
    pretokenize_close(t->pre);
    normalize_close(t->norm);
    arena_fini(&t->mem);
    free(t);
}

// What all have in common once they are loaded.
static void settle(struct tokenizer *t)
{
    if (t->bos >= t->n_token) t->bos = -1;
    if (t->eos >= t->n_token) t->eos = -1;
    if (!t->add_bos) t->n_before = 0;
    if (!t->add_eos) t->n_after = 0;
    if (t->add_bos && t->n_before == 0 && t->bos >= 0) t->before[t->n_before++] = t->bos;
    if (t->add_eos && t->n_after == 0 && t->eos >= 0) t->after[t->n_after++] = t->eos;
    vocab_find_ends(t);
    if (t->eos >= 0) t->tokens[t->eos].ends = true;
}

// --- GGUF -------------------------------------------------------------------------------------

static err_t open_gguf(const struct gguf *g, int32_t n_max, struct tokenizer **out,
                       struct err_text *why)
{
    struct tokenizer *t = new_tokenizer(n_max);
    if (!t) return err_say(why, ERR_MEMORY, "tokenizer: out of memory");
    err_t err = from_gguf(g, t, why);
    if (err) {
        tokenizer_close(t);
        return err;
    }
    settle(t);
    *out = t;
    return OK;
}

err_t tokenizer_open(const struct gguf *g, struct tokenizer **out, struct err_text *why)
{
    return open_gguf(g, 0, out, why);
}

// --- Hugging Face directories -----------------------------------------------------------------

static int32_t token_of(const struct tokenizer *t, const struct json *name, int32_t otherwise)
{
    if (!name) return otherwise;
    int32_t id = vocab_spelled(t, name->str.s, name->str.len);
    return id >= 0 ? id : otherwise;
}

static void use_config(struct tokenizer *t, const struct sidecar *c, bool is_json)
{
    t->bos = token_of(t, c->bos, t->bos >= 0 ? t->bos : c->bos_id);
    t->eos = token_of(t, c->eos, t->eos >= 0 ? t->eos : c->eos_id);
    if (t->unk < 0) t->unk = token_of(t, c->unk, -1);
    // tokenizer.json says in its post_processor what stands around a text; the configuration may
    // say otherwise. SentencePiece's file says nothing of it.
    if (is_json) {
        t->add_bos = t->n_before > 0;
        t->add_eos = t->n_after > 0;
    } else {
        t->add_bos |= c->adds_bos_by_class || !c->tokenizer;
    }
    if (c->add_bos >= 0) t->add_bos = c->add_bos;
    if (c->add_eos >= 0) t->add_eos = c->add_eos;
    for (int i = 0; i < c->n_end; i++)
        if (c->ends[i] < t->n_token) t->tokens[c->ends[i]].ends = true;
}

// The first of the three that is there.
static err_t load_dir(const char *dir, const struct sidecar *c, struct tokenizer *t,
                      struct err_text *why)
{
    struct buf data = {0};
    bool is_json = true;
    err_t err = scan_file(dir, "tokenizer.json", FILE_MAX, &data, why);
    if (err != ERR_NOT_FOUND) {
        if (!err) err = from_json(data.data, data.len, c, t, why);
    } else if ((err = scan_file(dir, "tekken.json", FILE_MAX, &data, why)) != ERR_NOT_FOUND) {
        is_json = false;
        if (!err) err = from_tekken(data.data, data.len, t, why);
    } else if ((err = scan_file(dir, "tokenizer.model", FILE_MAX, &data, why)) != ERR_NOT_FOUND) {
        is_json = false;
        if (!err) err = from_spm(data.data, data.len, c, t, why);
    } else {
        err = err_say(why, ERR_MODEL, "%s: no tokenizer.json, tekken.json or tokenizer.model in it",
                      dir);
    }
    buf_fini(&data);
    if (!err) use_config(t, c, is_json);
    return err;
}

err_t tokenizer_open_dir(const char *dir, int32_t n_max, struct tokenizer **out,
                         struct err_text *why)
{
    struct sidecar c;
    struct tokenizer *t = new_tokenizer(n_max);
    if (!t) return err_say(why, ERR_MEMORY, "tokenizer: out of memory");
    err_t err = sidecar_open(dir, &c, why);
    if (!err) err = load_dir(dir, &c, t, why);
    sidecar_fini(&c);
    if (err) {
        tokenizer_close(t);
        return err;
    }
    settle(t);
    *out = t;
    return OK;
}

// --- no files ---------------------------------------------------------------------------------

// shape:NAME has weights of chance and no vocabulary: bytes are its tokens, the other ids give
// nothing.
static err_t open_bytes(const struct model *m, struct tokenizer **out, struct err_text *why)
{
    struct vocab_piece pieces[256] = {0};
    char text[256];
    if (m->shape.n_vocab < 256)
        return err_say(why, ERR_MODEL, "%s: %d ids are too few for bytes", m->path,
                       m->shape.n_vocab);
    struct tokenizer *t = new_tokenizer(0);
    if (!t) return err_say(why, ERR_MEMORY, "tokenizer: out of memory");
    for (int i = 0; i < 256; i++) {
        text[i] = (char)i;
        pieces[i] = (struct vocab_piece){.s = text + i,
                                         .shown = text + i,
                                         .len = 1,
                                         .n_shown = 1,
                                         .type = VOCAB_NORMAL,
                                         .flags = VOCAB_FIND};
        t->bytes[i] = i;
    }
    err_t err = vocab_build(t, pieces, 256, m->path, why);
    if (!err && !vocab_merges_room(t, 0))
        err = err_say(why, ERR_MEMORY, "tokenizer: out of memory");
    if (err) {
        tokenizer_close(t);
        return err;
    }
    *out = t;
    return OK;
}

// --- a model ----------------------------------------------------------------------------------

err_t tokenizer_open_model(const struct model *m, struct tokenizer **out, struct err_text *why)
{
    if (m->text_dir) return tokenizer_open_dir(m->text_dir, m->shape.n_vocab, out, why);
    if (m->gguf) return open_gguf(m->gguf, m->shape.n_vocab, out, why);
    return open_bytes(m, out, why);
}
