#include "coordinator/text/normalize.h"
#include "proto/base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

bool normalize_add(struct normalizer *n, const struct normalize_step *s)
{
    if (n->n == NORMALIZE_STEPS_MAX) {
        regex_close(s->pattern);
        return false;
    }
    n->steps[n->n++] = *s;
    return true;
}

void normalize_close(struct normalizer *n)
{
    for (int i = 0; n && i < n->n; i++)
        regex_close(n->steps[i].pattern);
    free(n);
}

void normal_fini(struct normal *o)
{
    buf_fini(&o->text);
    buf_fini(&o->other);
    buf_fini(&o->from);
    buf_fini(&o->other_from);
}

// One step: reads `in`, writes `out`.
struct run {
    const struct normalize_step *step;
    struct regex_work *work;
    const char *in;
    size_t len;
    const uint32_t *origin; // of the bytes of `in`; NULL: origins are not kept
    struct buf *out, *out_from;
};

// Appends bytes that came from in[at..].
static void put(struct run *r, const char *s, size_t n, size_t at)
{
    buf_add(r->out, s, n);
    if (!r->origin) return;
    uint32_t from = at < r->len ? r->origin[at] : r->len ? r->origin[r->len - 1] : 0;
    for (size_t i = 0; i < n; i++)
        buf_add(r->out_from, &from, sizeof from);
}

static void keep(struct run *r, size_t from, size_t to)
{
    buf_add(r->out, r->in + from, to - from);
    if (r->origin) buf_add(r->out_from, r->origin + from, (to - from) * sizeof *r->origin);
}

static int32_t char_at(const char *s, size_t n)
{
    utf8proc_int32_t c = 0;
    utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &c);
    return c;
}

static void put_char(struct run *r, int32_t c, size_t at)
{
    utf8proc_uint8_t s[4];
    utf8proc_ssize_t n = utf8proc_encode_char(c, s);
    put(r, (const char *)s, (size_t)n, at);
}

// --- Unicode forms (UAX #15) ------------------------------------------------------------------

// A character taken apart, with its combining class above it: sorting by class is stable because
// the order among equals is kept by a merge sort.
struct chars {
    int32_t *at;
    uint8_t *class;
    size_t n, cap;
};

static bool chars_room(struct chars *c, size_t more)
{
    if (c->n + more <= c->cap) return true;
    size_t cap = (c->n + more) * 2;
    int32_t *at = realloc(c->at, cap * sizeof *at);
    if (at) c->at = at;
    uint8_t *class = realloc(c->class, cap);
    if (class) c->class = class;
    if (!at || !class) return false;
    c->cap = cap;
    return true;
}

// Stable, by class, of a run of n marks: counting, as there are 256 classes; insertion for the
// short runs that there really are.
static bool order_marks(int32_t *at, uint8_t *class, size_t n)
{
    if (n < 16) {
        for (size_t i = 1; i < n; i++)
            for (size_t k = i; k > 0 && class[k - 1] > class[k]; k--) {
                int32_t c = at[k];
                uint8_t x = class[k];
                at[k] = at[k - 1];
                class[k] = class[k - 1];
                at[k - 1] = c;
                class[k - 1] = x;
            }
        return true;
    }
    size_t first[257] = {0};
    int32_t *copy = malloc(n * sizeof *copy);
    if (!copy) return false;
    memcpy(copy, at, n * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        first[class[i] + 1]++;
    for (size_t k = 0; k < 256; k++)
        first[k + 1] += first[k];
    for (size_t i = 0; i < n; i++)
        at[first[class[i]]++] = copy[i];
    free(copy);
    return true;
}

static bool order_all(struct chars *c)
{
    for (size_t i = 0; i < c->n;) {
        size_t to = i;
        while (to < c->n && c->class[to] != 0)
            to++;
        if (to - i > 1 && !order_marks(c->at + i, c->class + i, to - i)) return false;
        i = to > i ? to : i + 1;
    }
    return true;
}

static bool take_apart(const char *s, size_t len, bool compat, struct chars *c)
{
    utf8proc_option_t o = compat ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE;
    c->n = 0;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_len(s + i, len - i);
        int boundary = 0;
        if (!chars_room(c, 32)) return false;
        utf8proc_ssize_t got =
            utf8proc_decompose_char(char_at(s + i, n), c->at + c->n, 32, o, &boundary);
        for (utf8proc_ssize_t k = 0; k < got; k++, c->n++)
            c->class[c->n] = (uint8_t)utf8proc_get_property(c->at[c->n])->combining_class;
        i += n;
    }
    return true;
}

static bool put_form(struct run *r, struct chars *c, size_t from, size_t to)
{
    enum normalize_form f = r->step->form;
    if (!take_apart(r->in + from, to - from, f == NORMALIZE_NFKC || f == NORMALIZE_NFKD, c) ||
        !order_all(c))
        return false;
    utf8proc_ssize_t n = (utf8proc_ssize_t)c->n;
    if (f == NORMALIZE_NFC || f == NORMALIZE_NFKC)
        n = utf8proc_normalize_utf32(c->at, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < n; i++)
        put_char(r, c->at[i], from);
    return true;
}

// ASCII is in every form already, and takes part only as the character before a mark.
static err_t run_form(struct run *r)
{
    struct chars c = {0};
    bool ok = true;
    for (size_t at = 0; ok && at < r->len;) {
        size_t from = at;
        while (at < r->len && (unsigned char)r->in[at] < 0x80)
            at++;
        size_t plain = at > from && at < r->len ? at - 1 : at;
        keep(r, from, plain);
        while (at < r->len && (unsigned char)r->in[at] >= 0x80)
            at++;
        if (at > plain) ok = put_form(r, &c, plain, at);
    }
    free(c.at);
    free(c.class);
    return ok ? OK : ERR_MEMORY;
}

// --- the other steps --------------------------------------------------------------------------

static err_t run_replace(struct run *r)
{
    const struct normalize_step *s = r->step;
    size_t at = 0, done = 0;
    while (at <= r->len) {
        size_t from = 0, to = 0;
        bool found = false;
        err_t err = OK;
        if (s->pattern) {
            err = regex_find(s->pattern, r->work, r->in, r->len, at, &found, &from, &to);
        } else {
            const char *hit =
                s->what_len ? memmem(r->in + at, r->len - at, s->what, s->what_len) : NULL;
            found = hit != NULL;
            if (hit) to = (from = (size_t)(hit - r->in)) + s->what_len;
        }
        if (err) return err;
        if (!found) break;
        keep(r, done, from);
        put(r, s->with, s->with_len, from);
        done = to;
        at = to > from ? to : to + (to < r->len ? utf8_len(r->in + to, r->len - to) : 1);
    }
    keep(r, done, r->len);
    return OK;
}

static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static err_t run_strip(struct run *r)
{
    size_t from = 0, to = r->len, last = 0;
    bool begun = !r->step->left;
    for (size_t i = 0, n; i < r->len; i += n) {
        n = utf8_len(r->in + i, r->len - i);
        bool space = is_space(char_at(r->in + i, n));
        if (!space && !begun) {
            from = i;
            begun = true;
        }
        if (!space) last = i + n;
    }
    if (!begun) from = r->len;
    if (r->step->right) to = last > from ? last : from;
    keep(r, from, to);
    return OK;
}

static err_t run_chars(struct run *r)
{
    for (size_t i = 0, n; i < r->len; i += n) {
        n = utf8_len(r->in + i, r->len - i);
        int32_t c = char_at(r->in + i, n);
        if (r->step->kind == NORMALIZE_ACCENTS) {
            utf8proc_category_t k = utf8proc_category(c);
            bool is_mark = k >= UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_ME;
            if (!is_mark) keep(r, i, i + n);
        } else if (c == 0x130) {
            put(r, "i\xcc\x87", 3, i); // the one character whose small form is two
        } else {
            put_char(r, utf8proc_tolower(c), i);
        }
    }
    return OK;
}

// --- SentencePiece's table: a double array (Aoe 1989, as Darts-clone packs it) over the bytes of
// --- what is replaced, then the replacements, each ended by NUL ---------------------------------

static uint32_t unit_at(const char *table, size_t i)
{
    const unsigned char *u = (const unsigned char *)table + 4 + 4 * i;
    return (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

static size_t trie_bytes(const char *table)
{
    return unit_at(table - 4, 0);
}

bool normalize_charsmap_ok(const char *table, size_t len)
{
    if (len < 8) return false;
    size_t n = trie_bytes(table);
    return n >= 4 && n % 4 == 0 && n < len - 4 && table[len - 1] == 0;
}

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

// Longest entry that begins at s; its replacement, NULL: none.
static const char *longest(const struct normalize_step *m, const char *s, size_t len, size_t *used)
{
    const char *table = m->what, *best = NULL;
    size_t n = trie_bytes(table) / 4, texts = 4 + trie_bytes(table);
    size_t pos = offset_of(unit_at(table, 0));
    for (size_t i = 0; i < len; i++) {
        uint8_t c = (uint8_t)s[i];
        pos ^= c;
        if (pos >= n) break;
        uint32_t unit = unit_at(table, pos);
        if ((unit & 0x800000ffu) != c) break;
        pos ^= offset_of(unit);
        if (!(unit >> 8 & 1)) continue;
        if (pos >= n) break;
        size_t at = unit_at(table, pos) & 0x7fffffffu;
        if (at >= m->what_len - texts) continue;
        best = table + texts + at;
        *used = i + 1;
    }
    return best;
}

static err_t run_charsmap(struct run *r)
{
    for (size_t i = 0, used = 0; i < r->len; i += used) {
        const char *with = longest(r->step, r->in + i, r->len - i, &used);
        if (with) {
            put(r, with, strlen(with), i);
        } else {
            used = utf8_len(r->in + i, r->len - i);
            keep(r, i, i + used);
        }
        if (used == 0) return ERR_INVALID;
    }
    return OK;
}

static err_t run_step(struct run *r)
{
    switch (r->step->kind) {
    case NORMALIZE_FORM:
        return run_form(r);
    case NORMALIZE_REPLACE:
        return run_replace(r);
    case NORMALIZE_PREPEND:
        if (r->len) put(r, r->step->with, r->step->with_len, 0);
        keep(r, 0, r->len);
        return OK;
    case NORMALIZE_STRIP:
        return run_strip(r);
    case NORMALIZE_LOWER:
    case NORMALIZE_ACCENTS:
        return run_chars(r);
    case NORMALIZE_CHARSMAP:
        return run_charsmap(r);
    }
    return OK;
}

// What a table made need not be UTF-8, and the steps after it want that.
static bool valid(const struct buf *b)
{
    for (size_t i = 0, n; i < b->len; i += n)
        if ((n = utf8_len(b->data + i, b->len - i)) == 0) return false;
    return true;
}

static void swap(struct buf *a, struct buf *b)
{
    struct buf c = *a;
    *a = *b;
    *b = c;
}

static void origins(struct buf *from, size_t n)
{
    for (uint32_t i = 0; i < n; i++)
        buf_add(from, &i, sizeof i);
}

err_t normalize_run(const struct normalizer *n, struct regex_work *w, const char *text, size_t len,
                    struct normal *out)
{
    if (len >= UINT32_MAX) return ERR_TOO_LARGE;
    buf_clear(&out->text);
    buf_clear(&out->from);
    buf_add(&out->text, text, len);
    if (n && n->keeps_origin) origins(&out->from, len);
    for (int i = 0; n && i < n->n; i++) {
        buf_clear(&out->other);
        buf_clear(&out->other_from);
        struct run r = {.step = &n->steps[i],
                        .work = w,
                        .in = out->text.data ? out->text.data : "",
                        .len = out->text.len,
                        .origin = n->keeps_origin ? (const uint32_t *)out->from.data : NULL,
                        .out = &out->other,
                        .out_from = &out->other_from};
        err_t err = run_step(&r);
        if (!err && n->steps[i].kind == NORMALIZE_CHARSMAP && !valid(&out->other))
            err = ERR_INVALID;
        if (err) return err;
        swap(&out->text, &out->other);
        swap(&out->from, &out->other_from);
    }
    return buf_ok(&out->text) && buf_ok(&out->from) ? OK : ERR_MEMORY;
}
