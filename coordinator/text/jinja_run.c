#include "coordinator/text/jinja.h"

enum flow { NEXT, BREAK, CONTINUE };

static enum flow run(struct jinja *J, const struct jinja_node *body);

// --- variables --------------------------------------------------------------------------------

static struct jinja_value *find_var(struct jinja *J, const struct jinja_scope *s, int name)
{
    for (struct jinja_var *v = s->vars; v; v = v->next) {
        jinja_charge(J, 1);
        if (v->name == name) return &v->value;
    }
    return NULL;
}

struct jinja_value jinja_run_var(struct jinja *J, int name)
{
    for (const struct jinja_scope *s = J->scope; s; s = s->outer) {
        const struct jinja_value *v = find_var(J, s, name);
        if (v && jinja_given(*v)) return *v;
    }
    struct jinja_value v = J->globals[name];
    return jinja_given(v) ? v : jinja_undef(J->prog->names[name]);
}

static void set_var(struct jinja *J, int name, struct jinja_value value)
{
    struct jinja_value *have = J->scope ? find_var(J, J->scope, name) : &J->globals[name];
    if (have) {
        *have = value;
        return;
    }
    struct jinja_var *v = jinja_take(J, 1, sizeof *v);
    *v = (struct jinja_var){name, value, J->scope->vars};
    J->scope->vars = v;
}

static struct jinja_scope *new_scope(struct jinja *J, struct jinja_scope *outer)
{
    struct jinja_scope *s = jinja_take(J, 1, sizeof *s);
    s->outer = outer;
    return s;
}

static void assign_tuple(struct jinja *J, const struct jinja_node *target, struct jinja_value v)
{
    v = jinja_value_seq(J, v);
    int64_t n = jinja_value_len(J, v);
    if (n != target->n_kids)
        jinja_fail(J, "%d values expected to unpack, not %lld", target->n_kids, (long long)n);
    for (int i = 0; i < target->n_kids; i++)
        set_var(J, target->kids[i]->name, jinja_value_at(J, v, i));
}

static void assign(struct jinja *J, const struct jinja_node *target, struct jinja_value v)
{
    if (target->op == JINJA_NAME) {
        set_var(J, target->name, v);
    } else if (target->op == JINJA_ATTR) {
        struct jinja_value ns = jinja_run_var(J, target->a->name);
        if (ns.kind != JINJA_NAMESPACE)
            jinja_fail(J, "only attributes of a namespace can be assigned");
        jinja_value_put(J, ns.dict, target->value, v);
    } else {
        assign_tuple(J, target, v);
    }
}

// --- captured text ----------------------------------------------------------------------------

static struct jinja_value captured(struct jinja *J, const struct jinja_node *body)
{
    struct jinja_capture mine = {0}, *outer = J->capture;
    J->capture = &mine;
    enum flow flow = run(J, body);
    J->capture = outer;
    if (flow != NEXT) jinja_fail(J, "break or continue out of a block");
    return jinja_of_str(jinja_str_cat(J, mine.parts, mine.n));
}

// The body's text through a chain of filters, which takes it from J->filtered.
static struct jinja_value filtered(struct jinja *J, const struct jinja_node *filters,
                                   const struct jinja_node *body)
{
    J->filtered = captured(J, body);
    return filters ? jinja_eval(J, filters) : J->filtered;
}

static struct jinja_value argument(const struct jinja_args *args, int i,
                                   const struct jinja_str *name, int *used)
{
    if (i < args->n) return args->at[i];
    for (int k = 0; k < args->n_kw; k++) {
        if (args->kw[k] != name) continue; // names are interned
        ++*used;
        return args->at[args->n + k];
    }
    return (struct jinja_value){.kind = JINJA_ABSENT};
}

static int caller_arg(struct jinja *J, const struct jinja_args *args)
{
    for (int k = 0; k < args->n_kw; k++)
        if (jinja_str_is(J, args->kw[k], "caller")) return k;
    return -1;
}

static void bind(struct jinja *J, const struct jinja_macro *m, const struct jinja_args *args)
{
    const struct jinja_node *n = m->node;
    int used = 0, caller = caller_arg(J, args);
    if (args->n > n->n_ids)
        jinja_fail(J, "macro takes at most %d arguments, not %d", n->n_ids, args->n);
    for (int i = 0; i < n->n_ids; i++) {
        const struct jinja_str *name = J->prog->names[n->ids[i]];
        struct jinja_value v = argument(args, i, name, &used);
        if (v.kind == JINJA_ABSENT)
            v = n->kids[i] ? jinja_eval(J, n->kids[i]) : jinja_undef(J->prog->names[n->ids[i]]);
        set_var(J, n->ids[i], v);
    }
    if (caller >= 0) {
        int name = jinja_expr_name_find(J->prog, "caller", 6);
        set_var(J, name, args->at[args->n + caller]);
        used++;
    }
    if (used < args->n_kw) jinja_fail(J, "macro takes no such named argument");
}

struct jinja_value jinja_run_macro(struct jinja *J, const struct jinja_macro *m,
                                   const struct jinja_args *args)
{
    struct jinja_scope *scope = J->scope;
    if (++J->calls > TEMPLATE_DEPTH_MAX) jinja_fail_budget(J, "nesting");
    J->scope = new_scope(J, m->scope);
    bind(J, m, args);
    struct jinja_value text = captured(J, m->node->b);
    J->calls--;
    J->scope = scope;
    return text;
}

// --- statements -------------------------------------------------------------------------------

static enum flow run_if(struct jinja *J, const struct jinja_node *n)
{
    for (int i = 0; i < n->n_kids; i += 2)
        if (jinja_value_truth(J, jinja_eval(J, n->kids[i]))) return run(J, n->kids[i + 1]);
    return n->a ? run(J, n->a) : NEXT;
}

// What was set in one round of a loop is not seen in the next.
static void forget_vars(struct jinja_scope *s)
{
    for (struct jinja_var *v = s->vars; v; v = v->next)
        v->value = (struct jinja_value){.kind = JINJA_ABSENT};
}

static struct jinja_value only_wanted(struct jinja *J, const struct jinja_node *n,
                                      struct jinja_value seq)
{
    int64_t len = jinja_value_len(J, seq);
    struct jinja_value list = jinja_value_new_list(J, (size_t)len);
    list.list->n = 0;
    for (int64_t i = 0; i < len; i++) {
        struct jinja_value item = jinja_value_at(J, seq, i);
        forget_vars(J->scope);
        assign(J, n->kids[0], item);
        if (jinja_value_truth(J, jinja_eval(J, n->kids[1])))
            list.list->items[list.list->n++] = item;
    }
    return list;
}

static enum flow run_rounds(struct jinja *J, const struct jinja_node *n, struct jinja_loop *loop)
{
    int loop_name = jinja_expr_name_find(J->prog, "loop", 4);
    struct jinja_value self = {.kind = JINJA_LOOP, .loop = loop};
    for (loop->at = 0; loop->at < loop->n; loop->at++) {
        jinja_charge(J, 2);
        forget_vars(J->scope);
        if (loop_name >= 0) set_var(J, loop_name, self);
        assign(J, n->kids[0], jinja_value_at(J, loop->seq, loop->at));
        if (run(J, n->b) == BREAK) break;
    }
    return NEXT;
}

static enum flow run_for(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value seq = jinja_value_seq(J, jinja_eval(J, n->a));
    struct jinja_scope *outer = J->scope;
    J->scope = new_scope(J, outer);
    if (n->kids[1]) seq = only_wanted(J, n, seq);
    struct jinja_loop *loop = jinja_take(J, 1, sizeof *loop);
    *loop = (struct jinja_loop){.seq = seq, .n = jinja_value_len(J, seq)};
    if (loop->n) run_rounds(J, n, loop);
    J->scope = outer;
    return loop->n == 0 && n->c ? run(J, n->c) : NEXT;
}

static enum flow run_with(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_scope *outer = J->scope, *inner = new_scope(J, outer);
    for (int i = 0; i < n->n_kids; i++) { // values do not see each other
        struct jinja_value v = jinja_eval(J, n->kids[i]);
        J->scope = inner;
        set_var(J, n->ids[i], v);
        J->scope = outer;
    }
    J->scope = inner;
    enum flow flow = run(J, n->b);
    J->scope = outer;
    return flow;
}

static struct jinja_value new_macro(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_macro *m = jinja_take(J, 1, sizeof *m);
    *m = (struct jinja_macro){.node = n, .scope = J->scope};
    return (struct jinja_value){.kind = JINJA_MACRO, .macro = m};
}

// The call gets one more named argument, `caller`.
static void run_call(struct jinja *J, const struct jinja_node *n)
{
    const struct jinja_node *call = n->a;
    struct jinja_value fn = jinja_eval(J, call->a);
    struct jinja_value *at = jinja_take(J, (size_t)call->n_kids + 1, sizeof *at);
    struct jinja_str **kw = jinja_take(J, (size_t)call->n_kw + 1, sizeof *kw);
    for (int i = 0; i < call->n_kids; i++)
        at[i] = jinja_eval(J, call->kids[i]);
    for (int i = 0; i < call->n_kw; i++)
        kw[i] = call->kw[i];
    at[call->n_kids] = new_macro(J, n);
    kw[call->n_kw] = J->prog->names[n->name];
    struct jinja_args args = {at, call->n_kids - call->n_kw, call->n_kw + 1, kw};
    jinja_str_print(J, jinja_value_str(J, jinja_eval_call(J, fn, &args)));
}

static enum flow run_one(struct jinja *J, const struct jinja_node *n)
{
    switch (n->op) {
    case JINJA_DO_TEXT:
        jinja_str_print(J, n->value.s);
        return NEXT;
    case JINJA_DO_PRINT:
        jinja_str_print(J, jinja_value_str(J, jinja_eval(J, n->a)));
        return NEXT;
    case JINJA_DO_BODY:
        return run(J, n);
    case JINJA_DO_IF:
        return run_if(J, n);
    case JINJA_DO_FOR:
        return run_for(J, n);
    case JINJA_DO_SET:
        assign(J, n->a, jinja_eval(J, n->b));
        return NEXT;
    case JINJA_DO_SET_BLOCK:
        assign(J, n->a, filtered(J, n->c, n->b));
        return NEXT;
    case JINJA_DO_MACRO:
        set_var(J, n->name, new_macro(J, n));
        return NEXT;
    case JINJA_DO_CALL:
        run_call(J, n);
        return NEXT;
    case JINJA_DO_FILTER:
        jinja_str_print(J, jinja_value_str(J, filtered(J, n->a, n->b)));
        return NEXT;
    case JINJA_DO_WITH:
        return run_with(J, n);
    case JINJA_DO_BREAK:
        return BREAK;
    case JINJA_DO_CONTINUE:
        return CONTINUE;
    default:
        BUG("not a statement");
    }
}

static enum flow run(struct jinja *J, const struct jinja_node *body)
{
    enum flow flow = NEXT;
    jinja_enter(J);
    for (int i = 0; i < body->n_kids && flow == NEXT; i++) {
        jinja_charge(J, 1);
        J->line = body->kids[i]->line;
        flow = run_one(J, body->kids[i]);
    }
    jinja_leave(J);
    return flow;
}

void jinja_run(struct jinja *J, const struct jinja_node *body)
{
    if (run(J, body) != NEXT) jinja_fail(J, "break or continue outside a loop");
}
