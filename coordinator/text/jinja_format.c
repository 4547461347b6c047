// Text with holes: Python's "%s" % x (and the format filter), and "{}".format(x). The common part
// of both: flags, width, precision, d i s r f e g x and %.
#include "coordinator/text/jinja.h"

#include <stdio.h>
#include <string.h>

enum { FIELD_MAX = 200 }; // width and precision

struct spec {
    char align; // '<' '>' '^', 0: numbers right, the rest left
    char fill, sign;
    bool alt;
    int width, prec; // prec -1: not given
    char type;       // 0: as str()
};

static void pad(struct jinja_text *t, char fill, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        jinja_str_add(t, &fill, 1, false);
}

// Between pads; zeros go behind the sign.
static void put_padded(struct jinja_text *t, const struct spec *s, struct jinja_str *body,
                       bool number)
{
    int64_t room = s->width - jinja_str_chars(t->J, body);
    char align = s->align ? s->align : number ? '>' : '<';
    size_t sign = 0;
    if (room < 0) room = 0;
    if (number && s->fill == '0' && !s->align) {
        const char *p = jinja_str_flat(t->J, body)->p;
        sign = body->len && (p[0] == '-' || p[0] == '+');
        jinja_str_add_str(t, jinja_str_slice(t->J, body, 0, sign));
    }
    int64_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    pad(t, s->fill, left);
    jinja_str_add_str(t, jinja_str_slice(t->J, body, sign, body->len));
    pad(t, s->fill, room - left);
}

static void format_int(char *out, size_t size, const struct spec *s, int64_t i)
{
    uint64_t u = i < 0 ? -(uint64_t)i : (uint64_t)i;
    const char *sign = i < 0 ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
    if (s->type == 'x')
        snprintf(out, size, "%s%s%llx", sign, s->alt ? "0x" : "", (unsigned long long)u);
    else if (s->type == 'X')
        snprintf(out, size, "%s%s%llX", sign, s->alt ? "0X" : "", (unsigned long long)u);
    else
        snprintf(out, size, "%s%llu", sign, (unsigned long long)u);
}

static void format_real(char *out, size_t size, const struct spec *s, double d)
{
    const char *sign = d >= 0 && s->sign ? (s->sign == '+' ? "+" : " ") : "";
    int prec = s->prec < 0 ? 6 : s->prec;
    if (s->type == 'e')
        snprintf(out, size, "%s%.*e", sign, prec, d);
    else if (s->type == 'g')
        snprintf(out, size, "%s%.*g", sign, prec, d);
    else if (s->type == '%')
        snprintf(out, size, "%s%.*f%%", sign, prec, d * 100);
    else
        snprintf(out, size, "%s%.*f", sign, prec, d);
}

static void put_value(struct jinja_text *t, const struct spec *s, struct jinja_value v)
{
    struct jinja *J = t->J;
    char text[320 + FIELD_MAX]; // a double has up to 309 digits in front of the point
    double d;
    int64_t i;
    struct jinja_text body = {.J = J};
    bool whole = s->type == 'd' || s->type == 'x' || s->type == 'X';
    if (whole && v.kind == JINJA_REAL && v.d > -9e18 && v.d < 9e18) v = jinja_int((int64_t)v.d);
    if (whole || (s->type && strchr("feg%", s->type))) {
        if (!jinja_value_is_number(v, &d))
            jinja_fail(J, "a number is needed, not '%s'", jinja_value_type(v));
        if (whole && !jinja_value_is_int(v, &i)) jinja_fail(J, "number is out of range");
        if (whole)
            format_int(text, sizeof text, s, i);
        else
            format_real(text, sizeof text, s, d);
        jinja_str_add_c(&body, text);
    } else if (s->type == 'r') {
        jinja_value_repr(&body, v);
    } else {
        struct jinja_str *str = jinja_value_str(J, v);
        size_t end = str->len;
        if (s->prec >= 0) end = jinja_str_offset(jinja_str_flat(J, str), s->prec);
        jinja_str_add_str(&body, jinja_str_slice(J, str, 0, end));
    }
    bool number = s->type != 'r' && s->type != 's' && jinja_value_is_number(v, &d);
    put_padded(t, s, jinja_str_done(&body), number);
}

static size_t read_int(struct jinja *J, const char *p, size_t at, size_t len, int *out)
{
    int n = 0;
    for (; at < len && p[at] >= '0' && p[at] <= '9'; at++) {
        n = n * 10 + (p[at] - '0');
        if (n > FIELD_MAX) jinja_fail(J, "format: a field is wider than %d", FIELD_MAX);
    }
    *out = n;
    return at;
}

static size_t read_size(struct jinja *J, const char *p, size_t at, size_t len, struct spec *s)
{
    at = read_int(J, p, at, len, &s->width);
    if (at < len && p[at] == '.') at = read_int(J, p, at + 1, len, &s->prec);
    return at;
}

// At the byte behind '%'; returns where the text goes on.
static size_t percent_spec(struct jinja *J, const char *p, size_t at, size_t len, struct spec *s)
{
    *s = (struct spec){.fill = ' ', .prec = -1, .align = '>'};
    bool zero = false;
    for (; at < len && strchr("-+ #0", p[at]) && p[at]; at++) {
        if (p[at] == '-')
            s->align = '<';
        else if (p[at] == '0')
            zero = true;
        else if (p[at] == '#')
            s->alt = true;
        else if (s->sign != '+')
            s->sign = p[at];
    }
    at = read_size(J, p, at, len, s);
    if (at >= len || !strchr("sdiufFegxXr", p[at]) || !p[at])
        jinja_fail(J, "format: unsupported conversion");
    s->type = p[at] == 'i' || p[at] == 'u' ? 'd' : p[at] == 'F' ? 'f' : p[at];
    if (zero && s->align == '>' && s->type != 's' && s->type != 'r') {
        s->fill = '0';
        s->align = 0;
    }
    return at + 1;
}

struct jinja_value jinja_format(struct jinja *J, struct jinja_value self,
                                const struct jinja_args *args)
{
    struct jinja_str *str = jinja_value_str(J, self);
    const struct jinja_str *s = jinja_str_flat(J, str);
    struct jinja_text t = {.J = J};
    int used = 0;
    if (args->n_kw) jinja_fail(J, "format: named arguments are not supported");
    for (size_t at = 0; at < s->len;) {
        const char *hit = memchr(s->p + at, '%', s->len - at);
        size_t to = hit ? (size_t)(hit - s->p) : s->len;
        jinja_str_add_str(&t, jinja_str_slice(J, str, at, to));
        at = to + 1;
        if (!hit) break;
        if (at < s->len && s->p[at] == '%') {
            jinja_str_add_str(&t, jinja_str_slice(J, str, at, at + 1));
            at++;
            continue;
        }
        struct spec spec;
        at = percent_spec(J, s->p, at, s->len, &spec);
        if (used == args->n) jinja_fail(J, "format: not enough arguments");
        put_value(&t, &spec, args->at[used++]);
    }
    if (used < args->n) jinja_fail(J, "format: too many arguments");
    return jinja_of_str(jinja_str_done(&t));
}

// "[[fill]align][sign][#][0][width][.prec][type]"
static struct spec brace_spec(struct jinja *J, const char *p, size_t len)
{
    struct spec s = {.fill = ' ', .prec = -1};
    size_t at = 0;
    if (len > 1 && strchr("<>^", p[1]) && p[1]) {
        s.fill = p[0];
        s.align = p[1];
        at = 2;
    } else if (len && strchr("<>^", p[0]) && p[0]) {
        s.align = p[at++];
    }
    if (at < len && (p[at] == '+' || p[at] == '-' || p[at] == ' ')) s.sign = p[at++];
    if (s.sign == '-') s.sign = 0;
    if (at < len && p[at] == '#') s.alt = p[at++];
    if (at < len && p[at] == '0' && !s.align) s.fill = p[at++];
    at = read_size(J, p, at, len, &s);
    if (at < len && strchr("sdfFegxX%", p[at])) s.type = p[at++] == 'F' ? 'f' : p[at - 1];
    if (at != len) jinja_fail(J, "format: unsupported conversion");
    return s;
}

static struct jinja_value field(struct jinja *J, const struct jinja_args *args, const char *p,
                                size_t len, int *next)
{
    int index = 0;
    if (len == 0)
        index = (*next)++;
    else if (read_int(J, p, 0, len, &index) != len)
        index = -1;
    if (index >= 0 && index < args->n) return args->at[index];
    for (int k = 0; index < 0 && k < args->n_kw; k++)
        if (args->kw[k]->len == len && memcmp(args->kw[k]->p, p, len) == 0)
            return args->at[args->n + k];
    jinja_fail(J, "format: no argument for '{%.*s}'", len > 40 ? 40 : (int)len, p);
}

struct jinja_value jinja_format_braces(struct jinja *J, struct jinja_value self,
                                       const struct jinja_args *args)
{
    const struct jinja_str *s = jinja_str_flat(J, self.s);
    struct jinja_text t = {.J = J};
    int next = 0;
    for (size_t at = 0, to; at < s->len; at = to) {
        for (to = at; to < s->len && s->p[to] != '{' && s->p[to] != '}'; to++)
            ;
        jinja_str_add_str(&t, jinja_str_slice(J, self.s, at, to));
        if (to == s->len) break;
        if (to + 1 < s->len && s->p[to + 1] == s->p[to]) { // {{ and }}
            jinja_str_add_str(&t, jinja_str_slice(J, self.s, to, to + 1));
            to += 2;
            continue;
        }
        const char *name = s->p + to + 1, *end = memchr(name, '}', s->len - to - 1);
        if (s->p[to] == '}' || !end) jinja_fail(J, "format: single brace");
        const char *colon = memchr(name, ':', (size_t)(end - name));
        size_t name_len = (size_t)((colon ? colon : end) - name);
        struct spec spec = {.fill = ' ', .prec = -1};
        if (colon) spec = brace_spec(J, colon + 1, (size_t)(end - colon - 1));
        put_value(&t, &spec, field(J, args, name, name_len, &next));
        to = (size_t)(end - s->p) + 1;
    }
    return jinja_of_str(jinja_str_done(&t));
}
