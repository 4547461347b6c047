#include "coordinator/text/jinja.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { PROGRAM_BYTES_MAX = 64 << 20, TOKEN_BYTES_MAX = 128 << 20 };

struct template
{
    struct jinja_program prog;
    const struct turn_format *turn;
    const char *source; // in prog.mem
    size_t len;
};

void template_output_fini(struct template_output *o)
{
    buf_fini(&o->text);
    free(o->plain);
    *o = (struct template_output){0};
}

static err_t check_source(const char *source, size_t len, struct err_text *why)
{
    if (len > TEMPLATE_SOURCE_MAX)
        return err_say(why, ERR_MODEL, "template: longer than %d bytes", TEMPLATE_SOURCE_MAX);
    int line = 1;
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)source + i, (utf8proc_ssize_t)(len - i), &c);
        if (n <= 0 || c == 0)
            return err_say(why, ERR_MODEL, "template line %d: not valid UTF-8", line);
        line += c == '\n';
        i += (size_t)n;
    }
    return OK;
}

err_t template_open(const char *source, size_t len, struct template **out, struct err_text *why)
{
    err_t err = check_source(source, len, why);
    if (err) return err;
    struct template *t = calloc(1, sizeof *t);
    struct jinja_parser *P = calloc(1, sizeof *P);
    if (!t || !P) {
        free(t);
        free(P);
        return err_say(why, ERR_MEMORY, "template: out of memory");
    }
    t->turn = turn_format_of(source, len);
    arena_init(&t->prog.mem, PROGRAM_BYTES_MAX);
    arena_init(&P->scratch, TOKEN_BYTES_MAX);
    t->source = arena_copy_str(&t->prog.mem, source, len);
    t->len = t->source ? len : 0;
    P->prog = &t->prog;
    P->mem = &t->prog.mem;
    P->stop.why = why;
    if (setjmp(P->stop.jump) == 0) {
        jinja_lex(P, source, len);
        jinja_parse(P);
    }
    err = P->stop.err;
    arena_fini(&P->scratch);
    free(P);
    if (err)
        template_close(t);
    else
        *out = t;
    return err;
}

const char *template_source(const struct template *t, size_t *len)
{
    *len = t->len;
    return t->source ? t->source : "";
}

const struct turn_format *template_turn(const struct template *t)
{
    return t->turn;
}

void template_close(struct template *t)
{
    if (!t) return;
    arena_fini(&t->prog.mem);
    free(t);
}

// --- rendering --------------------------------------------------------------------------------

// Bytes of all strings in the tree. Depth is bounded by json_read.
static size_t text_bytes(const struct json *j)
{
    size_t n = 0;
    if (!j) return 0;
    if (j->kind == J_STR) return j->str.len;
    for (size_t i = 0; j->kind == J_ARR && i < j->arr.n; i++)
        n += text_bytes(&j->arr.items[i]);
    for (size_t i = 0; j->kind == J_OBJ && i < j->obj.n; i++)
        n += j->obj.members[i].key_len + text_bytes(&j->obj.members[i].value);
    return n;
}

static void set_global(struct jinja *J, const char *name, size_t len, struct jinja_value v)
{
    int i = jinja_expr_name_find(J->prog, name, len);
    if (i >= 0) J->globals[i] = v; // a name that the template never uses is of no interest
}

static struct jinja_value our_str(struct jinja *J, const char *s)
{
    return jinja_of_str(jinja_str_new(J, s ? s : "", s ? strlen(s) : 0, NULL));
}

static struct jinja_value of_json(struct jinja *J, const struct json *j)
{
    return j ? jinja_value_of_json(J, j) : jinja_none();
}

static void set_globals(struct jinja *J, const struct template_input *in)
{
    J->globals = jinja_take(J, (size_t)J->prog->n_names, sizeof *J->globals);
    J->stack = jinja_take(J, JINJA_STACK, sizeof *J->stack);
    for (int i = 0; i < jinja_call_n_functions; i++)
        J->globals[i] =
            (struct jinja_value){.kind = JINJA_BUILTIN, .builtin = &jinja_call_functions[i]};
    const struct {
        const char *name;
        struct jinja_value value;
    } vars[] = {
        {"messages", of_json(J, in->messages)},
        {"tools", of_json(J, in->tools)},
        {"documents", jinja_none()},
        {"bos_token", our_str(J, in->bos_token)},
        {"eos_token", our_str(J, in->eos_token)},
        {"add_generation_prompt", jinja_bool(in->add_generation_prompt)},
    };
    for (size_t i = 0; i < sizeof vars / sizeof *vars; i++)
        set_global(J, vars[i].name, strlen(vars[i].name), vars[i].value);
    for (size_t i = 0; in->kwargs && i < in->kwargs->obj.n; i++) {
        const struct json_member *m = &in->kwargs->obj.members[i];
        set_global(J, m->key, m->key_len, jinja_value_of_json(J, &m->value));
    }
}

static void render(struct jinja *J, const struct template_input *in)
{
    // The input tree is not part of the budgets: they begin when it is there.
    J->fuel = INT64_MAX;
    set_globals(J, in);
    J->mem->max_bytes = J->mem->used_bytes + TEMPLATE_MEMORY_MAX;
    J->fuel = (int64_t)TEMPLATE_STEPS_MAX * JINJA_FUEL_PER_STEP;
    jinja_run(J, J->prog->body);
}

// All that changes between setjmp and longjmp is here, and not in a local variable.
struct rendering {
    struct jinja J;
    struct arena mem;
    struct template_output out;
};

err_t template_render(const struct template *t, const struct template_input *in,
                      struct template_output *out, struct err_text *why)
{
    if (in->kwargs && in->kwargs->kind != J_OBJ)
        return err_say(why, ERR_INVALID, "template variables must be an object");
    struct rendering *r = calloc(1, sizeof *r);
    if (!r) return err_say(why, ERR_MEMORY, "template: out of memory");
    struct jinja *J = &r->J;
    arena_init(&r->mem, 0);
    J->prog = &t->prog;
    J->mem = &r->mem;
    J->now_s = in->now_s;
    J->stop.why = why;
    J->str_max = TEMPLATE_MEMORY_MAX +
                 2 * (text_bytes(in->messages) + text_bytes(in->tools) + text_bytes(in->kwargs));
    J->out = &r->out;
    r->out.text.max = J->str_max;
    if (setjmp(J->stop.jump) == 0) render(J, in);
    err_t err = J->stop.err;
    r->out.text.max = 0;
    if (err)
        template_output_fini(&r->out);
    else
        *out = r->out;
    free(J->walk.frames);
    arena_fini(&r->mem);
    free(r);
    return err;
}
