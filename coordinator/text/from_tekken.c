// tekken.json, Mistral's own format: tiktoken's vocabulary (bytes in base64, in the order of their
// ranks) behind the special tokens (mistral-common, tekken.py).
#include "coordinator/text/from_json.h"

#include <stdlib.h>
#include <string.h>

enum { SPECIAL_MAX = 1 << 16 };
static const char file[] = "tekken.json";

struct tekken {
    struct tokenizer *t;
    struct err_text *why;
    struct scan scan;
    struct arena mem;
    struct scan_str config, vocab, special;
    struct scan_str pattern;
    int32_t n_vocab, n_special;
    struct vocab_piece *pieces;
    int32_t *ranks; // of each id; -1: special
};

// Versions before v7 do not write down which special tokens there are.
static const char *const old_special[] = {"<unk>",
                                          "<s>",
                                          "</s>",
                                          "[INST]",
                                          "[/INST]",
                                          "[AVAILABLE_TOOLS]",
                                          "[/AVAILABLE_TOOLS]",
                                          "[TOOL_RESULTS]",
                                          "[/TOOL_RESULTS]",
                                          "[TOOL_CALLS]",
                                          "[IMG]",
                                          "<pad>",
                                          "[IMG_BREAK]",
                                          "[IMG_END]",
                                          "[PREFIX]",
                                          "[MIDDLE]",
                                          "[SUFFIX]",
                                          "[SYSTEM_PROMPT]",
                                          "[/SYSTEM_PROMPT]",
                                          "[TOOL_CONTENT]"};

static err_t no_memory(struct tekken *k)
{
    return err_say(k->why, ERR_MEMORY, "%s: out of memory", file);
}

static err_t read_config(struct tekken *k)
{
    struct scan_str key, skipped;
    bool first = true;
    int32_t n_all = -1;
    k->n_special = -1;
    while (scan_key(&k->scan, &first, &key)) {
        if (scan_key_is(&key, "pattern"))
            scan_string(&k->scan, &k->pattern);
        else if (scan_key_is(&key, "default_vocab_size"))
            scan_id(&k->scan, &n_all);
        else if (scan_key_is(&key, "default_num_special_tokens"))
            scan_id(&k->scan, &k->n_special);
        else
            scan_skip(&k->scan, &skipped);
    }
    if (k->scan.err) return k->scan.err;
    if (!k->pattern.s || n_all > VOCAB_TOKENS_MAX || k->n_special < 1 ||
        k->n_special > SPECIAL_MAX || n_all <= k->n_special)
        return err_say(k->why, ERR_MODEL,
                       "%s: config: pattern, default_vocab_size or default_num_special_tokens is "
                       "missing or impossible",
                       file);
    k->n_vocab = n_all - k->n_special;
    return OK;
}

static err_t find_parts(struct tekken *k, const char *data, size_t len)
{
    struct scan_str key, value;
    bool first = true;
    k->scan = (struct scan){
        .begin = data, .at = data, .end = data + len, .file = file, .mem = &k->mem, .why = k->why};
    while (scan_key(&k->scan, &first, &key) && scan_skip(&k->scan, &value)) {
        if (scan_key_is(&key, "config")) k->config = value;
        if (scan_key_is(&key, "vocab")) k->vocab = value;
        if (scan_key_is(&key, "special_tokens")) k->special = value;
    }
    if (k->scan.err) return k->scan.err;
    if (!k->config.s || !k->vocab.s)
        return err_say(k->why, ERR_MODEL, "%s: config or vocab is missing", file);
    k->scan.at = k->config.s;
    k->scan.end = k->config.s + k->config.len;
    return read_config(k);
}

static err_t put_word(struct tekken *k, int32_t rank, const struct scan_str *text)
{
    size_t n;
    if (rank >= k->n_vocab) return OK; // the file has more than the model
    int32_t id = k->n_special + rank;
    char *s = arena_take(&k->mem, text->len + 1);
    if (!s) return no_memory(k);
    if (text->len > 2 * VOCAB_PIECE_MAX || !json_base64(text->s, text->len, s, &n) || n == 0)
        return err_say(k->why, ERR_MODEL, "%s: vocab: rank %d: bad token_bytes", file, rank);
    k->pieces[id] = (struct vocab_piece){.s = s,
                                         .shown = s,
                                         .len = (uint32_t)n,
                                         .n_shown = (uint32_t)n,
                                         .type = VOCAB_NORMAL,
                                         .flags = VOCAB_FIND};
    k->ranks[id] = rank;
    if (n == 1) k->t->bytes[(unsigned char)s[0]] = id;
    return OK;
}

// [{"rank": 0, "token_bytes": "AA==", "token_str": "..."}]; of special tokens without bytes.
static err_t read_entry(struct tekken *k, int32_t *rank, struct scan_str *bytes,
                        struct scan_str *str)
{
    struct scan_str key, skipped;
    bool first = true;
    *rank = -1;
    *bytes = *str = (struct scan_str){0};
    while (scan_key(&k->scan, &first, &key)) {
        if (scan_key_is(&key, "rank"))
            scan_id(&k->scan, rank);
        else if (scan_key_is(&key, "token_bytes"))
            scan_string(&k->scan, bytes);
        else if (scan_key_is(&key, "token_str") && scan_peek(&k->scan) == '"')
            scan_string(&k->scan, str);
        else
            scan_skip(&k->scan, &skipped);
    }
    if (!k->scan.err && *rank < 0) scan_fail(&k->scan, "an entry without rank");
    return k->scan.err;
}

static err_t put_special(struct tekken *k, int32_t id, const char *s, size_t len)
{
    k->pieces[id] = (struct vocab_piece){
        .s = s, .shown = s, .len = (uint32_t)len, .n_shown = (uint32_t)len, .type = VOCAB_CONTROL};
    if (len == 0 || len > VOCAB_SPECIAL_MAX)
        return err_say(k->why, ERR_MODEL, "%s: special token %d has %zu bytes", file, id, len);
    return OK;
}

static err_t read_special(struct tekken *k)
{
    struct scan_str bytes, str;
    int32_t rank;
    bool first = true;
    err_t err = OK;
    bool is_list = k->special.s && k->special.s[0] == '[';
    if (is_list) {
        k->scan.at = k->special.s;
        k->scan.end = k->special.s + k->special.len;
    }
    while (is_list && !err && scan_next(&k->scan, '[', &first)) {
        err = read_entry(k, &rank, &bytes, &str);
        if (!err && rank >= k->n_special)
            err =
                err_say(k->why, ERR_MODEL, "%s: special token %d of %d", file, rank, k->n_special);
        if (!err) err = put_special(k, rank, str.s ? str.s : "", str.len);
    }
    int32_t n_old = (int32_t)(sizeof old_special / sizeof *old_special);
    for (int32_t i = 0; !err && i < k->n_special; i++) {
        if (k->pieces[i].type) continue;
        char *s = arena_printf(&k->mem, "<SPECIAL_%d>", i);
        bool named = !is_list && i < n_old;
        if (!s) return no_memory(k);
        const char *name = named ? old_special[i] : s;
        err = put_special(k, i, name, strlen(name));
    }
    return err ? err : k->scan.err;
}

static err_t read_words(struct tekken *k)
{
    struct scan_str bytes, str;
    int32_t rank;
    bool first = true;
    err_t err = OK;
    k->scan.at = k->vocab.s;
    k->scan.end = k->vocab.s + k->vocab.len;
    while (!err && scan_next(&k->scan, '[', &first)) {
        err = read_entry(k, &rank, &bytes, &str);
        if (!err) err = put_word(k, rank, &bytes);
    }
    return err ? err : k->scan.err;
}

static err_t read_vocab(struct tekken *k)
{
    size_t n = (size_t)k->n_special + (size_t)k->n_vocab;
    // An entry takes more than 16 bytes of the file: it bounds what is made room for.
    if ((size_t)k->n_vocab > k->vocab.len / 16)
        return err_say(k->why, ERR_MODEL, "%s: fewer tokens than default_vocab_size", file);
    k->pieces = arena_take_n(&k->mem, n, sizeof *k->pieces);
    k->ranks = arena_take_n(&k->mem, n, sizeof *k->ranks);
    if (!k->pieces || !k->ranks) return no_memory(k);
    memset(k->ranks, 0xff, n * sizeof *k->ranks);
    err_t err = read_words(k);
    if (!err) err = read_special(k);
    if (!err) err = vocab_build(k->t, k->pieces, (int32_t)n, file, k->why);
    return err ? err : vocab_merges_by_rank(k->t, k->ranks, k->why);
}

static err_t read_pattern(struct tekken *k)
{
    struct tokenizer *t = k->t;
    struct pretokenize_step s = {.kind = PRETOKENIZE_SPLIT};
    t->pre = calloc(1, sizeof *t->pre);
    if (!t->pre) return no_memory(k);
    err_t err = regex_open(k->pattern.s, k->pattern.len, REGEX_RUST, &s.pattern, k->why);
    if (!err) pretokenize_add(t->pre, &s);
    return err;
}

err_t from_tekken(const char *data, size_t len, struct tokenizer *t, struct err_text *why)
{
    struct tekken k = {.t = t, .why = why};
    arena_init(&k.mem, 0);
    memset(t->bytes, 0xff, sizeof t->bytes);
    t->kind = VOCAB_BPE;
    t->ignore_merges = true;
    t->add_bos = true;
    err_t err = find_parts(&k, data, len);
    if (!err) err = read_vocab(&k);
    if (!err) err = read_pattern(&k);
    if (!err) {
        t->bos = vocab_spelled(t, "<s>", 3);
        t->eos = vocab_spelled(t, "</s>", 4);
        t->unk = vocab_spelled(t, "<unk>", 5);
    }
    arena_fini(&k.mem);
    return err;
}
