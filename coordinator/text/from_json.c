// tokenizer.json, the format of the `tokenizers` library
// (https://huggingface.co/docs/tokenizers/components): vocabulary, merges and added tokens here,
// the steps before and after in json_steps.c.
#include "coordinator/text/from_json.h"

#include <stdlib.h>
#include <string.h>

static const char file[] = "tokenizer.json";

static err_t no_memory(struct json_load *l)
{
    return err_say(l->why, ERR_MEMORY, "%s: out of memory", file);
}

// --- the parts --------------------------------------------------------------------------------

struct part {
    const char *key;
    struct scan_str *text;
};

static err_t read_parts(struct json_load *l, const struct part *parts, size_t n)
{
    struct scan_str key, value;
    bool first = true;
    while (scan_key(&l->scan, &first, &key) && scan_skip(&l->scan, &value))
        for (size_t i = 0; i < n; i++)
            if (scan_key_is(&key, parts[i].key)) *parts[i].text = value;
    return l->scan.err;
}

static void go_to(struct json_load *l, const struct scan_str *text)
{
    l->scan.at = text->s;
    l->scan.end = text->s + text->len;
}

static err_t find_parts(struct json_load *l, const char *data, size_t len)
{
    const struct part top[] = {{"model", &l->model},         {"added_tokens", &l->added},
                               {"normalizer", &l->norm},     {"pre_tokenizer", &l->pre},
                               {"post_processor", &l->post}, {"decoder", &l->decoder}};
    const struct part inner[] = {{"type", &l->type},
                                 {"vocab", &l->vocab},
                                 {"merges", &l->merges},
                                 {"unk_token", &l->unk_token},
                                 {"unk_id", &l->unk_id},
                                 {"byte_fallback", &l->byte_fallback},
                                 {"fuse_unk", &l->fuse_unk},
                                 {"ignore_merges", &l->ignore_merges},
                                 {"continuing_subword_prefix", &l->subword_prefix},
                                 {"end_of_word_suffix", &l->word_suffix}};
    l->scan = (struct scan){
        .begin = data, .at = data, .end = data + len, .file = file, .mem = &l->mem, .why = l->why};
    err_t err = read_parts(l, top, sizeof top / sizeof *top);
    if (err) return err;
    if (scan_peek(&l->scan)) return scan_fail(&l->scan, "something follows the object");
    if (!l->model.s) return err_say(l->why, ERR_MODEL, "%s: model: missing", file);
    go_to(l, &l->model);
    return read_parts(l, inner, sizeof inner / sizeof *inner);
}

static bool is_true(const struct scan_str *s)
{
    return s->len == 4 && memcmp(s->s, "true", 4) == 0;
}

static bool is_given(const struct scan_str *s)
{
    return s->s && !(s->len == 4 && memcmp(s->s, "null", 4) == 0) &&
           !(s->len == 2 && memcmp(s->s, "\"\"", 2) == 0);
}

static err_t read_kind(struct json_load *l)
{
    struct tokenizer *t = l->t;
    struct scan_str name = {"BPE", 3}; // older files do not say
    if (l->type.s) {
        go_to(l, &l->type);
        if (!scan_string(&l->scan, &name)) return l->scan.err;
    }
    if (scan_key_is(&name, "BPE"))
        t->kind = VOCAB_BPE;
    else if (scan_key_is(&name, "Unigram"))
        t->kind = VOCAB_UNIGRAM;
    else
        return err_say(l->why, ERR_MODEL,
                       "%s: model.type: '%.*s'; only BPE and Unigram are "
                       "supported",
                       file, name.len > 40 ? 40 : (int)name.len, name.s);
    if (is_given(&l->subword_prefix) || is_given(&l->word_suffix))
        return err_say(l->why, ERR_MODEL,
                       "%s: model: continuing_subword_prefix and end_of_word_suffix are not "
                       "supported",
                       file);
    t->has_bytes = is_true(&l->byte_fallback);
    t->fuse_unk = is_true(&l->fuse_unk) || t->kind == VOCAB_UNIGRAM;
    t->ignore_merges = is_true(&l->ignore_merges);
    t->drops_unknown = t->kind == VOCAB_BPE;
    return OK;
}

// --- the vocabulary ---------------------------------------------------------------------------

struct entry {
    struct scan_str text;
    double score;
    int32_t id;
};

static bool add_entry(struct json_load *l, struct buf *list, struct entry e)
{
    buf_add(list, &e, sizeof e);
    if (!buf_ok(list)) l->scan.err = no_memory(l);
    if (e.id >= VOCAB_TOKENS_MAX) scan_fail(&l->scan, "the id is too large");
    if (e.id >= l->n) l->n = e.id + 1;
    l->n_entry++;
    return !l->scan.err;
}

// {"text": id} of BPE, [["text", score]] of Unigram.
static err_t read_entries(struct json_load *l, struct buf *list)
{
    struct entry e = {0};
    bool first = true;
    if (!l->vocab.s) return err_say(l->why, ERR_MODEL, "%s: model.vocab: missing", file);
    go_to(l, &l->vocab);
    if (l->t->kind == VOCAB_BPE) {
        while (scan_key(&l->scan, &first, &e.text) && scan_id(&l->scan, &e.id) &&
               add_entry(l, list, e))
            ;
        return l->scan.err;
    }
    while (scan_next(&l->scan, '[', &first)) {
        bool inner = true;
        bool ok = scan_next(&l->scan, '[', &inner) && scan_string(&l->scan, &e.text) &&
                  scan_next(&l->scan, '[', &inner) && scan_number(&l->scan, &e.score);
        if (!ok || scan_next(&l->scan, '[', &inner) || l->scan.err)
            return scan_fail(&l->scan, "a piece and its score are expected");
        if (!add_entry(l, list, e)) break;
        e.id++;
    }
    return l->scan.err;
}

static err_t read_added(struct json_load *l)
{
    const struct json *list = NULL;
    size_t n = 0, n_more = l->config ? l->config->n_added : 0;
    if (l->added.s && scan_tree(&l->scan, &l->added, &list) && list->kind == J_ARR) n = list->arr.n;
    if (l->scan.err) return l->scan.err;
    l->tokens = arena_take_n(&l->mem, n + n_more, sizeof *l->tokens);
    if (!l->tokens) return no_memory(l);
    for (size_t i = 0; i < n; i++) {
        err_t err = sidecar_token_read(&list->arr.items[i], -1, &l->tokens[l->n_added], l->why);
        if (err) return err;
        l->n_added++;
    }
    // tokenizer_config.json may know more; where both speak, this file counts.
    for (size_t i = 0; i < n_more; i++) {
        const struct sidecar_token *c = &l->config->added[i];
        bool known = false;
        for (size_t k = 0; k < n && !known; k++)
            known = l->tokens[k].id == c->id ||
                    (l->tokens[k].len == c->len && memcmp(l->tokens[k].s, c->s, c->len) == 0);
        if (!known) l->tokens[l->n_added++] = *c;
    }
    for (size_t i = 0; i < l->n_added; i++)
        if (l->tokens[i].id >= l->n) l->n = l->tokens[i].id + 1;
    return OK;
}

// The bytes that a piece is in running text.
static void show(struct json_load *l, struct vocab_piece *p, char *room)
{
    size_t n = p->len;
    int byte = vocab_byte_name(p->s, p->len);
    p->shown = p->s;
    p->n_shown = p->len;
    if (l->by_letters) {
        if (!vocab_letters(p->s, p->len, room, &n)) return;
    } else if (l->shows_bytes && byte >= 0) {
        room[0] = (char)byte;
        n = 1;
    } else if (l->shows_marks && memmem(p->s, p->len, "\xe2\x96\x81", 3)) {
        n = vocab_marks(p->s, p->len, room);
    } else {
        return;
    }
    p->shown = room;
    p->n_shown = (uint32_t)n;
}

static err_t put_entry(struct json_load *l, const struct entry *e)
{
    struct vocab_piece *p = &l->pieces[e->id];
    int byte = vocab_byte_name(e->text.s, e->text.len);
    if (e->text.len > VOCAB_PIECE_MAX)
        return err_say(l->why, ERR_MODEL, "%s: token %d has %zu bytes", file, e->id, e->text.len);
    char *room = arena_take(&l->mem, e->text.len);
    if (!room) return no_memory(l);
    *p = (struct vocab_piece){.s = e->text.s,
                              .len = (uint32_t)e->text.len,
                              .score = e->score,
                              .type = e->text.len ? VOCAB_NORMAL : 0};
    show(l, p, room);
    if (l->by_letters) {
        // Text can only become what is spelled in letters.
        if (p->shown == room) p->flags = VOCAB_FIND;
        p->s = p->shown;
        p->len = p->n_shown;
        if (p->flags && p->len == 1) l->t->bytes[(unsigned char)p->s[0]] = e->id;
    } else if (l->t->has_bytes && byte >= 0) {
        p->type = VOCAB_BYTE;
        l->t->bytes[byte] = e->id;
    } else {
        p->flags = VOCAB_FIND;
    }
    return OK;
}

static err_t put_added(struct json_load *l, const struct sidecar_token *c)
{
    struct tokenizer *t = l->t;
    struct vocab_piece *p = &l->pieces[c->id];
    uint8_t find = p->flags & VOCAB_FIND;
    char *room = arena_take(&l->mem, c->len);
    const char *s = c->s;
    size_t len = c->len;
    if (len > VOCAB_SPECIAL_MAX)
        return err_say(l->why, ERR_MODEL, "%s: added token %d has %zu bytes", file, c->id, len);
    if (c->flags & VOCAB_NORMALIZED && t->norm) {
        struct normal made = {0};
        struct regex_work work = {0};
        err_t err = normalize_run(t->norm, &work, c->s, c->len, &made);
        s = err ? NULL
                : arena_copy_str(&l->mem, made.text.data ? made.text.data : "",
                                 len = made.text.len);
        regex_work_fini(&work);
        normal_fini(&made);
        if (err) return err_say(l->why, err, "%s: added token %d: %s", file, c->id, err_name(err));
        if (len && c->special) t->norm->keeps_origin = true;
    }
    if (!room || !s) return no_memory(l);
    struct vocab_piece made = {.s = c->s, .len = (uint32_t)c->len, .score = p->score};
    show(l, &made, room);
    // What merges make of text is the piece of the vocabulary; only if both are spelled alike can
    // the token keep that.
    bool alike = find && p->len == len && memcmp(p->s, s, len) == 0;
    made.s = s;
    made.len = (uint32_t)len;
    made.type = c->special ? VOCAB_CONTROL : VOCAB_USER;
    made.flags = c->flags | (alike && !c->special ? VOCAB_FIND : 0);
    *p = made;
    return OK;
}

static err_t read_vocab(struct json_load *l)
{
    struct buf list = {0};
    err_t err = read_entries(l, &list);
    if (!err) err = read_added(l);
    // Ids are nearly dense, so that a small file cannot ask for a large table.
    if (!err && (uint64_t)l->n > 2 * (uint64_t)(l->n_entry + l->n_added) + 4096)
        err = err_say(l->why, ERR_MODEL, "%s: ids up to %d, but only %zu tokens", file, l->n - 1,
                      l->n_entry + l->n_added);
    if (!err && l->n == 0) err = err_say(l->why, ERR_MODEL, "%s: model.vocab is empty", file);
    if (!err) l->pieces = arena_take_n(&l->mem, (size_t)l->n, sizeof *l->pieces);
    if (!err && !l->pieces) err = no_memory(l);
    const struct entry *e = (const struct entry *)list.data;
    for (size_t i = 0; !err && i < l->n_entry; i++)
        err = put_entry(l, &e[i]);
    for (size_t i = 0; !err && i < l->n_added; i++)
        err = put_added(l, &l->tokens[i]);
    buf_fini(&list);
    return err ? err : vocab_build(l->t, l->pieces, l->n, file, l->why);
}

// --- merges -----------------------------------------------------------------------------------

static int32_t find_piece(struct json_load *l, const char *s, size_t len, char *room, size_t *n)
{
    *n = len;
    if (l->by_letters && !vocab_letters(s, len, room, n)) return -1;
    if (!l->by_letters) memcpy(room, s, len);
    return vocab_find(l->t, room, *n);
}

// "a b", or ["a", "b"].
static bool read_pair(struct json_load *l, struct scan_str *left, struct scan_str *right)
{
    bool first = true;
    if (scan_peek(&l->scan) == '[') {
        bool ok = scan_next(&l->scan, '[', &first) && scan_string(&l->scan, left) &&
                  scan_next(&l->scan, '[', &first) && scan_string(&l->scan, right);
        if (!ok || scan_next(&l->scan, '[', &first))
            return scan_fail(&l->scan, "two pieces are expected") == OK;
        return !l->scan.err;
    }
    struct scan_str both;
    if (!scan_string(&l->scan, &both)) return false;
    const char *gap = both.len > 2 ? memchr(both.s + 1, ' ', both.len - 1) : NULL;
    if (!gap) return scan_fail(&l->scan, "two pieces are expected") == OK;
    *left = (struct scan_str){both.s, (size_t)(gap - both.s)};
    *right = (struct scan_str){gap + 1, both.len - left->len - 1};
    return true;
}

static err_t read_merge(struct json_load *l, int32_t rank, char *room)
{
    struct scan_str a, b;
    size_t n_a, n_b;
    if (!read_pair(l, &a, &b)) return l->scan.err;
    if (a.len > VOCAB_PIECE_MAX || b.len > VOCAB_PIECE_MAX)
        return scan_fail(&l->scan, "a piece of a merge is too long");
    int32_t left = find_piece(l, a.s, a.len, room, &n_a);
    int32_t right = find_piece(l, b.s, b.len, room + n_a, &n_b);
    int32_t both = vocab_find(l->t, room, n_a + n_b);
    if (left < 0 || right < 0 || both < 0)
        return err_say(l->why, ERR_MODEL, "%s: merge %d, '%.*s' and '%.*s', has an unknown piece",
                       file, rank, a.len > 40 ? 40 : (int)a.len, a.s, b.len > 40 ? 40 : (int)b.len,
                       b.s);
    vocab_merge_add(l->t, left, right, both, rank);
    return OK;
}

static err_t read_merges(struct json_load *l)
{
    uint64_t n = 0;
    bool first = true;
    char *room = arena_take(&l->mem, 2 * VOCAB_PIECE_MAX);
    struct scan_str skipped;
    if (!room) return no_memory(l);
    if (!l->merges.s) return err_say(l->why, ERR_MODEL, "%s: model.merges: missing", file);
    go_to(l, &l->merges);
    while (scan_next(&l->scan, '[', &first) && scan_skip(&l->scan, &skipped))
        n++;
    if (l->scan.err) return l->scan.err;
    if (!vocab_merges_room(l->t, n)) return no_memory(l);
    go_to(l, &l->merges);
    first = true;
    err_t err = OK;
    for (int32_t i = 0; !err && scan_next(&l->scan, '[', &first); i++)
        err = read_merge(l, i, room);
    return err ? err : l->scan.err;
}

// --- the rest ---------------------------------------------------------------------------------

static err_t read_unk(struct json_load *l)
{
    struct tokenizer *t = l->t;
    struct scan_str name;
    if (is_given(&l->unk_id)) {
        go_to(l, &l->unk_id);
        if (!scan_id(&l->scan, &t->unk)) return l->scan.err;
    }
    if (t->kind == VOCAB_BPE && is_given(&l->unk_token)) {
        go_to(l, &l->unk_token);
        if (!scan_string(&l->scan, &name)) return l->scan.err;
        t->unk = vocab_spelled(t, name.s, name.len);
        if (t->unk < 0)
            return err_say(l->why, ERR_MODEL, "%s: model.unk_token: '%.*s' is no token", file,
                           name.len > 40 ? 40 : (int)name.len, name.s);
    }
    if (t->unk >= t->n_token)
        return err_say(l->why, ERR_MODEL, "%s: model.unk_id: %d, but there are %d tokens", file,
                       t->unk, t->n_token);
    return OK;
}

err_t from_json(const char *data, size_t len, const struct sidecar *c, struct tokenizer *t,
                struct err_text *why)
{
    struct json_load l = {.t = t, .config = c, .why = why};
    arena_init(&l.mem, 0);
    memset(t->bytes, 0xff, sizeof t->bytes);
    err_t err = find_parts(&l, data, len);
    if (!err) err = read_kind(&l);
    if (!err) err = json_steps(&l);
    if (!err) t->by_chars = !l.by_letters;
    if (!err) err = read_vocab(&l);
    if (!err) err = t->kind == VOCAB_BPE ? read_merges(&l) : vocab_scores(t, l.pieces, file, why);
    if (!err) err = read_unk(&l);
    if (!err) err = json_frame(&l);
    arena_fini(&l.mem);
    return err;
}
