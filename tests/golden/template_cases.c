// template_cases DIR...: renders every case of DIR/cases.json with DIR/template.jinja and compares
// with the expected text, or the expected raise_exception. Prints passed/total per directory and
// the first failing case; exits with 1 if a case failed.
#include "coordinator/text/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool read_file(const char *dir, const char *name, struct buf *out)
{
    char path[4096], chunk[65536];
    size_t n;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return false;
    }
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        buf_add(out, chunk, n);
    bool ok = !ferror(f) && buf_ok(out);
    fclose(f);
    return ok;
}

static const char *str_of(const struct json *j)
{
    return j && j->kind == J_STR ? j->str.s : "";
}

static const struct json *not_null(const struct json *j)
{
    return j && j->kind != J_NULL ? j : NULL;
}

static int64_t time_of(const char *iso)
{
    struct tm tm = {0};
    return strptime(iso, "%Y-%m-%dT%H:%M:%S", &tm) ? (int64_t)timegm(&tm) : 0;
}

static void explain(const char *dir, const char *name, const char *want, const char *got)
{
    size_t at = 0;
    while (want[at] && want[at] == got[at])
        at++;
    size_t from = at > 40 ? at - 40 : 0;
    printf("%s: case %s differs at byte %zu\n  want: ...%.80s\n  got:  ...%.80s\n", dir, name, at,
           want + from, got + from);
}

static bool run_case(const char *dir, const struct template *t, const struct json *root,
                     const struct json *c, bool tell)
{
    struct template_input in = {
        .messages = json_get(c, "messages"),
        .tools = not_null(json_get(c, "tools")),
        .kwargs = not_null(json_get(c, "kwargs")),
        .bos_token = str_of(json_get(root, "bos_token")),
        .eos_token = str_of(json_get(root, "eos_token")),
        .now_s = time_of(str_of(json_get(root, "strftime_now"))),
    };
    struct template_output out = {0};
    struct err_text why = {""};
    err_t err = template_render(t, &in, &out, &why);
    const struct json *text = json_get(c, "expected"), *error = json_get(c, "expected_error");
    bool ok;
    if (error)
        ok = err == ERR_INVALID && strcmp(why.s, str_of(error)) == 0;
    else
        ok = err == OK && text && out.text.len == text->str.len &&
             memcmp(text->str.s, out.text.data ? out.text.data : "", out.text.len) == 0;
    if (!ok && tell)
        explain(dir, str_of(json_get(c, "name")), str_of(error ? error : text),
                err || !out.text.data ? why.s : out.text.data);
    template_output_fini(&out);
    return ok;
}

static bool run_dir(const char *dir)
{
    struct buf source = {0}, cases = {0};
    struct arena a;
    struct template *t = NULL;
    struct err_text why = {""};
    const struct json *root = NULL;
    size_t passed = 0, total = 0;
    arena_init(&a, 0);
    if (!read_file(dir, "template.jinja", &source) || !read_file(dir, "cases.json", &cases))
        snprintf(why.s, sizeof why.s, "files are missing");
    else if (template_open(source.data, source.len, &t, &why) == OK)
        json_read(cases.data, cases.len, &a, &root, NULL, &why);
    const struct json *list = json_get(root, "cases");
    for (size_t i = 0; list && i < list->arr.n; i++, total++)
        passed += run_case(dir, t, root, &list->arr.items[i], passed == total);
    if (list)
        printf("%s: %zu/%zu\n", dir, passed, total);
    else
        printf("%s: %s\n", dir, why.s);
    template_close(t);
    arena_fini(&a);
    buf_fini(&source);
    buf_fini(&cases);
    return total > 0 && passed == total;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: template_cases DIR...\n");
        return 2;
    }
    bool ok = true;
    for (int i = 1; i < argc; i++)
        ok &= run_dir(argv[i]);
    return ok ? 0 : 1;
}
