// The steps of a tokenizer.json: tables from "type" to what each becomes here. A kind of step that
// is not in a table is refused by name; nothing is left out in silence.
#include "coordinator/text/from_json.h"

#include <stdlib.h>
#include <string.h>

static const char file[] = "tokenizer.json", mark[] = "\xe2\x96\x81";
// ASCII punctuation, some of which Unicode calls symbols.
#define PUNCTUATION "[\\p{P}$+<=>^`|~]"

struct step_kind {
    const char *type;
    err_t (*read)(struct json_load *l, const struct json *j);
};

static err_t run_kind(struct json_load *l, const struct json *j, const char *part,
                      const struct step_kind *kinds, size_t n)
{
    const struct json *type = json_get(j, "type");
    if (!type || type->kind != J_STR)
        return err_say(l->why, ERR_MODEL, "%s: %s: a step without a type", file, part);
    for (size_t i = 0; i < n; i++)
        if (json_is(type, kinds[i].type)) return kinds[i].read(l, j);
    return err_say(l->why, ERR_MODEL, "%s: %s: '%.60s' is not supported", file, part, type->str.s);
}

static err_t run_list(struct json_load *l, const struct json *list, const char *part,
                      err_t (*read)(struct json_load *, const struct json *))
{
    if (!list || list->kind != J_ARR)
        return err_say(l->why, ERR_MODEL, "%s: %s: a sequence without a list", file, part);
    err_t err = OK;
    for (size_t i = 0; !err && i < list->arr.n; i++)
        err = read(l, &list->arr.items[i]); // json_read bounds the depth
    return err;
}

static bool flag(const struct json *j, const char *key, bool otherwise)
{
    const struct json *v = json_get(j, key);
    return v && v->kind == J_BOOL ? v->b : otherwise;
}

static err_t too_many(struct json_load *l, const char *part)
{
    return err_say(l->why, ERR_MODEL, "%s: %s: too many steps", file, part);
}

// A string member, copied to where the tokenizer lives. An absent one is "".
static err_t copy_str(struct json_load *l, const struct json *v, const char **out, size_t *len)
{
    *len = v && v->kind == J_STR ? v->str.len : 0;
    *out = arena_copy_str(&l->t->mem, *len ? v->str.s : "", *len);
    return *out ? OK : err_say(l->why, ERR_MEMORY, "%s: out of memory", file);
}

// {"String": "x"} or {"Regex": "x"}; a String as a pattern of its own letters.
static err_t read_pattern(struct json_load *l, const struct json *j, bool regex_only,
                          struct regex **out)
{
    const struct json *regex = json_get(j, "Regex"), *str = json_get(j, "String");
    struct buf quoted = {0};
    *out = NULL;
    if (j && j->kind == J_STR) str = j;
    if (regex && regex->kind == J_STR)
        return regex_open(regex->str.s, regex->str.len, REGEX_RUBY, out, l->why);
    if (!str || str->kind != J_STR)
        return err_say(l->why, ERR_MODEL, "%s: a pattern is neither String nor Regex", file);
    if (regex_only) return OK;
    for (size_t i = 0; i < str->str.len; i++) {
        if (strchr("\\^$.[]|()?*+{}#-", str->str.s[i])) buf_char(&quoted, '\\');
        buf_char(&quoted, str->str.s[i]);
    }
    // Nothing is found of an empty one: a pattern that never fits.
    if (quoted.len == 0) buf_str(&quoted, "(?!)");
    err_t err =
        buf_ok(&quoted) ? regex_open(quoted.data, quoted.len, REGEX_PCRE, out, l->why) : ERR_MEMORY;
    buf_fini(&quoted);
    return err;
}

// --- normalizer -------------------------------------------------------------------------------

static err_t add_norm(struct json_load *l, const struct normalize_step *s)
{
    struct tokenizer *t = l->t;
    if (!t->norm) t->norm = calloc(1, sizeof *t->norm);
    if (t->norm && normalize_add(t->norm, s)) return OK;
    if (!t->norm) regex_close(s->pattern);
    return t->norm ? too_many(l, "normalizer")
                   : err_say(l->why, ERR_MEMORY, "%s: out of memory", file);
}

static err_t norm_form(struct json_load *l, const struct json *j)
{
    const struct json *type = json_get(j, "type");
    struct normalize_step s = {.kind = NORMALIZE_FORM,
                               .form = json_is(type, "NFC")    ? NORMALIZE_NFC
                                       : json_is(type, "NFD")  ? NORMALIZE_NFD
                                       : json_is(type, "NFKC") ? NORMALIZE_NFKC
                                                               : NORMALIZE_NFKD};
    return add_norm(l, &s);
}

static err_t norm_chars(struct json_load *l, const struct json *j)
{
    bool lower = json_is(json_get(j, "type"), "Lowercase");
    return add_norm(l,
                    &(struct normalize_step){.kind = lower ? NORMALIZE_LOWER : NORMALIZE_ACCENTS});
}

static err_t norm_strip(struct json_load *l, const struct json *j)
{
    return add_norm(l, &(struct normalize_step){.kind = NORMALIZE_STRIP,
                                                .left = flag(j, "strip_left", true),
                                                .right = flag(j, "strip_right", true)});
}

static err_t norm_prepend(struct json_load *l, const struct json *j)
{
    struct normalize_step s = {.kind = NORMALIZE_PREPEND};
    err_t err = copy_str(l, json_get(j, "prepend"), &s.with, &s.with_len);
    return err ? err : add_norm(l, &s);
}

static err_t norm_replace(struct json_load *l, const struct json *j)
{
    const struct json *what = json_get(j, "pattern");
    struct normalize_step s = {.kind = NORMALIZE_REPLACE};
    err_t err = copy_str(l, json_get(j, "content"), &s.with, &s.with_len);
    if (!err) err = copy_str(l, json_get(what, "String"), &s.what, &s.what_len);
    if (!err) err = read_pattern(l, what, true, &s.pattern);
    return err ? err : add_norm(l, &s);
}

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

bool json_base64(const char *s, size_t len, char *out, size_t *n)
{
    uint32_t bits = 0;
    int have = 0;
    *n = 0;
    while (len > 0 && s[len - 1] == '=')
        len--;
    for (size_t i = 0; i < len; i++) {
        int d = base64_digit(s[i]);
        if (d < 0) return false;
        bits = bits << 6 | (uint32_t)d;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        out[(*n)++] = (char)(bits >> have);
    }
    return true;
}

static err_t norm_table(struct json_load *l, const struct json *j)
{
    const struct json *map = json_get(j, "precompiled_charsmap");
    struct normalize_step s = {.kind = NORMALIZE_CHARSMAP};
    size_t len = map && map->kind == J_STR ? map->str.len : 0;
    char *table = arena_take(&l->t->mem, len + 1);
    if (!table) return err_say(l->why, ERR_MEMORY, "%s: out of memory", file);
    if (len && (!json_base64(map->str.s, len, table, &s.what_len) ||
                !normalize_charsmap_ok(table, s.what_len)))
        return err_say(l->why, ERR_MODEL, "%s: normalizer: precompiled_charsmap is damaged", file);
    s.what = table;
    return len ? add_norm(l, &s) : OK;
}

static err_t read_norm(struct json_load *l, const struct json *j);

static err_t norm_sequence(struct json_load *l, const struct json *j)
{
    return run_list(l, json_get(j, "normalizers"), "normalizer", read_norm);
}

static err_t read_norm(struct json_load *l, const struct json *j)
{
    static const struct step_kind kinds[] = {
        {.type = "Sequence", .read = norm_sequence},  {.type = "NFC", .read = norm_form},
        {.type = "NFD", .read = norm_form},           {.type = "NFKC", .read = norm_form},
        {.type = "NFKD", .read = norm_form},          {.type = "Lowercase", .read = norm_chars},
        {.type = "StripAccents", .read = norm_chars}, {.type = "Strip", .read = norm_strip},
        {.type = "Prepend", .read = norm_prepend},    {.type = "Replace", .read = norm_replace},
        {.type = "Precompiled", .read = norm_table},
    };
    return run_kind(l, j, "normalizer", kinds, sizeof kinds / sizeof *kinds);
}

// --- pre_tokenizer ----------------------------------------------------------------------------

static err_t add_pre(struct json_load *l, const struct pretokenize_step *s)
{
    struct tokenizer *t = l->t;
    if (!t->pre) t->pre = calloc(1, sizeof *t->pre);
    if (t->pre && pretokenize_add(t->pre, s)) return OK;
    if (!t->pre) regex_close(s->pattern);
    return t->pre ? too_many(l, "pre_tokenizer")
                  : err_say(l->why, ERR_MEMORY, "%s: out of memory", file);
}

static err_t add_split(struct json_load *l, const char *pattern, enum pretokenize_then then,
                       bool invert)
{
    struct pretokenize_step s = {.kind = PRETOKENIZE_SPLIT, .then = then, .invert = invert};
    err_t err = regex_open(pattern, strlen(pattern), REGEX_PCRE, &s.pattern, l->why);
    return err ? err : add_pre(l, &s);
}

static err_t read_behavior(struct json_load *l, const struct json *j, const char *otherwise,
                           enum pretokenize_then *out)
{
    static const struct {
        const char *name;
        enum pretokenize_then then;
    } names[] = {{"Isolated", PRETOKENIZE_ISOLATED},
                 {"Removed", PRETOKENIZE_REMOVED},
                 {"MergedWithPrevious", PRETOKENIZE_TO_PREVIOUS},
                 {"MergedWithNext", PRETOKENIZE_TO_NEXT},
                 {"Contiguous", PRETOKENIZE_CONTIGUOUS}};
    const struct json *b = json_get(j, "behavior");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (b ? json_is(b, names[i].name) : strcmp(otherwise, names[i].name) == 0) {
            *out = names[i].then;
            return OK;
        }
    return err_say(l->why, ERR_MODEL, "%s: pre_tokenizer: unknown behavior", file);
}

static err_t pre_split(struct json_load *l, const struct json *j)
{
    struct pretokenize_step s = {.kind = PRETOKENIZE_SPLIT, .invert = flag(j, "invert", false)};
    err_t err = read_behavior(l, j, "", &s.then);
    if (!err) err = read_pattern(l, json_get(j, "pattern"), false, &s.pattern);
    return err ? err : add_pre(l, &s);
}

// Later steps see the letters that bytes become; they are not spelled out where there are none.
static err_t pre_bytes(struct json_load *l, const struct json *j)
{
    struct pretokenize_step space = {.kind = PRETOKENIZE_SPACE};
    struct pretokenize_step split = {.kind = PRETOKENIZE_SPLIT};
    err_t err = flag(j, "add_prefix_space", true) ? add_pre(l, &space) : OK;
    if (!err && flag(j, "use_regex", true)) {
        err = pretokenize_gpt2(&split.pattern, l->why);
        if (!err) err = add_pre(l, &split);
    }
    if (!err) err = add_pre(l, &(struct pretokenize_step){.kind = PRETOKENIZE_LETTERS});
    l->by_letters = true;
    return err;
}

static err_t pre_digits(struct json_load *l, const struct json *j)
{
    bool single = flag(j, "individual_digits", false);
    return add_split(l, "\\p{N}", single ? PRETOKENIZE_ISOLATED : PRETOKENIZE_CONTIGUOUS, false);
}

static err_t pre_punctuation(struct json_load *l, const struct json *j)
{
    enum pretokenize_then then = PRETOKENIZE_ISOLATED;
    err_t err = read_behavior(l, j, "Isolated", &then);
    return err ? err : add_split(l, PUNCTUATION, then, false);
}

static err_t pre_words(struct json_load *l, const struct json *j)
{
    static const char words[] =
        "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]+|"
        "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}" REGEX_SPACE "]+";
    static const char space[] = "[" REGEX_SPACE "]";
    bool is_split = json_is(json_get(j, "type"), "WhitespaceSplit");
    return add_split(l, is_split ? space : words, PRETOKENIZE_REMOVED, !is_split);
}

static err_t pre_bert(struct json_load *l, const struct json *j)
{
    (void)j;
    err_t err = add_split(l, "[" REGEX_SPACE "]", PRETOKENIZE_REMOVED, false);
    return err ? err : add_split(l, PUNCTUATION, PRETOKENIZE_ISOLATED, false);
}

static err_t pre_delimiter(struct json_load *l, const struct json *j)
{
    struct pretokenize_step s = {.kind = PRETOKENIZE_SPLIT, .then = PRETOKENIZE_REMOVED};
    err_t err = read_pattern(l, json_get(j, "delimiter"), false, &s.pattern);
    return err ? err : add_pre(l, &s);
}

// add_prefix_space is the older word for prepend_scheme.
static enum pretokenize_prefix prefix_of(const struct json *j)
{
    const struct json *scheme = json_get(j, "prepend_scheme");
    if (json_is(scheme, "first")) return PRETOKENIZE_FIRST;
    if (json_is(scheme, "never")) return PRETOKENIZE_NEVER;
    if (json_is(scheme, "always")) return PRETOKENIZE_ALWAYS;
    return flag(j, "add_prefix_space", true) ? PRETOKENIZE_ALWAYS : PRETOKENIZE_NEVER;
}

static err_t check_mark(struct json_load *l, const struct json *j, const char *part)
{
    const struct json *r = json_get(j, "replacement");
    if (!r || json_is(r, mark)) return OK;
    return err_say(l->why, ERR_MODEL, "%s: %s: Metaspace with another replacement than U+2581",
                   file, part);
}

static err_t pre_metaspace(struct json_load *l, const struct json *j)
{
    struct pretokenize_step s = {
        .kind = PRETOKENIZE_MARKS, .prefix = prefix_of(j), .split = flag(j, "split", true)};
    err_t err = check_mark(l, j, "pre_tokenizer");
    return err ? err : add_pre(l, &s);
}

static err_t read_pre(struct json_load *l, const struct json *j);

static err_t pre_sequence(struct json_load *l, const struct json *j)
{
    return run_list(l, json_get(j, "pretokenizers"), "pre_tokenizer", read_pre);
}

static err_t read_pre(struct json_load *l, const struct json *j)
{
    static const struct step_kind kinds[] = {
        {.type = "Sequence", .read = pre_sequence},
        {.type = "Split", .read = pre_split},
        {.type = "ByteLevel", .read = pre_bytes},
        {.type = "Digits", .read = pre_digits},
        {.type = "Punctuation", .read = pre_punctuation},
        {.type = "Whitespace", .read = pre_words},
        {.type = "WhitespaceSplit", .read = pre_words},
        {.type = "BertPreTokenizer", .read = pre_bert},
        {.type = "CharDelimiterSplit", .read = pre_delimiter},
        {.type = "Metaspace", .read = pre_metaspace},
    };
    return run_kind(l, j, "pre_tokenizer", kinds, sizeof kinds / sizeof *kinds);
}

// --- decoder ----------------------------------------------------------------------------------

static err_t dec_bytes(struct json_load *l, const struct json *j)
{
    (void)j;
    if (l->by_letters) return OK;
    return err_say(l->why, ERR_MODEL, "%s: decoder ByteLevel without such a pre_tokenizer", file);
}

static err_t dec_nothing(struct json_load *l, const struct json *j)
{
    (void)l, (void)j;
    return OK;
}

static err_t dec_fallback(struct json_load *l, const struct json *j)
{
    (void)j;
    l->shows_bytes = true;
    return OK;
}

static err_t dec_replace(struct json_load *l, const struct json *j)
{
    if (json_is(json_get(json_get(j, "pattern"), "String"), mark) &&
        json_is(json_get(j, "content"), " ")) {
        l->shows_marks = true;
        return OK;
    }
    return err_say(l->why, ERR_MODEL, "%s: decoder: Replace of other text than U+2581", file);
}

static err_t dec_strip(struct json_load *l, const struct json *j)
{
    bool one = json_number(json_get(j, "start"), 0) == 1 &&
               json_number(json_get(j, "stop"), 0) == 0 && json_is(json_get(j, "content"), " ");
    if (!one)
        return err_say(l->why, ERR_MODEL, "%s: decoder: Strip of other than one first space", file);
    l->t->strips_space = true;
    return OK;
}

static err_t dec_metaspace(struct json_load *l, const struct json *j)
{
    l->shows_marks = true;
    l->t->strips_space = prefix_of(j) != PRETOKENIZE_NEVER;
    return check_mark(l, j, "decoder");
}

static err_t read_decoder(struct json_load *l, const struct json *j);

static err_t dec_sequence(struct json_load *l, const struct json *j)
{
    return run_list(l, json_get(j, "decoders"), "decoder", read_decoder);
}

static err_t read_decoder(struct json_load *l, const struct json *j)
{
    static const struct step_kind kinds[] = {
        {.type = "Sequence", .read = dec_sequence},
        {.type = "ByteLevel", .read = dec_bytes},
        {.type = "Fuse", .read = dec_nothing},
        {.type = "ByteFallback", .read = dec_fallback},
        {.type = "Replace", .read = dec_replace},
        {.type = "Strip", .read = dec_strip},
        {.type = "Metaspace", .read = dec_metaspace},
    };
    return run_kind(l, j, "decoder", kinds, sizeof kinds / sizeof *kinds);
}

static err_t run_part(struct json_load *l, const struct scan_str *text,
                      err_t (*read)(struct json_load *, const struct json *))
{
    const struct json *j = NULL;
    if (!text->s) return OK;
    if (!scan_tree(&l->scan, text, &j)) return l->scan.err;
    return j->kind == J_NULL ? OK : read(l, j);
}

err_t json_steps(struct json_load *l)
{
    err_t err = run_part(l, &l->norm, read_norm);
    if (!err) err = run_part(l, &l->pre, read_pre);
    if (!err) err = run_part(l, &l->decoder, read_decoder);
    if (err) return err;
    struct pretokenize *p = l->t->pre;
    // Letters are for steps that come after.
    if (p && p->n > 0 && p->steps[p->n - 1].kind == PRETOKENIZE_LETTERS) p->n--;
    for (int i = 0; p && i + 1 < p->n; i++)
        for (int k = i + 1; k < p->n; k++)
            if (p->steps[i].kind == PRETOKENIZE_LETTERS && p->steps[k].kind != PRETOKENIZE_SPLIT)
                return err_say(l->why, ERR_MODEL,
                               "%s: pre_tokenizer: only splits can follow ByteLevel", file);
    return OK;
}

// --- post_processor ---------------------------------------------------------------------------

static err_t add_frame(struct json_load *l, const struct json *id, bool is_after)
{
    struct tokenizer *t = l->t;
    int *n = is_after ? &t->n_after : &t->n_before;
    if (!id || id->kind != J_INT || id->i < 0 || id->i >= t->n_token || *n == VOCAB_FRAME_MAX)
        return err_say(l->why, ERR_MODEL, "%s: post_processor: a token that is not there", file);
    (is_after ? t->after : t->before)[(*n)++] = (int32_t)id->i;
    return OK;
}

// [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], and what ids "<s>" is.
static err_t post_template(struct json_load *l, const struct json *j)
{
    const struct json *list = json_get(j, "single"), *known = json_get(j, "special_tokens");
    bool is_after = false;
    if (!list || list->kind != J_ARR)
        return err_say(l->why, ERR_MODEL, "%s: post_processor: single: missing", file);
    for (size_t i = 0; i < list->arr.n; i++) {
        const struct json *name = json_get(json_get(&list->arr.items[i], "SpecialToken"), "id");
        if (!name) {
            is_after = true;
            continue;
        }
        const struct json *ids =
            name->kind == J_STR ? json_get(json_get(known, name->str.s), "ids") : NULL;
        if (!ids || ids->kind != J_ARR)
            return err_say(l->why, ERR_MODEL, "%s: post_processor: a token without ids", file);
        for (size_t k = 0; k < ids->arr.n; k++) {
            err_t err = add_frame(l, &ids->arr.items[k], is_after);
            if (err) return err;
        }
    }
    return OK;
}

// "cls": ["<s>", 0], "sep": ["</s>", 2]
static err_t post_pair(struct json_load *l, const struct json *j)
{
    const struct json *cls = json_get(j, "cls"), *sep = json_get(j, "sep");
    bool ok = cls && sep && cls->kind == J_ARR && sep->kind == J_ARR && cls->arr.n == 2 &&
              sep->arr.n == 2;
    err_t err = add_frame(l, ok ? &cls->arr.items[1] : NULL, false);
    return err ? err : add_frame(l, &sep->arr.items[1], true);
}

static err_t post_nothing(struct json_load *l, const struct json *j)
{
    (void)l, (void)j;
    return OK;
}

static err_t read_post(struct json_load *l, const struct json *j);

static err_t post_sequence(struct json_load *l, const struct json *j)
{
    return run_list(l, json_get(j, "processors"), "post_processor", read_post);
}

static err_t read_post(struct json_load *l, const struct json *j)
{
    static const struct step_kind kinds[] = {
        {.type = "Sequence", .read = post_sequence},
        {.type = "ByteLevel", .read = post_nothing},
        {.type = "TemplateProcessing", .read = post_template},
        {.type = "RobertaProcessing", .read = post_pair},
        {.type = "BertProcessing", .read = post_pair},
    };
    return run_kind(l, j, "post_processor", kinds, sizeof kinds / sizeof *kinds);
}

err_t json_frame(struct json_load *l)
{
    return run_part(l, &l->post, read_post);
}
