// Byte 0: what the rest is (a JSON Schema, a regular expression, a grammar's notation). Byte 1:
// seed of a text written from the masks. Whatever compiles lets through only what its own masks
// said, never gets stuck, and what a schema lets through to its end is JSON.
#include "tests/unit/text/grammar_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 120 };

static void check_json(const struct buf *text)
{
    struct arena a;
    const struct json *j;
    const char *code = "";
    struct err_text why;
    arena_init(&a, 0);
    const err_t err = json_read(text->data ? text->data : "", text->len, &a, &j, &code, &why);
    // Names of further properties can repeat, and numbers be too large to hold.
    const bool may = err == OK || !strcmp(code, "duplicate_key") || strstr(why.s, "range") ||
                     strstr(why.s, "overflow") || strstr(why.s, "int64");
    if (!may) {
        fprintf(stderr, "'%s': %s\n", text->data, why.s);
        abort();
    }
    arena_fini(&a);
}

static void write_text(struct rig *r, struct grammar *g, bool is_json)
{
    struct grammar_state *s = grammar_begin(g, false);
    struct err_text why;
    struct buf out = {0};
    bool done = false;
    for (uint32_t i = 0; s && i < STEPS && !done; i++) {
        const uint8_t *set;
        size_t len, n;
        err_t err = grammar_mask(s, &set, &len, &why);
        if (err == ERR_TOO_LARGE) break;
        done = err == ERR_END;
        if (done) break;
        if (err || !idset_ok(set, len, (uint32_t)tokenizer_n_vocab(r->tok))) abort();
        const int32_t id = rig_pick(r, set, len, i > STEPS / 3);
        err = grammar_advance(s, id, &why);
        if (err == ERR_TOO_LARGE) break;
        if (err != (id == r->end ? ERR_END : OK)) abort();
        done = err == ERR_END;
        const char *piece = tokenizer_piece(r->tok, id, false, &n);
        if (!done && piece) buf_add(&out, piece, n);
    }
    if (done && is_json) check_json(&out);
    grammar_end(s);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct rig r;
    if (!r.tok) rig_open(&r);
    if (size < 3) return 0;
    struct arena a;
    struct grammar *g = NULL;
    struct err_text why;
    const char *text = (const char *)data + 2;
    const size_t len = size - 2;
    static const enum grammar_kind kinds[] = {GRAMMAR_SCHEMA, GRAMMAR_REGEX, GRAMMAR_NOTATION};
    struct grammar_spec spec = {.kind = kinds[data[0] % 3], .text = text, .len = len};
    arena_init(&a, 0);
    r.random = data[1];
    if (spec.kind == GRAMMAR_SCHEMA) {
        spec.text = NULL;
        if (json_read(text, len, &a, &spec.json, NULL, &why) != OK) spec.json = NULL;
    }
    if (spec.text || spec.json) {
        const err_t err = grammar_open(r.book, &spec, &g, &why);
        if (err && !why.s[0]) abort();
        if (!err) write_text(&r, g, spec.kind == GRAMMAR_SCHEMA);
        if (!err) grammar_give(g);
    }
    arena_fini(&a);
    return 0;
}
