// What a model may write, in every format: no crash, and one cut changes nothing.
#include "proto/base/utf8.h"
#include "tests/unit/text/turn_log.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char tools[] =
    "[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{\"type\":\"string\"},"
    "\"b\":{\"type\":\"integer\"}}}}}]";

static char *events(const struct turn_config *c, const char *s, size_t len, size_t cut)
{
    struct turn_log log = {0};
    struct turn t;
    struct turn_config config = *c;
    config.sink = turn_log_event;
    config.arg = &log;
    turn_init(&t, &config);
    turn_push(&t, s, cut);
    turn_push(&t, s + cut, len - cut);
    turn_end(&t);
    turn_fini(&t);
    if (!turn_log_is_paired(&log)) {
        fprintf(stderr, "%s: a call without its end\n", c->format->name);
        __builtin_trap();
    }
    return turn_log_text(&log);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    struct arena a;
    arena_init(&a, 0);
    struct turn_config c = {.format = &turn_formats[data[0] % turn_n_format],
                            .prompt = "<think>\n",
                            .prompt_len = data[1] & 1 ? 8 : 0};
    if (data[1] & 2) json_read(tools, sizeof tools - 1, &a, &c.tools, NULL, NULL);
    const size_t len = size - 3;
    char *s = malloc(len + 1);
    memcpy(s, data + 3, len);
    size_t at = 0, cut_at = len;
    for (size_t n; at < len; at += n) { // text, cut between characters
        n = utf8_len(s + at, len - at);
        if (!n) s[at] = '?', n = 1;
        if (cut_at == len && at >= data[2]) cut_at = at;
    }
    char *whole = events(&c, s, len, len), *cut = events(&c, s, len, cut_at);
    if (strcmp(whole, cut)) {
        fprintf(stderr, "%s: a cut changes\n  %s\n  %s\n", c.format->name, whole, cut);
        __builtin_trap();
    }
    free(s);
    free(whole);
    free(cut);
    arena_fini(&a);
    return 0;
}
