#include "coordinator/text/jinja.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COMPARE_MAX = 8 }; // a < b < c ...

// --- tools ------------------------------------------------------------------------------------

void jinja_expr_fail(struct jinja_parser *P, const char *what)
{
    const struct jinja_token *t = jinja_expr_peek(P);
    if (t->type == JINJA_T_END) jinja_stop(&P->stop, ERR_MODEL, t->line, "%s at the end", what);
    int len = t->len > 40 ? 40 : (int)t->len;
    if (len == 0) jinja_stop(&P->stop, ERR_MODEL, t->line, "%s at the end of the tag", what);
    jinja_stop(&P->stop, ERR_MODEL, t->line, "%s at '%.*s'", what, len, t->p);
}

void *jinja_expr_take(struct jinja_parser *P, size_t n, size_t size)
{
    void *p = arena_take_n(P->mem, n, size);
    if (!p) jinja_stop(&P->stop, ERR_MODEL, 0, "the template needs too much memory");
    return p;
}

struct jinja_node *jinja_expr_node(struct jinja_parser *P, enum jinja_op op)
{
    struct jinja_node *n = jinja_expr_take(P, 1, sizeof *n);
    n->op = op;
    n->line = jinja_expr_peek(P)->line;
    return n;
}

static void raise_height(struct jinja_node *n, const struct jinja_node *kid)
{
    if (kid && kid->height >= n->height) n->height = kid->height + 1;
}

// To be called when a node has all its kids: evaluation recurses as deep as the tree is high.
struct jinja_node *jinja_expr_done(struct jinja_parser *P, struct jinja_node *n)
{
    raise_height(n, n->a);
    raise_height(n, n->b);
    raise_height(n, n->c);
    for (int i = 0; i < n->n_kids; i++)
        raise_height(n, n->kids[i]);
    if (n->height > JINJA_HEIGHT_MAX)
        jinja_stop(&P->stop, ERR_MODEL, n->line, "expressions or blocks are nested too deeply");
    return n;
}

void jinja_expr_add_kid(struct jinja_parser *P, struct jinja_node *n, struct jinja_node *kid)
{
    // Capacity is the next power of two, so it need not be stored.
    if (n->n_kids == 0 || (n->n_kids & (n->n_kids - 1)) == 0) {
        size_t cap = n->n_kids ? (size_t)n->n_kids * 2 : 1;
        struct jinja_node **kids = jinja_expr_take(P, cap, sizeof *kids);
        if (n->n_kids) memcpy(kids, n->kids, (size_t)n->n_kids * sizeof *kids);
        n->kids = kids;
    }
    n->kids[n->n_kids++] = kid;
}

const struct jinja_token *jinja_expr_peek(const struct jinja_parser *P)
{
    return &P->toks[P->at];
}

const struct jinja_token *jinja_expr_next(struct jinja_parser *P)
{
    const struct jinja_token *t = &P->toks[P->at];
    if (t->type != JINJA_T_END) P->at++;
    return t;
}

static bool token_is_name(const struct jinja_token *t, const char *name)
{
    return t->type == JINJA_T_NAME && t->len == strlen(name) && memcmp(t->p, name, t->len) == 0;
}

bool jinja_expr_is_op(const struct jinja_parser *P, int op)
{
    const struct jinja_token *t = jinja_expr_peek(P);
    return t->type == JINJA_T_OP && t->op == op;
}

bool jinja_expr_is_name(const struct jinja_parser *P, const char *name)
{
    return token_is_name(jinja_expr_peek(P), name);
}

bool jinja_expr_skip_op(struct jinja_parser *P, int op)
{
    if (!jinja_expr_is_op(P, op)) return false;
    jinja_expr_next(P);
    return true;
}

bool jinja_expr_skip_name(struct jinja_parser *P, const char *name)
{
    if (!jinja_expr_is_name(P, name)) return false;
    jinja_expr_next(P);
    return true;
}

void jinja_expr_want_op(struct jinja_parser *P, int op)
{
    char what[32];
    if (jinja_expr_skip_op(P, op)) return;
    snprintf(what, sizeof what, "'%c' expected", op & 0xff);
    jinja_expr_fail(P, what);
}

int jinja_expr_want_name(struct jinja_parser *P)
{
    const struct jinja_token *t = jinja_expr_peek(P);
    if (t->type != JINJA_T_NAME) jinja_expr_fail(P, "name expected");
    jinja_expr_next(P);
    return jinja_expr_intern(P, t->p, t->len);
}

void jinja_expr_enter(struct jinja_parser *P)
{
    if (++P->depth > TEMPLATE_DEPTH_MAX)
        jinja_expr_fail(P, "expressions or blocks are nested too deeply");
}

static uint32_t hash_of(const char *s, size_t len)
{
    uint32_t h = 2166136261u; // FNV-1a
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h;
}

// Slot of the name in the hash, or the free slot where it belongs.
static int slot_of(const struct jinja_program *prog, const char *s, size_t len)
{
    int mask = prog->n_hash - 1;
    for (int i = (int)(hash_of(s, len) & (uint32_t)mask);; i = (i + 1) & mask) {
        int name = prog->name_hash[i];
        if (name < 0) return i;
        const struct jinja_str *have = prog->names[name];
        if (have->len == len && memcmp(have->p, s, len) == 0) return i;
    }
}

int jinja_expr_name_find(const struct jinja_program *prog, const char *s, size_t len)
{
    return prog->n_hash ? prog->name_hash[slot_of(prog, s, len)] : -1;
}

static void names_grow(struct jinja_parser *P)
{
    struct jinja_program *prog = P->prog;
    int cap = prog->cap_names ? prog->cap_names * 2 : 64;
    struct jinja_str **names = jinja_expr_take(P, (size_t)cap, sizeof *names);
    if (prog->n_names) memcpy(names, prog->names, (size_t)prog->n_names * sizeof *names);
    prog->names = names;
    prog->cap_names = cap;
    prog->n_hash = cap * 2;
    prog->name_hash = jinja_expr_take(P, (size_t)prog->n_hash, sizeof *prog->name_hash);
    memset(prog->name_hash, 0xff, (size_t)prog->n_hash * sizeof *prog->name_hash);
    for (int i = 0; i < prog->n_names; i++)
        prog->name_hash[slot_of(prog, names[i]->p, names[i]->len)] = i;
}

static struct jinja_str *new_str(struct jinja_parser *P, const char *p, size_t len)
{
    struct jinja_str *s = jinja_expr_take(P, 1, sizeof *s);
    *s = (struct jinja_str){.p = p, .len = len};
    return s;
}

int jinja_expr_intern(struct jinja_parser *P, const char *s, size_t len)
{
    struct jinja_program *prog = P->prog;
    if (prog->n_names == prog->cap_names) names_grow(P);
    int *slot = &prog->name_hash[slot_of(prog, s, len)];
    if (*slot >= 0) return *slot;
    prog->names[prog->n_names] = new_str(P, s, len);
    return *slot = prog->n_names++;
}

// --- literals ---------------------------------------------------------------------------------

static struct jinja_node *constant(struct jinja_parser *P, struct jinja_value v)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_CONST);
    n->value = v;
    return n;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

// One escape of a Python string literal, s just behind the backslash; returns the bytes used.
static size_t unescape(struct jinja_parser *P, const char *s, size_t left, char *out, size_t *n)
{
    static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    for (size_t i = 0; i + 1 < sizeof plain; i += 2) {
        if (s[0] != plain[i]) continue;
        out[(*n)++] = plain[i + 1];
        return 1;
    }
    if (s[0] == '\n') return 1;
    size_t len = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    uint32_t c = 0;
    if (len == 0 && s[0] >= '0' && s[0] <= '7') {
        while (len < 3 && len < left && s[len] >= '0' && s[len] <= '7')
            c = c * 8 + (uint32_t)(s[len++] - '0');
        *n += put_utf8(out + *n, c);
        return len;
    }
    if (len == 0) { // Python keeps the backslash of an unknown escape
        out[(*n)++] = '\\';
        return 0;
    }
    char hex[9] = {0}, *end;
    if (left < 1 + len) jinja_expr_fail(P, "truncated escape in a string");
    memcpy(hex, s + 1, len);
    c = (uint32_t)strtoul(hex, &end, 16);
    if (*end || hex[0] == '+' || hex[0] == '-' || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        jinja_expr_fail(P, "bad escape in a string");
    *n += put_utf8(out + *n, c);
    return 1 + len;
}

// Adjacent literals are one string. No escape is shorter than what it stands for.
static struct jinja_node *string(struct jinja_parser *P)
{
    size_t max = 0, n = 0;
    for (size_t i = P->at; P->toks[i].type == JINJA_T_STR; i++)
        max += P->toks[i].len;
    char *out = jinja_expr_take(P, max + 1, 1);
    struct jinja_node *node = jinja_expr_node(P, JINJA_CONST);
    while (jinja_expr_peek(P)->type == JINJA_T_STR) {
        const struct jinja_token *t = jinja_expr_peek(P);
        for (size_t i = 0; i < t->len;) {
            if (t->p[i] != '\\')
                out[n++] = t->p[i++];
            else
                i += 1 + unescape(P, t->p + i + 1, t->len - i - 1, out, &n);
        }
        jinja_expr_next(P);
    }
    node->value = jinja_of_str(new_str(P, out, n));
    return node;
}

static struct jinja_node *number(struct jinja_parser *P)
{
    const struct jinja_token *t = jinja_expr_peek(P);
    char text[64], *end;
    size_t n = 0;
    for (size_t i = 0; i < t->len; i++) {
        if (t->p[i] == '_') continue;
        if (n + 1 == sizeof text) jinja_expr_fail(P, "number is too long");
        text[n++] = t->p[i];
    }
    text[n] = 0;
    errno = 0;
    struct jinja_value v = t->type == JINJA_T_INT ? jinja_int(strtoll(text, &end, 10))
                                                  : jinja_real(strtod(text, &end));
    if (*end || (errno && t->type == JINJA_T_INT)) jinja_expr_fail(P, "number is out of range");
    struct jinja_node *node = constant(P, v);
    jinja_expr_next(P);
    return node;
}

static struct jinja_node *name_or_constant(struct jinja_parser *P)
{
    static const struct {
        const char *name;
        struct jinja_value value;
    } words[] = {
        {"true", {.kind = JINJA_BOOL, .b = true}},
        {"True", {.kind = JINJA_BOOL, .b = true}},
        {"false", {.kind = JINJA_BOOL, .b = false}},
        {"False", {.kind = JINJA_BOOL, .b = false}},
        {"none", {.kind = JINJA_NONE}},
        {"None", {.kind = JINJA_NONE}},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!jinja_expr_is_name(P, words[i].name)) continue;
        struct jinja_node *n = constant(P, words[i].value);
        jinja_expr_next(P);
        return n;
    }
    struct jinja_node *n = jinja_expr_node(P, JINJA_NAME);
    n->name = jinja_expr_want_name(P);
    return n;
}

// kids: the items; of a mapping key, value, key, value, ...
static struct jinja_node *list_or_dict(struct jinja_parser *P, bool is_dict)
{
    int close = is_dict ? '}' : ']';
    struct jinja_node *n = jinja_expr_node(P, is_dict ? JINJA_MAKE_DICT : JINJA_MAKE_LIST);
    jinja_expr_next(P);
    while (!jinja_expr_is_op(P, close)) {
        if (n->n_kids) {
            jinja_expr_want_op(P, ',');
            if (jinja_expr_is_op(P, close)) break;
        }
        jinja_expr_add_kid(P, n, jinja_expr(P));
        if (!is_dict) continue;
        jinja_expr_want_op(P, ':');
        jinja_expr_add_kid(P, n, jinja_expr(P));
    }
    jinja_expr_want_op(P, close);
    return jinja_expr_done(P, n);
}

struct jinja_node *jinja_expr_primary(struct jinja_parser *P)
{
    const struct jinja_token *t = jinja_expr_peek(P);
    if (t->type == JINJA_T_NAME) return name_or_constant(P);
    if (t->type == JINJA_T_STR) return string(P);
    if (t->type == JINJA_T_INT || t->type == JINJA_T_REAL) return number(P);
    if (jinja_expr_is_op(P, '[')) return list_or_dict(P, false);
    if (jinja_expr_is_op(P, '{')) return list_or_dict(P, true);
    if (!jinja_expr_skip_op(P, '(')) jinja_expr_fail(P, "value expected");
    struct jinja_node *n;
    if (jinja_expr_is_op(P, ')'))
        n = jinja_expr_node(P, JINJA_MAKE_TUPLE);
    else
        n = jinja_expr_tuple(P, true);
    jinja_expr_want_op(P, ')');
    return n;
}

// --- what follows a value ---------------------------------------------------------------------

// "(...)": kids are the arguments, the last n_kw named by kw.
static void arguments(struct jinja_parser *P, struct jinja_node *n)
{
    jinja_expr_want_op(P, '(');
    int from = n->n_kids;
    while (!jinja_expr_is_op(P, ')')) {
        if (n->n_kids > from) {
            jinja_expr_want_op(P, ',');
            if (jinja_expr_is_op(P, ')')) break;
        }
        if (n->n_kids - from == JINJA_ARGS_MAX) jinja_expr_fail(P, "too many arguments");
        if (jinja_expr_is_op(P, '*') || jinja_expr_is_op(P, JINJA_OP2('*', '*')))
            jinja_expr_fail(P, "argument lists from a value are not supported");
        const struct jinja_token *t = jinja_expr_peek(P), *after = t + (t->type != JINJA_T_END);
        if (t->type == JINJA_T_NAME && after->type == JINJA_T_OP && after->op == '=') {
            if (!n->kw) n->kw = jinja_expr_take(P, JINJA_ARGS_MAX, sizeof *n->kw);
            n->kw[n->n_kw++] = P->prog->names[jinja_expr_want_name(P)];
            jinja_expr_next(P);
        } else if (n->n_kw) {
            jinja_expr_fail(P, "positional argument after a named one");
        }
        jinja_expr_add_kid(P, n, jinja_expr(P));
    }
    jinja_expr_want_op(P, ')');
}

// JINJA_CALL: a = callee.
static struct jinja_node *call(struct jinja_parser *P, struct jinja_node *callee)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_CALL);
    n->a = callee;
    arguments(P, n);
    return jinja_expr_done(P, n);
}

// JINJA_ATTR: a.value. JINJA_ITEM: a[b]. JINJA_SLICE: a[kids 0 : kids 1 : kids 2], NULL: left out.
static struct jinja_node *subscript(struct jinja_parser *P, struct jinja_node *of)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_ITEM);
    n->a = of;
    if (jinja_expr_skip_op(P, '.')) {
        const struct jinja_token *t = jinja_expr_peek(P);
        if (t->type == JINJA_T_INT) {
            n->b = number(P);
            return jinja_expr_done(P, n);
        }
        n->op = JINJA_ATTR;
        n->value = jinja_of_str(P->prog->names[jinja_expr_want_name(P)]);
        return jinja_expr_done(P, n);
    }
    jinja_expr_want_op(P, '[');
    struct jinja_node *part[3] = {NULL};
    int at = 0;
    while (!jinja_expr_is_op(P, ']')) {
        if (jinja_expr_skip_op(P, ':')) {
            if (++at > 2) jinja_expr_fail(P, "too many ':' in a slice");
        } else if (part[at]) {
            jinja_expr_fail(P, "']' expected");
        } else {
            part[at] = jinja_expr_tuple(P, true);
        }
    }
    if (at == 0 && !part[0]) jinja_expr_fail(P, "value expected");
    if (at == 0) {
        n->b = part[0];
    } else {
        n->op = JINJA_SLICE;
        for (int i = 0; i < 3; i++)
            jinja_expr_add_kid(P, n, part[i]);
    }
    jinja_expr_want_op(P, ']');
    return jinja_expr_done(P, n);
}

struct jinja_node *jinja_expr_postfix(struct jinja_parser *P, struct jinja_node *n)
{
    for (;;) {
        if (jinja_expr_is_op(P, '.') || jinja_expr_is_op(P, '['))
            n = subscript(P, n);
        else if (jinja_expr_is_op(P, '('))
            n = call(P, n);
        else
            return n;
    }
}

static _Noreturn void unknown(struct jinja_parser *P, const char *what, const struct jinja_token *t)
{
    int len = t->len > 60 ? 60 : (int)t->len;
    jinja_stop(&P->stop, ERR_MODEL, t->line, "no %s named '%.*s'", what, len, t->p);
}

// JINJA_TEST: a is fn(kids).
static struct jinja_node *test(struct jinja_parser *P, struct jinja_node *of)
{
    bool negate = jinja_expr_skip_name(P, "not");
    struct jinja_node *n = jinja_expr_node(P, JINJA_TEST);
    n->a = of;
    const struct jinja_token *t = jinja_expr_peek(P);
    jinja_expr_want_name(P);
    n->fn = jinja_test_find(t->p, t->len);
    if (!n->fn) unknown(P, "test", t);
    t = jinja_expr_peek(P);
    bool operand =
        t->type == JINJA_T_STR || t->type == JINJA_T_INT || t->type == JINJA_T_REAL ||
        jinja_expr_is_op(P, '[') || jinja_expr_is_op(P, '{') ||
        (t->type == JINJA_T_NAME && !token_is_name(t, "else") && !token_is_name(t, "or") &&
         !token_is_name(t, "and") && !token_is_name(t, "is") && !token_is_name(t, "if") &&
         !token_is_name(t, "in") && !token_is_name(t, "not"));
    if (jinja_expr_is_op(P, '('))
        arguments(P, n);
    else if (operand)
        jinja_expr_add_kid(P, n, jinja_expr_postfix(P, jinja_expr_primary(P)));
    jinja_expr_done(P, n);
    if (!negate) return n;
    struct jinja_node *not = jinja_expr_node(P, JINJA_NOT);
    not ->a = n;
    return jinja_expr_done(P, not );
}

// JINJA_FILTER: a | fn(kids); a is NULL for the text of a block.
static struct jinja_node *filter(struct jinja_parser *P, struct jinja_node *of)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_FILTER);
    n->a = of;
    const struct jinja_token *t = jinja_expr_peek(P);
    jinja_expr_want_name(P);
    n->fn = jinja_filter_find(t->p, t->len);
    if (!n->fn) unknown(P, "filter", t);
    if (jinja_expr_is_op(P, '(')) arguments(P, n);
    return jinja_expr_done(P, n);
}

// at_name: the name of a first filter comes next, without its '|'.
struct jinja_node *jinja_expr_filters(struct jinja_parser *P, struct jinja_node *n, bool at_name)
{
    if (at_name) n = filter(P, n);
    for (;;) {
        if (jinja_expr_skip_op(P, '|'))
            n = filter(P, n);
        else if (n && jinja_expr_skip_name(P, "is"))
            n = test(P, n);
        else if (n && jinja_expr_is_op(P, '('))
            n = call(P, n);
        else
            return n;
    }
}

// --- operators, loosest last ------------------------------------------------------------------

static struct jinja_node *binary(struct jinja_parser *P, enum jinja_op op, struct jinja_node *a,
                                 struct jinja_node *b)
{
    struct jinja_node *n = jinja_expr_node(P, op);
    n->a = a;
    n->b = b;
    return jinja_expr_done(P, n);
}

static struct jinja_node *unary(struct jinja_parser *P, bool with_filters)
{
    struct jinja_node *n;
    enum jinja_op op = jinja_expr_is_op(P, '-')   ? JINJA_NEG
                       : jinja_expr_is_op(P, '+') ? JINJA_POS
                                                  : JINJA_CONST;
    if (op != JINJA_CONST) {
        jinja_expr_enter(P);
        jinja_expr_next(P);
        n = binary(P, op, unary(P, false), NULL);
        P->depth--;
    } else {
        n = jinja_expr_postfix(P, jinja_expr_primary(P));
    }
    return with_filters ? jinja_expr_filters(P, n, false) : n;
}

static struct jinja_node *power(struct jinja_parser *P)
{
    struct jinja_node *n = unary(P, true);
    while (jinja_expr_skip_op(P, JINJA_OP2('*', '*')))
        n = binary(P, JINJA_POW, n, unary(P, true));
    return n;
}

static enum jinja_op product_op(const struct jinja_parser *P)
{
    if (jinja_expr_is_op(P, '*')) return JINJA_MUL;
    if (jinja_expr_is_op(P, '/')) return JINJA_DIV;
    if (jinja_expr_is_op(P, JINJA_OP2('/', '/'))) return JINJA_FLOORDIV;
    return jinja_expr_is_op(P, '%') ? JINJA_MOD : JINJA_CONST;
}

static struct jinja_node *product(struct jinja_parser *P)
{
    struct jinja_node *n = power(P);
    for (enum jinja_op op; (op = product_op(P)) != JINJA_CONST;) {
        jinja_expr_next(P);
        n = binary(P, op, n, power(P));
    }
    return n;
}

// JINJA_CONCAT: kids. It binds tighter than + in Jinja.
static struct jinja_node *concat(struct jinja_parser *P)
{
    struct jinja_node *first = product(P);
    if (!jinja_expr_is_op(P, '~')) return first;
    struct jinja_node *n = jinja_expr_node(P, JINJA_CONCAT);
    jinja_expr_add_kid(P, n, first);
    while (jinja_expr_skip_op(P, '~'))
        jinja_expr_add_kid(P, n, product(P));
    return jinja_expr_done(P, n);
}

static struct jinja_node *sum(struct jinja_parser *P)
{
    struct jinja_node *n = concat(P);
    for (;;) {
        if (jinja_expr_skip_op(P, '+'))
            n = binary(P, JINJA_ADD, n, concat(P));
        else if (jinja_expr_skip_op(P, '-'))
            n = binary(P, JINJA_SUB, n, concat(P));
        else
            return n;
    }
}

// Consumes a comparison operator; JINJA_CONST if there is none.
static enum jinja_op compare_op(struct jinja_parser *P)
{
    static const struct {
        int text;
        enum jinja_op op;
    } ops[] = {{JINJA_OP2('=', '='), JINJA_EQ},
               {JINJA_OP2('!', '='), JINJA_NE},
               {JINJA_OP2('<', '='), JINJA_LE},
               {JINJA_OP2('>', '='), JINJA_GE},
               {'<', JINJA_LT},
               {'>', JINJA_GT}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (jinja_expr_skip_op(P, ops[i].text)) return ops[i].op;
    if (jinja_expr_skip_name(P, "in")) return JINJA_IN;
    if (jinja_expr_is_name(P, "not") && token_is_name(jinja_expr_peek(P) + 1, "in")) {
        P->at += 2;
        return JINJA_NOT_IN;
    }
    return JINJA_CONST;
}

// JINJA_COMPARE: a ids[0] kids[0] ids[1] kids[1] ..., each with its left neighbour.
static struct jinja_node *compare(struct jinja_parser *P)
{
    struct jinja_node *first = sum(P), *n = NULL;
    for (enum jinja_op op; (op = compare_op(P)) != JINJA_CONST;) {
        if (!n) {
            n = jinja_expr_node(P, JINJA_COMPARE);
            n->a = first;
            n->ids = jinja_expr_take(P, COMPARE_MAX, sizeof *n->ids);
        }
        if (n->n_ids == COMPARE_MAX) jinja_expr_fail(P, "too many comparisons");
        n->ids[n->n_ids++] = (int)op;
        jinja_expr_add_kid(P, n, sum(P));
    }
    return n ? jinja_expr_done(P, n) : first;
}

static struct jinja_node *negation(struct jinja_parser *P)
{
    if (!jinja_expr_is_name(P, "not")) return compare(P);
    jinja_expr_enter(P);
    jinja_expr_next(P);
    struct jinja_node *n = binary(P, JINJA_NOT, negation(P), NULL);
    P->depth--;
    return n;
}

static struct jinja_node *conjunction(struct jinja_parser *P)
{
    struct jinja_node *n = negation(P);
    while (jinja_expr_skip_name(P, "and"))
        n = binary(P, JINJA_AND, n, negation(P));
    return n;
}

struct jinja_node *jinja_expr_no_cond(struct jinja_parser *P)
{
    struct jinja_node *n = conjunction(P);
    while (jinja_expr_skip_name(P, "or"))
        n = binary(P, JINJA_OR, n, conjunction(P));
    return n;
}

// JINJA_COND: a if b else c (NULL: undefined).
struct jinja_node *jinja_expr(struct jinja_parser *P)
{
    jinja_expr_enter(P);
    struct jinja_node *n = jinja_expr_no_cond(P);
    while (jinja_expr_skip_name(P, "if")) {
        struct jinja_node *cond = jinja_expr_node(P, JINJA_COND);
        cond->a = n;
        cond->b = jinja_expr_no_cond(P);
        if (jinja_expr_skip_name(P, "else")) cond->c = jinja_expr(P);
        n = jinja_expr_done(P, cond);
    }
    P->depth--;
    return n;
}

struct jinja_node *jinja_expr_tuple(struct jinja_parser *P, bool with_cond)
{
    struct jinja_node *first = with_cond ? jinja_expr(P) : jinja_expr_no_cond(P);
    if (!jinja_expr_is_op(P, ',')) return first;
    struct jinja_node *n = jinja_expr_node(P, JINJA_MAKE_TUPLE);
    jinja_expr_add_kid(P, n, first);
    while (jinja_expr_skip_op(P, ',')) {
        const struct jinja_token *t = jinja_expr_peek(P);
        bool value = t->type == JINJA_T_NAME ? !token_is_name(t, "in") && !token_is_name(t, "if")
                     : t->type == JINJA_T_OP ? strchr("([{-+", t->op & 0xff) && t->op < 256
                                             : t->type >= JINJA_T_STR;
        if (!value) break;
        jinja_expr_add_kid(P, n, with_cond ? jinja_expr(P) : jinja_expr_no_cond(P));
    }
    return jinja_expr_done(P, n);
}
