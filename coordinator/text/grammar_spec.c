#include "coordinator/text/grammar.h"
#include "coordinator/text/schema.h"
#include "topology/sha256.h"

#include <string.h>

// -- the key --

static void put(struct buf *b, const struct grammar_spec *s, int depth)
{
    buf_printf(b, "(%d %d %u %u %zu:", (int)s->kind, s->text ? -1 : s->token, s->min, s->max,
               s->text ? s->len : 0);
    if (s->text) buf_add(b, s->text, s->len);
    if (s->json) json_write(b, s->json);
    if (s->root) buf_char(b, '#');
    if (s->root) json_write(b, s->root);
    for (size_t i = 0; i < s->n_part && depth < GRAMMAR_SPEC_DEPTH_MAX; i++)
        put(b, &s->parts[i], depth + 1);
    buf_char(b, ')');
}

err_t grammar_spec_key(const struct grammar_spec *spec, uint8_t key[32], struct err_text *why)
{
    struct buf b = {.max = GRAMMAR_SOURCE_MAX};
    put(&b, spec, 0);
    if (!buf_ok(&b)) {
        buf_fini(&b);
        return err_say(why, ERR_TOO_LARGE, "the description of the output is longer than %d bytes",
                       GRAMMAR_SOURCE_MAX);
    }
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, b.data, b.len);
    sha256_end(&h, key);
    buf_fini(&b);
    return OK;
}

// -- the graph --

static uint32_t emit(struct nfa *a, const struct grammar_spec *s, int depth, uint32_t next);

// Any bytes, and control tokens but one; then that one, or whatever comes next.
static uint32_t without_token(struct nfa *a, const struct grammar_spec *s, uint32_t next)
{
    const struct nfa_set all = {{UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}};
    const uint32_t hub = nfa_hub(a);
    const uint32_t way = nfa_split(a, nfa_bytes_of(a, &all, hub), nfa_control(a, s->token, hub));
    nfa_hub_set(a, hub, way, s->kind == GRAMMAR_UNTIL ? nfa_token(a, s->token, next) : next);
    return hub;
}

static uint32_t any_of(struct nfa *a, const struct grammar_spec *s, int depth, uint32_t next)
{
    bool literal = true;
    uint32_t way = 0;
    for (size_t i = 0; i < s->n_part; i++)
        literal &= s->parts[i].kind == GRAMMAR_LITERAL;
    if (!literal) {
        for (size_t i = 0; i < s->n_part && nfa_ok(a); i++) {
            const uint32_t one = emit(a, &s->parts[i], depth + 1, next);
            way = i ? nfa_split(a, way, one) : one;
        }
        return way;
    }
    struct nfa_word *words = nfa_take(a, s->n_part, sizeof *words);
    if (!words) return 0;
    for (size_t i = 0; i < s->n_part; i++)
        words[i] = (struct nfa_word){s->parts[i].text, s->parts[i].len};
    return nfa_words(a, words, s->n_part, next);
}

static uint32_t repeat(struct nfa *a, const struct grammar_spec *s, int depth, uint32_t next)
{
    if (s->n_part != 1) return nfa_fail(a, ERR_INVALID, "a repetition of %zu parts", s->n_part);
    if (s->max == 0 && s->min <= 1) {
        const uint32_t hub = nfa_hub(a), body = emit(a, s->parts, depth + 1, hub);
        nfa_hub_set(a, hub, body, next);
        return s->min ? body : hub;
    }
    const uint32_t body = emit(a, s->parts, depth + 1, 0);
    return nfa_times(a, body, s->min, s->max ? s->max : NFA_NO_MAX, next);
}

static uint32_t sequence(struct nfa *a, const struct grammar_spec *s, int depth, uint32_t next)
{
    for (size_t i = s->n_part; i-- > 0 && nfa_ok(a);)
        next = emit(a, &s->parts[i], depth + 1, next);
    return next;
}

static uint32_t emit(struct nfa *a, const struct grammar_spec *s, int depth, uint32_t next)
{
    if (!nfa_ok(a)) return 0;
    if (depth > GRAMMAR_SPEC_DEPTH_MAX)
        return nfa_fail(a, ERR_TOO_LARGE, "a description of output nested more than %d deep",
                        GRAMMAR_SPEC_DEPTH_MAX);
    switch (s->kind) {
    case GRAMMAR_SCHEMA:
        return schema_emit(a, s->json, s->root ? s->root : s->json, next);
    case GRAMMAR_OBJECT:
        return schema_any_object(a, next);
    case GRAMMAR_REGEX:
        return expr_regex_emit(a, expr_regex(a, s->text, s->len), true, false, next);
    case GRAMMAR_NOTATION:
        return expr_notation(a, s->text, s->len, next);
    case GRAMMAR_LITERAL:
        return nfa_text(a, s->text, s->len, next);
    case GRAMMAR_TOKEN:
        return nfa_token(a, s->token, next);
    case GRAMMAR_UNTIL:
    case GRAMMAR_WITHOUT:
        if (!s->text) return without_token(a, s, next);
        return nfa_until(a, s->text, s->len, s->kind == GRAMMAR_WITHOUT, next);
    case GRAMMAR_SEQ:
        return sequence(a, s, depth, next);
    case GRAMMAR_ANY:
        return any_of(a, s, depth, next);
    case GRAMMAR_REPEAT:
        return repeat(a, s, depth, next);
    }
    return nfa_fail(a, ERR_INVALID, "a description of output of an unknown kind");
}

err_t grammar_spec_compile(const struct grammar_spec *spec, struct nfa *out, struct err_text *why)
{
    nfa_init(out, why);
    return nfa_close(out, emit(out, spec, 0, 0));
}
