#include "coordinator/text/jinja.h"

#include <math.h>
#include <string.h>

static _Noreturn void bad_operands(struct jinja *J, const char *op, struct jinja_value a,
                                   struct jinja_value b)
{
    struct jinja_value u = a.kind == JINJA_UNDEF ? a : b;
    if (u.kind == JINJA_UNDEF) jinja_value_item(J, u, jinja_none()); // says that it is undefined
    jinja_fail(J, "unsupported operands for %s: '%s' and '%s'", op, jinja_value_type(a),
               jinja_value_type(b));
}

// --- arithmetic -------------------------------------------------------------------------------

static struct jinja_value join_lists(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    struct jinja_value v = jinja_value_new_list(J, a.list->n + b.list->n);
    v.kind = a.kind;
    if (a.list->n) memcpy(v.list->items, a.list->items, a.list->n * sizeof *v.list->items);
    if (b.list->n)
        memcpy(v.list->items + a.list->n, b.list->items, b.list->n * sizeof *v.list->items);
    return v;
}

static struct jinja_value int_result(struct jinja *J, bool overflow, int64_t i)
{
    if (overflow) jinja_fail(J, "integer is out of range");
    return jinja_int(i);
}

struct jinja_value jinja_eval_add(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    int64_t i, j, sum;
    double x, y;
    if (a.kind == JINJA_STR && b.kind == JINJA_STR) {
        struct jinja_str *parts[] = {a.s, b.s};
        return jinja_of_str(jinja_str_cat(J, parts, 2));
    }
    if (a.kind == b.kind && (a.kind == JINJA_LIST || a.kind == JINJA_TUPLE))
        return join_lists(J, a, b);
    if (jinja_value_is_int(a, &i) && jinja_value_is_int(b, &j)) {
        bool overflow = __builtin_add_overflow(i, j, &sum);
        return int_result(J, overflow, sum);
    }
    if (jinja_value_is_number(a, &x) && jinja_value_is_number(b, &y)) return jinja_real(x + y);
    bad_operands(J, "+", a, b);
}

static struct jinja_value sub(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    int64_t i, j, diff;
    double x, y;
    if (jinja_value_is_int(a, &i) && jinja_value_is_int(b, &j)) {
        bool overflow = __builtin_sub_overflow(i, j, &diff);
        return int_result(J, overflow, diff);
    }
    if (jinja_value_is_number(a, &x) && jinja_value_is_number(b, &y)) return jinja_real(x - y);
    bad_operands(J, "-", a, b);
}

static struct jinja_value repeat_str(struct jinja *J, struct jinja_str *str, int64_t times)
{
    const struct jinja_str *s = jinja_str_flat(J, str);
    struct jinja_text t = {.J = J};
    if (s->len && times > 0 && (uint64_t)times > J->str_max / s->len) jinja_fail_budget(J, "text");
    for (int64_t i = 0; s->len && i < times; i++)
        jinja_str_add_str(&t, str);
    return jinja_of_str(jinja_str_done(&t));
}

static struct jinja_value repeat(struct jinja *J, struct jinja_value v, int64_t times)
{
    if (v.kind == JINJA_STR) return repeat_str(J, v.s, times);
    size_t n = 0;
    if (times > 0 && __builtin_mul_overflow(v.list->n, (size_t)times, &n))
        jinja_fail_budget(J, "memory");
    struct jinja_value list = jinja_value_new_list(J, n);
    list.kind = v.kind;
    for (size_t i = 0; i < n; i++)
        list.list->items[i] = v.list->items[i % v.list->n];
    return list;
}

static struct jinja_value mul(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    int64_t i, j, product;
    double x, y;
    bool int_a = jinja_value_is_int(a, &i), int_b = jinja_value_is_int(b, &j);
    if (int_a && int_b) {
        bool overflow = __builtin_mul_overflow(i, j, &product);
        return int_result(J, overflow, product);
    }
    if (jinja_value_is_number(a, &x) && jinja_value_is_number(b, &y)) return jinja_real(x * y);
    bool seq_a = a.kind == JINJA_STR || a.kind == JINJA_LIST || a.kind == JINJA_TUPLE;
    bool seq_b = b.kind == JINJA_STR || b.kind == JINJA_LIST || b.kind == JINJA_TUPLE;
    if (seq_a && int_b) return repeat(J, a, j);
    if (seq_b && int_a) return repeat(J, b, i);
    bad_operands(J, "*", a, b);
}

static struct jinja_value divide(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    double x, y;
    if (!jinja_value_is_number(a, &x) || !jinja_value_is_number(b, &y)) bad_operands(J, "/", a, b);
    if (y == 0) jinja_fail(J, "division by zero");
    return jinja_real(x / y);
}

// Python rounds quotients down, and the remainder has the sign of the divisor.
static struct jinja_value floor_divide(struct jinja *J, struct jinja_value a, struct jinja_value b,
                                       bool remainder)
{
    int64_t i, j;
    double x, y;
    if (!jinja_value_is_number(a, &x) || !jinja_value_is_number(b, &y))
        bad_operands(J, remainder ? "%" : "//", a, b);
    if (y == 0) jinja_fail(J, "division by zero");
    if (jinja_value_is_int(a, &i) && jinja_value_is_int(b, &j)) {
        if (j == -1) return remainder ? jinja_int(0) : sub(J, jinja_int(0), a);
        int64_t q = i / j, r = i % j;
        if (r && (r < 0) != (j < 0)) {
            q--;
            r += j;
        }
        return jinja_int(remainder ? r : q);
    }
    if (!remainder) return jinja_real(floor(x / y));
    double r = fmod(x, y);
    if (r == 0) return jinja_real(copysign(0, y));
    return jinja_real((r < 0) != (y < 0) ? r + y : r);
}

static struct jinja_value modulo(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    if (a.kind != JINJA_STR) return floor_divide(J, a, b, true);
    struct jinja_args args = {.at = &b, .n = 1};
    if (b.kind == JINJA_TUPLE) args = (struct jinja_args){b.list->items, (int)b.list->n, 0, NULL};
    return jinja_format(J, a, &args);
}

static struct jinja_value power(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    int64_t i, j, result = 1;
    double x, y;
    if (!jinja_value_is_number(a, &x) || !jinja_value_is_number(b, &y)) bad_operands(J, "**", a, b);
    if (!jinja_value_is_int(a, &i) || !jinja_value_is_int(b, &j) || j < 0)
        return jinja_real(pow(x, y));
    for (; j > 0; j >>= 1) { // square and multiply
        if ((j & 1) && __builtin_mul_overflow(result, i, &result))
            jinja_fail(J, "integer is out of range");
        if (j > 1 && __builtin_mul_overflow(i, i, &i)) jinja_fail(J, "integer is out of range");
    }
    return jinja_int(result);
}

static struct jinja_value binary(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value a = jinja_eval(J, n->a), b = jinja_eval(J, n->b);
    switch (n->op) {
    case JINJA_ADD:
        return jinja_eval_add(J, a, b);
    case JINJA_SUB:
        return sub(J, a, b);
    case JINJA_MUL:
        return mul(J, a, b);
    case JINJA_DIV:
        return divide(J, a, b);
    case JINJA_FLOORDIV:
        return floor_divide(J, a, b, false);
    case JINJA_MOD:
        return modulo(J, a, b);
    case JINJA_POW:
        return power(J, a, b);
    default:
        BUG("not a binary operator");
    }
}

static struct jinja_value sign(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value v = jinja_eval(J, n->a);
    int64_t i;
    if (v.kind == JINJA_REAL) return jinja_real(n->op == JINJA_NEG ? -v.d : v.d);
    if (!jinja_value_is_int(v, &i)) bad_operands(J, n->op == JINJA_NEG ? "-" : "+", v, v);
    return n->op == JINJA_NEG ? sub(J, jinja_int(0), v) : jinja_int(i);
}

// --- comparison -------------------------------------------------------------------------------

static bool compare_one(struct jinja *J, enum jinja_op op, struct jinja_value a,
                        struct jinja_value b)
{
    switch (op) {
    case JINJA_EQ:
        return jinja_value_equal(J, a, b);
    case JINJA_NE:
        return !jinja_value_equal(J, a, b);
    case JINJA_LT:
        return jinja_value_order(J, a, b) < 0;
    case JINJA_LE:
        return jinja_value_order(J, a, b) <= 0;
    case JINJA_GT:
        return jinja_value_order(J, a, b) > 0;
    case JINJA_GE:
        return jinja_value_order(J, a, b) >= 0;
    case JINJA_IN:
        return jinja_value_contains(J, b, a);
    default:
        return !jinja_value_contains(J, b, a);
    }
}

static struct jinja_value compare(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value left = jinja_eval(J, n->a);
    for (int i = 0; i < n->n_kids; i++) {
        struct jinja_value right = jinja_eval(J, n->kids[i]);
        if (!compare_one(J, (enum jinja_op)n->ids[i], left, right)) return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

// --- making and taking apart ------------------------------------------------------------------

static struct jinja_value make_list(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value v = jinja_value_new_list(J, (size_t)n->n_kids);
    for (int i = 0; i < n->n_kids; i++)
        v.list->items[i] = jinja_eval(J, n->kids[i]);
    if (n->op == JINJA_MAKE_TUPLE) v.kind = JINJA_TUPLE;
    return v;
}

static struct jinja_value make_dict(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value v = jinja_value_new_dict(J, (size_t)n->n_kids / 2);
    for (int i = 0; i < n->n_kids; i += 2) {
        struct jinja_value key = jinja_eval(J, n->kids[i]);
        jinja_value_put(J, v.dict, key, jinja_eval(J, n->kids[i + 1]));
    }
    return v;
}

static struct jinja_value concat(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_str **parts = jinja_take(J, (size_t)n->n_kids, sizeof *parts);
    for (int i = 0; i < n->n_kids; i++)
        parts[i] = jinja_value_str(J, jinja_eval(J, n->kids[i]));
    return jinja_of_str(jinja_str_cat(J, parts, (size_t)n->n_kids));
}

// Python's slice.indices(len): where to begin, how far, how many.
static struct jinja_range slice_range(struct jinja *J, const struct jinja_node *n, int64_t len)
{
    int64_t at[3] = {0, 0, 1};
    bool given[3] = {false};
    for (int i = 0; i < 3; i++) {
        struct jinja_value v = n->kids[i] ? jinja_eval(J, n->kids[i]) : jinja_none();
        if (v.kind == JINJA_NONE) continue;
        if (!jinja_value_is_int(v, &at[i])) jinja_fail(J, "slice indices must be integers");
        given[i] = true;
    }
    int64_t step = at[2], lo = step < 0 ? -1 : 0, hi = step < 0 ? len - 1 : len;
    if (step == 0) jinja_fail(J, "slice step cannot be zero");
    for (int i = 0; i < 2; i++) {
        if (!given[i])
            at[i] = (i == 0) == (step > 0) ? lo : hi;
        else if (at[i] < 0)
            at[i] = at[i] + len < lo ? lo : at[i] + len;
        else if (at[i] > hi)
            at[i] = hi;
    }
    struct jinja_range r = {.from = at[0], .step = step};
    int64_t span = step > 0 ? at[1] - at[0] : at[0] - at[1];
    uint64_t size = step > 0 ? (uint64_t)step : -(uint64_t)step;
    r.n = span > 0 ? (int64_t)(((uint64_t)span - 1) / size) + 1 : 0;
    return r;
}

static struct jinja_value slice_str(struct jinja *J, struct jinja_str *str, struct jinja_range r)
{
    const struct jinja_str *s = jinja_str_flat(J, str);
    jinja_charge_bytes(J, s->len);
    if (r.step == 1 || r.n == 0) {
        size_t from = jinja_str_offset(s, r.from);
        size_t to = r.n ? jinja_str_offset(s, r.from + r.n) : from;
        return jinja_of_str(jinja_str_slice(J, str, from, to));
    }
    struct jinja_value chars = jinja_value_seq(J, jinja_of_str(str));
    struct jinja_text t = {.J = J};
    for (int64_t i = 0; i < r.n; i++)
        jinja_str_add_str(&t, chars.list->items[r.from + i * r.step].s);
    return jinja_of_str(jinja_str_done(&t));
}

static struct jinja_value slice(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value v = jinja_eval(J, n->a);
    if (v.kind == JINJA_UNDEF) return jinja_value_item(J, v, jinja_none());
    if (v.kind == JINJA_DICT || !jinja_value_iterable(v)) return jinja_undef(NULL);
    struct jinja_range r = slice_range(J, n, jinja_value_len(J, v));
    if (v.kind == JINJA_STR) return slice_str(J, v.s, r);
    struct jinja_value list = jinja_value_new_list(J, (size_t)r.n);
    for (int64_t i = 0; i < r.n; i++)
        list.list->items[i] = jinja_value_at(J, v, r.from + i * r.step);
    if (v.kind == JINJA_TUPLE) list.kind = JINJA_TUPLE;
    return list;
}

// --- calls ------------------------------------------------------------------------------------

// Evaluates the arguments onto the argument stack; the caller pops n_kids values.
static struct jinja_args arguments(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_args args = {.at = J->stack + J->n_stack, .n = n->n_kids - n->n_kw};
    if (J->n_stack + n->n_kids > JINJA_STACK) jinja_fail_budget(J, "nesting");
    int base = J->n_stack;
    J->n_stack += n->n_kids;
    for (int i = 0; i < n->n_kids; i++)
        J->stack[base + i] = jinja_eval(J, n->kids[i]);
    args.n_kw = n->n_kw;
    args.kw = n->kw;
    return args;
}

struct jinja_value jinja_eval_call(struct jinja *J, struct jinja_value fn,
                                   const struct jinja_args *args)
{
    switch (fn.kind) {
    case JINJA_BUILTIN:
        return jinja_call(J, fn.builtin, jinja_none(), args);
    case JINJA_METHOD:
        return jinja_call(J, fn.method->fn, fn.method->self, args);
    case JINJA_MACRO:
        return jinja_run_macro(J, fn.macro, args);
    case JINJA_UNDEF:
        return jinja_value_item(J, fn, jinja_none()); // says what is undefined
    default:
        jinja_fail(J, "'%s' object is not callable", jinja_value_type(fn));
    }
}

static struct jinja_value call(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value v, self = jinja_none();
    const struct jinja_builtin *method = NULL;
    bool hidden;
    if (n->a->op == JINJA_ATTR) { // x.strip(): without making a method value
        self = jinja_eval(J, n->a->a);
        method = jinja_method_find(self.kind, n->a->value.s, &hidden);
        v = method ? jinja_none() : jinja_value_attr(J, self, n->a->value.s);
    } else {
        v = jinja_eval(J, n->a);
    }
    struct jinja_args args = arguments(J, n);
    J->line = n->line;
    v = method ? jinja_call(J, method, self, &args) : jinja_eval_call(J, v, &args);
    J->n_stack -= n->n_kids;
    return v;
}

static struct jinja_value filter_or_test(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value self = n->a ? jinja_eval(J, n->a) : J->filtered;
    struct jinja_args args = arguments(J, n);
    J->line = n->line;
    struct jinja_value v = jinja_call(J, n->fn, self, &args);
    J->n_stack -= n->n_kids;
    return v;
}

// --- dispatch ---------------------------------------------------------------------------------

static struct jinja_value cond(struct jinja *J, const struct jinja_node *n)
{
    if (jinja_value_truth(J, jinja_eval(J, n->b))) return jinja_eval(J, n->a);
    return n->c ? jinja_eval(J, n->c) : jinja_undef(NULL);
}

static struct jinja_value either(struct jinja *J, const struct jinja_node *n)
{
    struct jinja_value a = jinja_eval(J, n->a);
    return jinja_value_truth(J, a) == (n->op == JINJA_OR) ? a : jinja_eval(J, n->b);
}

static struct jinja_value eval_op(struct jinja *J, const struct jinja_node *n)
{
    switch (n->op) {
    case JINJA_CONST:
        return n->value;
    case JINJA_NAME:
        return jinja_run_var(J, n->name);
    case JINJA_ATTR:
        return jinja_value_attr(J, jinja_eval(J, n->a), n->value.s);
    case JINJA_ITEM: {
        struct jinja_value of = jinja_eval(J, n->a);
        return jinja_value_item(J, of, jinja_eval(J, n->b));
    }
    case JINJA_SLICE:
        return slice(J, n);
    case JINJA_CALL:
        return call(J, n);
    case JINJA_FILTER:
    case JINJA_TEST:
        return filter_or_test(J, n);
    case JINJA_NOT:
        return jinja_bool(!jinja_value_truth(J, jinja_eval(J, n->a)));
    case JINJA_NEG:
    case JINJA_POS:
        return sign(J, n);
    case JINJA_CONCAT:
        return concat(J, n);
    case JINJA_AND:
    case JINJA_OR:
        return either(J, n);
    case JINJA_COMPARE:
        return compare(J, n);
    case JINJA_COND:
        return cond(J, n);
    case JINJA_MAKE_LIST:
    case JINJA_MAKE_TUPLE:
        return make_list(J, n);
    case JINJA_MAKE_DICT:
        return make_dict(J, n);
    default:
        return binary(J, n);
    }
}

struct jinja_value jinja_eval(struct jinja *J, const struct jinja_node *n)
{
    jinja_charge(J, 1);
    jinja_enter(J);
    struct jinja_value v = eval_op(J, n);
    jinja_leave(J);
    return v;
}
