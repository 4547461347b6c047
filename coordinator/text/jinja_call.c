#include "coordinator/text/jinja.h"

#include <string.h>
#include <time.h>

const struct jinja_builtin *jinja_call_find(const struct jinja_builtin *table, const char *name,
                                            size_t len, unsigned on)
{
    for (; table->name; table++) {
        if (on && !(table->on & on)) continue;
        if (strlen(table->name) == len && memcmp(table->name, name, len) == 0) return table;
    }
    return NULL;
}

static int param_index(struct jinja *J, const struct jinja_builtin *fn, struct jinja_str *name)
{
    for (int i = 0; i < JINJA_PARAMS_MAX && fn->params[i]; i++)
        if (jinja_str_is(J, name, fn->params[i])) return i;
    jinja_fail(J, "%s() takes no argument named '%.*s'", fn->name,
               name->len > 60 ? 60 : (int)name->len, name->p);
}

struct jinja_value jinja_call(struct jinja *J, const struct jinja_builtin *fn,
                              struct jinja_value self, const struct jinja_args *args)
{
    struct jinja_value at[JINJA_PARAMS_MAX] = {{.kind = JINJA_ABSENT}};
    if (fn->n_need < 0) return fn->fn(J, self, args);
    int n = 0;
    while (n < JINJA_PARAMS_MAX && fn->params[n])
        n++;
    if (args->n > n) jinja_fail(J, "%s() takes at most %d arguments", fn->name, n);
    for (int i = 0; i < args->n; i++)
        at[i] = args->at[i];
    for (int k = 0; k < args->n_kw; k++)
        at[param_index(J, fn, args->kw[k])] = args->at[args->n + k];
    for (int i = 0; i < fn->n_need; i++)
        if (!jinja_given(at[i])) jinja_fail(J, "%s() needs '%s'", fn->name, fn->params[i]);
    struct jinja_args bound = {.at = at, .n = n};
    return fn->fn(J, self, &bound);
}

int64_t jinja_call_int(struct jinja *J, struct jinja_value v, int64_t otherwise)
{
    int64_t i = otherwise;
    if (jinja_given(v) && v.kind != JINJA_NONE && !jinja_value_is_int(v, &i))
        jinja_fail(J, "an integer is needed, not '%s'", jinja_value_type(v));
    return i;
}

struct jinja_str *jinja_call_str(struct jinja *J, struct jinja_value v)
{
    if (v.kind == JINJA_UNDEF) jinja_value_item(J, v, jinja_none()); // says that it is undefined
    if (v.kind != JINJA_STR) jinja_fail(J, "a string is needed, not '%s'", jinja_value_type(v));
    return v.s;
}

// --- global functions -------------------------------------------------------------------------

static struct jinja_value fn_range(struct jinja *J, struct jinja_value self,
                                   const struct jinja_args *args)
{
    (void)self;
    bool one = !jinja_given(args->at[1]);
    int64_t from = one ? 0 : jinja_call_int(J, args->at[0], 0), span;
    int64_t to = jinja_call_int(J, args->at[one ? 0 : 1], 0);
    int64_t step = jinja_call_int(J, args->at[2], 1);
    struct jinja_range *r = jinja_take(J, 1, sizeof *r);
    if (step == 0) jinja_fail(J, "range() step is zero");
    if (__builtin_sub_overflow(to, from, &span) || span > INT64_MAX / 4 || span < -INT64_MAX / 4 ||
        step > INT64_MAX / 4 || step < -INT64_MAX / 4)
        jinja_fail(J, "range() is out of range");
    *r = (struct jinja_range){.from = from, .step = step};
    if ((span > 0) == (step > 0) && span != 0) r->n = (span - (step > 0 ? 1 : -1)) / step + 1;
    return (struct jinja_value){.kind = JINJA_RANGE, .range = r};
}

static void put_all(struct jinja *J, struct jinja_dict *to, struct jinja_value from)
{
    if (from.kind != JINJA_DICT && from.kind != JINJA_NAMESPACE)
        jinja_fail(J, "a mapping is needed, not '%s'", jinja_value_type(from));
    for (size_t i = 0; i < from.dict->n; i++)
        jinja_value_put(J, to, from.dict->entries[i].key, from.dict->entries[i].value);
}

static struct jinja_value fn_dict(struct jinja *J, struct jinja_value self,
                                  const struct jinja_args *args)
{
    (void)self;
    struct jinja_value v = jinja_value_new_dict(J, (size_t)args->n_kw);
    if (args->n > 1) jinja_fail(J, "at most one mapping can be given");
    if (args->n) put_all(J, v.dict, args->at[0]);
    for (int k = 0; k < args->n_kw; k++)
        jinja_value_put(J, v.dict, jinja_of_str(args->kw[k]), args->at[args->n + k]);
    return v;
}

static struct jinja_value fn_namespace(struct jinja *J, struct jinja_value self,
                                       const struct jinja_args *args)
{
    struct jinja_value v = fn_dict(J, self, args);
    v.kind = JINJA_NAMESPACE;
    return v;
}

static struct jinja_value fn_raise(struct jinja *J, struct jinja_value self,
                                   const struct jinja_args *args)
{
    (void)self;
    struct jinja_str *text = jinja_value_str(J, args->at[0]);
    const struct jinja_str *s = jinja_str_flat(J, text);
    J->stop.err =
        err_say(J->stop.why, ERR_INVALID, "%.*s", s->len > 1000 ? 1000 : (int)s->len, s->p);
    longjmp(J->stop.jump, 1);
}

static struct jinja_value fn_strftime(struct jinja *J, struct jinja_value self,
                                      const struct jinja_args *args)
{
    (void)self;
    const struct jinja_str *format = jinja_str_flat(J, jinja_call_str(J, args->at[0]));
    char zero_ended[128], text[256];
    struct tm tm;
    jinja_charge(J, 100); // the C library takes as long as that
    time_t now = (time_t)J->now_s;
    if (format->len >= sizeof zero_ended) jinja_fail(J, "strftime_now() format is too long");
    memcpy(zero_ended, format->p, format->len);
    zero_ended[format->len] = 0;
    if (!gmtime_r(&now, &tm)) jinja_fail(J, "strftime_now() has no such time");
    size_t n = strftime(text, sizeof text, zero_ended, &tm);
    struct jinja_text t = {.J = J};
    jinja_str_add(&t, text, n, false);
    return jinja_of_str(jinja_str_done(&t));
}

const struct jinja_builtin jinja_call_functions[] = {
    {"range", fn_range, 1, 0, {"start", "stop", "step"}},
    {"namespace", fn_namespace, -1, 0, {NULL}},
    {"dict", fn_dict, -1, 0, {NULL}},
    {"raise_exception", fn_raise, 1, 0, {"message"}},
    {"strftime_now", fn_strftime, 1, 0, {"format"}},
};
const int jinja_call_n_functions = sizeof jinja_call_functions / sizeof *jinja_call_functions;
