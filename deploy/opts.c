#include "deploy/opts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(const struct opt_spec *spec)
{
    printf("trireme %s\n%s\n", spec->usage, spec->about);
    if (spec->opts[0].name) printf("\n");
    for (const struct opt *o = spec->opts; o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-28s %s\n", left, o->help);
    }
}

static int usage_error(const struct opt_spec *spec, const char *what, const char *which)
{
    fprintf(stderr, "error: %s %s (trireme %s; --help tells more)\n", what, which, spec->usage);
    return 2;
}

static const struct opt *find(const struct opt_spec *spec, const char *name, size_t len)
{
    for (const struct opt *o = spec->opts; o->name; o++)
        if (strlen(o->name) == len && memcmp(o->name, name, len) == 0) return o;
    return NULL;
}

static bool parse_size(const char *s, uint64_t *out)
{
    char *end;
    errno = 0;
    if (*s < '0' || *s > '9') return false;
    unsigned long long v = strtoull(s, &end, 10);
    int shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (shift) end++;
    if (errno || *end || v > UINT64_MAX >> shift) return false;
    *out = (uint64_t)v << shift;
    return true;
}

static bool parse_choice(const char *words, const char *value, uint32_t *out)
{
    uint32_t i = 0;
    size_t len = strlen(value);
    for (const char *w = words; w; i++) {
        const char *bar = strchr(w, '|');
        size_t n = bar ? (size_t)(bar - w) : strlen(w);
        if (n == len && memcmp(w, value, n) == 0) {
            *out = i;
            return true;
        }
        w = bar ? bar + 1 : NULL;
    }
    return false;
}

// True if the value was taken.
static bool take(const struct opt *o, const char *value)
{
    uint64_t v;
    switch (o->kind) {
    case OPT_FLAG:
        *(bool *)o->to = true;
        return true;
    case OPT_STR:
        *(const char **)o->to = value;
        return true;
    case OPT_STRS: {
        struct opt_strs *l = o->to;
        if (l->n == OPT_STRS_MAX) return false;
        l->at[l->n++] = value;
        return true;
    }
    case OPT_U32:
        if (!parse_size(value, &v) || v < o->min || v > (o->max ? o->max : UINT32_MAX))
            return false;
        *(uint32_t *)o->to = (uint32_t)v;
        return true;
    case OPT_SIZE:
        return parse_size(value, o->to);
    case OPT_CHOICE:
        return parse_choice(o->arg, value, o->to);
    }
    return false;
}

static int bad_value(const struct opt_spec *spec, const struct opt *o, const char *value)
{
    char what[200];
    if (o->kind == OPT_U32)
        snprintf(what, sizeof what, "--%s takes a whole number from %u to %u, not", o->name, o->min,
                 o->max ? o->max : UINT32_MAX);
    else
        snprintf(what, sizeof what, "--%s takes %s, not", o->name, o->arg);
    return usage_error(spec, what, value);
}

int opts_parse(const struct opt_spec *spec, int argc, char **argv, const char **args)
{
    int n_arg = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
            print_help(spec);
            return 0;
        }
        if (a[0] != '-' || a[1] != '-' || !a[2]) {
            if (n_arg == spec->max_args) return usage_error(spec, "unexpected argument", a);
            args[n_arg++] = a;
            continue;
        }
        const char *name = a + 2, *eq = strchr(name, '=');
        const struct opt *o = find(spec, name, eq ? (size_t)(eq - name) : strlen(name));
        if (!o) return usage_error(spec, "unknown option", a);
        const char *value = eq ? eq + 1 : NULL;
        if (o->kind == OPT_FLAG && value) return usage_error(spec, "no value is taken by", a);
        if (o->kind != OPT_FLAG && !value) {
            if (i + 1 == argc) return usage_error(spec, "a value is missing after", a);
            value = argv[++i];
        }
        if (!take(o, value)) return bad_value(spec, o, value);
    }
    if (n_arg < spec->min_args) return usage_error(spec, "missing argument:", spec->usage);
    return -1;
}
