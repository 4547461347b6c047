#include "coordinator/text/jinja.h"

#include <stdio.h>

static _Noreturn void stop_va(struct jinja_stop *s, err_t err, int line, const char *fmt,
                              va_list ap)
{
    char text[240];
    vsnprintf(text, sizeof text, fmt, ap);
    if (line)
        s->err = err_say(s->why, err, "template line %d: %s", line, text);
    else
        s->err = err_say(s->why, err, "template: %s", text);
    longjmp(s->jump, 1);
}

void jinja_stop(struct jinja_stop *s, err_t err, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    stop_va(s, err, line, fmt, ap);
}

void jinja_fail(struct jinja *J, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    stop_va(&J->stop, ERR_INVALID, J->line, fmt, ap);
}

void jinja_fail_budget(struct jinja *J, const char *what)
{
    jinja_stop(&J->stop, ERR_TOO_LARGE, J->line, "more %s than a template may use", what);
}

void *jinja_take(struct jinja *J, size_t n, size_t size)
{
    void *p = arena_take_n(J->mem, n, size);
    if (!p) jinja_fail_budget(J, "memory");
    jinja_charge(J, 1);
    return p;
}
