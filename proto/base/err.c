#include "proto/base/err.h"
#include "proto/base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    err_t code;
    int exit_code;
    const char *name;
} names[] = {
    {OK, 0, "ok"},
    {ERR_AGAIN, 75, "again"},
    {ERR_TIMEOUT, 75, "timeout"},
    {ERR_END, 0, "end"},
    {ERR_INVALID, 65, "invalid"},
    {ERR_TOO_LARGE, 65, "too large"},
    {ERR_NOT_FOUND, 66, "not found"},
    {ERR_CANCELLED, 75, "cancelled"},
    {ERR_BUSY, 75, "busy"},
    {ERR_CAPACITY, 69, "no capacity"},
    {ERR_DENIED, 77, "denied"},
    {ERR_LINK, 69, "link lost"},
    {ERR_LINK_PROTOCOL, 76, "link protocol"},
    {ERR_LINK_AUTH, 77, "link auth"},
    {ERR_LINK_VERSION, 76, "link version"},
    {ERR_MEMORY, 71, "memory"},
    {ERR_SYSTEM, 71, "system"},
    {ERR_MODEL, 78, "bad model"},
    {ERR_CONFIG, 78, "bad configuration"},
    {ERR_DEVICE, 71, "device"},
    {ERR_UNSUPPORTED, 78, "unsupported"},
};

const char *err_name(err_t e)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == e) return names[i].name;
    return "unknown";
}

int err_exit_code(err_t e)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == e) return names[i].exit_code;
    return 70;
}

err_t err_vsay(struct err_text *why, err_t code, const char *fmt, va_list ap)
{
    if (!why) return code;
    char raw[1024];
    int n = vsnprintf(raw, sizeof raw, fmt, ap);
    if (n < 0) n = 0;
    if (n >= (int)sizeof raw) n = (int)sizeof raw - 1;
    const unsigned char *p = (const unsigned char *)raw, *end = p + n;
    size_t at = 0;
    while (p < end && at + 5 < sizeof why->s) {
        const size_t len = utf8_len(p, (size_t)(end - p));
        if (len == 0 || utf8_is_control(p)) {
            at += (size_t)snprintf(why->s + at, sizeof why->s - at, "\\x%02x", *p++);
        } else {
            memcpy(why->s + at, p, len);
            at += len;
            p += len;
        }
    }
    why->s[at] = 0;
    return code;
}

err_t err_say(struct err_text *why, err_t code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_vsay(why, code, fmt, ap);
    va_end(ap);
    return code;
}

void bug_at(const char *file, int line, const char *what)
{
    fprintf(stderr, "bug: %s:%d: %s\n", file, line, what);
    abort();
}
