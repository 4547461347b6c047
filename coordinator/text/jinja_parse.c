#include "coordinator/text/jinja.h"

#include <stdio.h>
#include <string.h>

static struct jinja_node *body_until(struct jinja_parser *P, const char *const *ends);

static void tag_done(struct jinja_parser *P)
{
    if (jinja_expr_peek(P)->type != JINJA_T_TAG_END) jinja_expr_fail(P, "unexpected text in a tag");
    jinja_expr_next(P);
}

// Body up to "{% END %}", whose tag is consumed.
static struct jinja_node *block(struct jinja_parser *P, const char *end)
{
    tag_done(P);
    const char *ends[] = {end, NULL};
    struct jinja_node *body = body_until(P, ends);
    jinja_expr_next(P);
    return body;
}

// JINJA_DO_IF: kids are condition, body, condition, body, ...; a is the else body.
static struct jinja_node *parse_if(struct jinja_parser *P)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_IF);
    do {
        jinja_expr_add_kid(P, n, jinja_expr_tuple(P, true));
        tag_done(P);
        jinja_expr_add_kid(P, n, body_until(P, ends));
    } while (jinja_expr_skip_name(P, "elif"));
    if (jinja_expr_skip_name(P, "else"))
        n->a = block(P, "endif");
    else
        jinja_expr_next(P);
    return n;
}

// A name, a.b (of a namespace), or a tuple of names.
static struct jinja_node *target(struct jinja_parser *P, bool attribute)
{
    struct jinja_node *n = jinja_expr_primary(P);
    if (attribute && n->op == JINJA_NAME && jinja_expr_is_op(P, '.')) {
        n = jinja_expr_postfix(P, n);
        if (n->op == JINJA_ATTR && n->a->op == JINJA_NAME) return n;
        jinja_expr_fail(P, "cannot assign to this");
    }
    if (n->op != JINJA_NAME && n->op != JINJA_MAKE_TUPLE)
        jinja_expr_fail(P, "cannot assign to this");
    if (n->op == JINJA_NAME && jinja_expr_is_op(P, ',')) {
        struct jinja_node *t = jinja_expr_node(P, JINJA_MAKE_TUPLE);
        jinja_expr_add_kid(P, t, n);
        while (jinja_expr_skip_op(P, ','))
            jinja_expr_add_kid(P, t, jinja_expr_primary(P));
        n = jinja_expr_done(P, t);
    }
    for (int i = 0; n->op == JINJA_MAKE_TUPLE && i < n->n_kids; i++)
        if (n->kids[i]->op != JINJA_NAME) jinja_expr_fail(P, "cannot assign to this");
    return n;
}

// JINJA_DO_FOR: kids[0] target, kids[1] condition or NULL; a what to go over, b body, c else body.
static struct jinja_node *parse_for(struct jinja_parser *P)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_FOR);
    jinja_expr_add_kid(P, n, target(P, false));
    if (!jinja_expr_skip_name(P, "in")) jinja_expr_fail(P, "'in' expected");
    n->a = jinja_expr_tuple(P, false);
    jinja_expr_add_kid(P, n, jinja_expr_skip_name(P, "if") ? jinja_expr(P) : NULL);
    if (jinja_expr_is_name(P, "recursive")) jinja_expr_fail(P, "recursive loops are not supported");
    tag_done(P);
    n->b = body_until(P, ends);
    if (jinja_expr_skip_name(P, "else"))
        n->c = block(P, "endfor");
    else
        jinja_expr_next(P);
    return n;
}

// JINJA_DO_SET: a = b. JINJA_DO_SET_BLOCK: a = body b through filters c (or NULL).
static struct jinja_node *parse_set(struct jinja_parser *P)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_SET);
    n->a = target(P, true);
    if (jinja_expr_skip_op(P, '=')) {
        n->b = jinja_expr_tuple(P, true);
        return n;
    }
    n->op = JINJA_DO_SET_BLOCK;
    n->c = jinja_expr_filters(P, NULL, false);
    n->b = block(P, "endset");
    return n;
}

// "(a, b=1)": ids are the names, kids the defaults (NULL: none).
static void parameters(struct jinja_parser *P, struct jinja_node *n)
{
    n->ids = jinja_expr_take(P, JINJA_ARGS_MAX, sizeof *n->ids);
    jinja_expr_want_op(P, '(');
    while (!jinja_expr_is_op(P, ')')) {
        if (n->n_ids) jinja_expr_want_op(P, ',');
        if (n->n_ids == JINJA_ARGS_MAX) jinja_expr_fail(P, "too many parameters");
        n->ids[n->n_ids++] = jinja_expr_want_name(P);
        jinja_expr_add_kid(P, n, jinja_expr_skip_op(P, '=') ? jinja_expr(P) : NULL);
    }
    jinja_expr_want_op(P, ')');
}

// JINJA_DO_MACRO: name, parameters, body b.
static struct jinja_node *parse_macro(struct jinja_parser *P)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_MACRO);
    n->name = jinja_expr_want_name(P);
    parameters(P, n);
    n->b = block(P, "endmacro");
    return n;
}

// JINJA_DO_CALL: parameters of `caller`, a the call, b the body that caller() gives.
static struct jinja_node *parse_call(struct jinja_parser *P)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_CALL);
    n->name = jinja_expr_intern(P, "caller", 6);
    if (jinja_expr_is_op(P, '(')) parameters(P, n);
    n->a = jinja_expr(P);
    if (n->a->op != JINJA_CALL) jinja_expr_fail(P, "call expected");
    n->b = block(P, "endcall");
    return n;
}

// JINJA_DO_FILTER: filters a of body b.
static struct jinja_node *parse_filter(struct jinja_parser *P)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_FILTER);
    n->a = jinja_expr_filters(P, NULL, true);
    n->b = block(P, "endfilter");
    return n;
}

// JINJA_DO_WITH: names ids, values kids, body b.
static struct jinja_node *parse_with(struct jinja_parser *P)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_WITH);
    n->ids = jinja_expr_take(P, JINJA_ARGS_MAX, sizeof *n->ids);
    while (jinja_expr_peek(P)->type != JINJA_T_TAG_END) {
        if (n->n_ids) jinja_expr_want_op(P, ',');
        if (n->n_ids == JINJA_ARGS_MAX) jinja_expr_fail(P, "too many variables");
        n->ids[n->n_ids++] = jinja_expr_want_name(P);
        jinja_expr_want_op(P, '=');
        jinja_expr_add_kid(P, n, jinja_expr(P));
    }
    n->b = block(P, "endwith");
    return n;
}

static struct jinja_node *parse_break(struct jinja_parser *P)
{
    return jinja_expr_node(P, JINJA_DO_BREAK);
}

static struct jinja_node *parse_continue(struct jinja_parser *P)
{
    return jinja_expr_node(P, JINJA_DO_CONTINUE);
}

// Marks for training (an extension of transformers): the body is what counts.
static struct jinja_node *parse_generation(struct jinja_parser *P)
{
    return block(P, "endgeneration");
}

static struct jinja_node *statement(struct jinja_parser *P)
{
    static const struct {
        const char *name;
        struct jinja_node *(*parse)(struct jinja_parser *P);
        bool is_open; // its own closing tag is still to come
    } tags[] = {
        {"if", parse_if, true},        {"for", parse_for, true},
        {"set", parse_set, true},      {"macro", parse_macro, true},
        {"call", parse_call, true},    {"filter", parse_filter, true},
        {"with", parse_with, true},    {"generation", parse_generation, true},
        {"break", parse_break, false}, {"continue", parse_continue, false},
    };
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        if (!jinja_expr_is_name(P, tags[i].name)) continue;
        jinja_expr_next(P);
        struct jinja_node *n = tags[i].parse(P);
        tag_done(P);
        return jinja_expr_done(P, n);
    }
    jinja_expr_fail(P, "unknown tag");
}

static struct jinja_node *text(struct jinja_parser *P)
{
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_TEXT);
    const struct jinja_token *t = jinja_expr_next(P);
    struct jinja_str *s = jinja_expr_take(P, 1, sizeof *s);
    *s = (struct jinja_str){.p = t->p, .len = t->len};
    n->value = jinja_of_str(s);
    return n;
}

// JINJA_DO_PRINT: a.
static struct jinja_node *print(struct jinja_parser *P)
{
    jinja_expr_next(P);
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_PRINT);
    n->a = jinja_expr_tuple(P, true);
    if (jinja_expr_peek(P)->type != JINJA_T_PRINT_END)
        jinja_expr_fail(P, "unexpected text in a print");
    jinja_expr_next(P);
    return jinja_expr_done(P, n);
}

static bool at_end(const struct jinja_parser *P, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (jinja_expr_is_name(P, *ends)) return true;
    return false;
}

// JINJA_DO_BODY: kids. Stops behind the "{%" of one of the end tags, at its name; at the end of the
// template if ends is NULL.
static struct jinja_node *body_until(struct jinja_parser *P, const char *const *ends)
{
    jinja_expr_enter(P);
    struct jinja_node *n = jinja_expr_node(P, JINJA_DO_BODY);
    for (;;) {
        enum jinja_tok type = jinja_expr_peek(P)->type;
        if (type == JINJA_T_END) {
            if (ends) jinja_stop(&P->stop, ERR_MODEL, n->line, "block is never closed");
            break;
        }
        if (type == JINJA_T_TEXT) {
            jinja_expr_add_kid(P, n, text(P));
        } else if (type == JINJA_T_PRINT) {
            jinja_expr_add_kid(P, n, print(P));
        } else {
            jinja_expr_next(P);
            if (at_end(P, ends)) break;
            jinja_expr_add_kid(P, n, statement(P));
        }
    }
    P->depth--;
    return jinja_expr_done(P, n);
}

void jinja_parse(struct jinja_parser *P)
{
    for (int i = 0; i < jinja_call_n_functions; i++)
        jinja_expr_intern(P, jinja_call_functions[i].name, strlen(jinja_call_functions[i].name));
    P->prog->body = body_until(P, NULL);
}
