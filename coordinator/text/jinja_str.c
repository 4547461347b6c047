#include "coordinator/text/jinja.h"

#include <stdlib.h>
#include <string.h>

const struct jinja_marks jinja_str_marks_all = {0};

static struct jinja_str *new_empty(struct jinja *J)
{
    struct jinja_str *s = jinja_take(J, 1, sizeof *s);
    s->p = "";
    return s;
}

struct jinja_str *jinja_str_new(struct jinja *J, const char *p, size_t len,
                                const struct jinja_marks *marks)
{
    struct jinja_str *s = new_empty(J);
    if (len == 0) return s;
    s->p = p;
    s->len = len;
    s->marks = marks;
    return s;
}

// The parts array is copied, without the empty parts.
struct jinja_str *jinja_str_cat(struct jinja *J, struct jinja_str *const *parts, size_t n)
{
    size_t used = 0, len = 0, last = 0;
    for (size_t i = 0; i < n; i++) {
        if (parts[i]->len == 0) continue;
        if (parts[i]->len > J->str_max - len) jinja_fail_budget(J, "text");
        len += parts[i]->len;
        used++;
        last = i;
    }
    jinja_charge(J, n / 4);
    if (used == 0) return new_empty(J);
    if (used == 1) return parts[last];
    struct jinja_str **copy = jinja_take(J, used, sizeof *copy);
    struct jinja_str *s = new_empty(J);
    for (size_t i = 0; i < n; i++)
        if (parts[i]->len) copy[s->n_part++] = parts[i];
    s->p = NULL;
    s->parts = copy;
    s->len = len;
    return s;
}

// --- marks ------------------------------------------------------------------------------------

size_t jinja_str_run(const struct jinja_str *s, size_t at, bool *input)
{
    const struct jinja_marks *m = s->marks;
    *input = m == &jinja_str_marks_all;
    if (!m || *input) return s->len;
    size_t pos = s->base + at, lo = 0, hi = m->n;
    while (lo < hi) { // first span that ends behind pos
        size_t mid = (lo + hi) / 2;
        if (m->at[mid].to > pos)
            hi = mid;
        else
            lo = mid + 1;
    }
    size_t end = s->base + s->len;
    if (lo < m->n && m->at[lo].from <= pos) {
        *input = true;
        if (m->at[lo].to < end) end = m->at[lo].to;
    } else if (lo < m->n && m->at[lo].from < end) {
        end = m->at[lo].from;
    }
    return end - s->base;
}

static void mark(struct jinja_text *t, size_t from, size_t to)
{
    if (t->n_span && t->spans[t->n_span - 1].to == from) {
        t->spans[t->n_span - 1].to = to;
        return;
    }
    if (t->n_span == t->cap_span) {
        size_t cap = t->cap_span ? t->cap_span * 2 : 4;
        struct text_span *spans = jinja_take(t->J, cap, sizeof *spans);
        if (t->n_span) memcpy(spans, t->spans, t->n_span * sizeof *spans);
        t->spans = spans;
        t->cap_span = cap;
    }
    t->spans[t->n_span++] = (struct text_span){from, to};
}

static void reserve(struct jinja_text *t, size_t more)
{
    if (more > t->J->str_max - t->len) jinja_fail_budget(t->J, "text");
    if (t->len + more <= t->cap) return;
    size_t cap = t->cap ? t->cap * 2 : 64;
    if (cap < t->len + more) cap = t->len + more;
    char *p = jinja_take(t->J, cap, 1);
    if (t->len) memcpy(p, t->p, t->len);
    t->p = p;
    t->cap = cap;
}

void jinja_str_add(struct jinja_text *t, const char *p, size_t len, bool input)
{
    if (len == 0) return;
    jinja_charge_bytes(t->J, len);
    reserve(t, len);
    memcpy(t->p + t->len, p, len);
    if (input) mark(t, t->len, t->len + len);
    t->len += len;
}

void jinja_str_add_c(struct jinja_text *t, const char *s)
{
    jinja_str_add(t, s, strlen(s), false);
}

static void add_flat(struct jinja_text *t, const struct jinja_str *s)
{
    bool input;
    for (size_t at = 0, end; at < s->len; at = end) {
        end = jinja_str_run(s, at, &input);
        jinja_str_add(t, s->p + at, end - at, input);
    }
}

void jinja_str_add_str(struct jinja_text *t, struct jinja_str *s)
{
    add_flat(t, jinja_str_flat(t->J, s));
}

struct jinja_str *jinja_str_done(struct jinja_text *t)
{
    if (t->n_span == 0) return jinja_str_new(t->J, t->p, t->len, NULL);
    if (t->n_span == 1 && t->spans[0].from == 0 && t->spans[0].to == t->len)
        return jinja_str_new(t->J, t->p, t->len, &jinja_str_marks_all);
    struct jinja_marks *m = jinja_take(t->J, 1, sizeof *m);
    *m = (struct jinja_marks){.at = t->spans, .n = t->n_span};
    return jinja_str_new(t->J, t->p, t->len, m);
}

// --- ropes ------------------------------------------------------------------------------------

static void walk_grow(struct jinja *J)
{
    size_t cap = J->walk.cap ? J->walk.cap * 2 : 64;
    void *p = realloc(J->walk.frames, cap * sizeof *J->walk.frames);
    if (!p) jinja_fail_budget(J, "memory");
    J->walk.frames = p;
    J->walk.cap = cap;
}

typedef void leaf_fn(struct jinja *J, void *arg, const struct jinja_str *leaf);

// Calls fn for every flat part of s, in order, without recursion: ropes may be deep.
static void each_leaf(struct jinja *J, const struct jinja_str *s, leaf_fn *fn, void *arg)
{
    size_t depth = 0;
    for (;;) {
        jinja_charge(J, 1);
        if (s->p) {
            fn(J, arg, s);
        } else {
            if (depth == J->walk.cap) walk_grow(J);
            J->walk.frames[depth].s = s;
            J->walk.frames[depth++].at = 0;
        }
        while (depth && J->walk.frames[depth - 1].at == J->walk.frames[depth - 1].s->n_part)
            depth--;
        if (depth == 0) return;
        s = J->walk.frames[depth - 1].s->parts[J->walk.frames[depth - 1].at++];
    }
}

static void leaf_to_text(struct jinja *J, void *arg, const struct jinja_str *leaf)
{
    (void)J;
    add_flat(arg, leaf);
}

const struct jinja_str *jinja_str_flat(struct jinja *J, struct jinja_str *s)
{
    if (s->p) return s;
    struct jinja_text t = {.J = J};
    reserve(&t, s->len);
    each_leaf(J, s, leaf_to_text, &t);
    *s = *jinja_str_done(&t);
    return s;
}

static void leaf_to_output(struct jinja *J, void *arg, const struct jinja_str *leaf)
{
    struct template_output *o = arg;
    bool input;
    jinja_charge_bytes(J, leaf->len);
    for (size_t at = 0, end; at < leaf->len; at = end) {
        end = jinja_str_run(leaf, at, &input);
        size_t from = o->text.len, to = from + (end - at);
        buf_add(&o->text, leaf->p + at, end - at);
        if (!buf_ok(&o->text)) jinja_fail_budget(J, "text");
        if (!input) continue;
        if (o->n_plain && o->plain[o->n_plain - 1].to == from) {
            o->plain[o->n_plain - 1].to = to;
            continue;
        }
        if (o->n_plain == o->cap_plain) {
            size_t cap = o->cap_plain ? o->cap_plain * 2 : 64;
            struct text_span *p = realloc(o->plain, cap * sizeof *p);
            if (!p) jinja_fail_budget(J, "memory");
            o->plain = p;
            o->cap_plain = cap;
        }
        o->plain[o->n_plain++] = (struct text_span){from, to};
    }
}

static void print_to_capture(struct jinja *J, struct jinja_str *s)
{
    struct jinja_capture *c = J->capture;
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 8;
        struct jinja_str **parts = jinja_take(J, cap, sizeof *parts);
        if (c->n) memcpy(parts, c->parts, c->n * sizeof *parts);
        c->parts = parts;
        c->cap = cap;
    }
    c->parts[c->n++] = s;
}

void jinja_str_print(struct jinja *J, struct jinja_str *s)
{
    if (s->len == 0) return;
    if (J->capture)
        print_to_capture(J, s);
    else
        each_leaf(J, s, leaf_to_output, J->out);
}

// --- looking at bytes -------------------------------------------------------------------------

struct jinja_str *jinja_str_slice(struct jinja *J, struct jinja_str *str, size_t from, size_t to)
{
    const struct jinja_str *s = jinja_str_flat(J, str);
    if (from == 0 && to == s->len) return str;
    struct jinja_str *part = jinja_str_new(J, s->p + from, to > from ? to - from : 0, s->marks);
    part->base = s->base + from;
    return part;
}

bool jinja_str_equal(struct jinja *J, struct jinja_str *a, struct jinja_str *b)
{
    if (a->len != b->len) return false;
    if (a->len == 0 || a == b) return true;
    jinja_charge_bytes(J, a->len);
    return memcmp(jinja_str_flat(J, a)->p, jinja_str_flat(J, b)->p, a->len) == 0;
}

// UTF-8 sorts as its code points do.
int jinja_str_order(struct jinja *J, struct jinja_str *a, struct jinja_str *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    jinja_charge_bytes(J, n);
    int order = n ? memcmp(jinja_str_flat(J, a)->p, jinja_str_flat(J, b)->p, n) : 0;
    if (order) return order < 0 ? -1 : 1;
    return (a->len > b->len) - (a->len < b->len);
}

int64_t jinja_str_chars(struct jinja *J, struct jinja_str *str)
{
    const struct jinja_str *s = jinja_str_flat(J, str);
    jinja_charge_bytes(J, s->len);
    int64_t n = 0;
    for (size_t i = 0; i < s->len; i++)
        n += ((unsigned char)s->p[i] & 0xc0) != 0x80;
    return n;
}

size_t jinja_str_offset(const struct jinja_str *s, int64_t n)
{
    size_t i = 0;
    for (; i < s->len; i++)
        if (((unsigned char)s->p[i] & 0xc0) != 0x80 && n-- == 0) break;
    return i;
}

size_t jinja_str_find(struct jinja *J, struct jinja_str *str, struct jinja_str *what, size_t from)
{
    const struct jinja_str *s = jinja_str_flat(J, str), *w = jinja_str_flat(J, what);
    if (from > s->len || w->len > s->len - from) return SIZE_MAX;
    if (w->len == 0) return from;
    const char *hit = memmem(s->p + from, s->len - from, w->p, w->len);
    jinja_charge_bytes(J, hit ? (size_t)(hit - s->p) - from + w->len : s->len - from);
    return hit ? (size_t)(hit - s->p) : SIZE_MAX;
}

bool jinja_str_is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

const char *jinja_str_char(const char *p, int32_t *c)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) return *c = u[0], p + 1;
    if (u[0] < 0xe0) return *c = (u[0] & 31) << 6 | (u[1] & 63), p + 2;
    if (u[0] < 0xf0) return *c = (u[0] & 15) << 12 | (u[1] & 63) << 6 | (u[2] & 63), p + 3;
    *c = (u[0] & 7) << 18 | (u[1] & 63) << 12 | (u[2] & 63) << 6 | (u[3] & 63);
    return p + 4;
}

bool jinja_str_is(struct jinja *J, struct jinja_str *s, const char *cstr)
{
    size_t len = strlen(cstr);
    return s->len == len && memcmp(jinja_str_flat(J, s)->p, cstr, len) == 0;
}
