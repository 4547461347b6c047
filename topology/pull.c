#include "topology/pull.h"

#include "proto/base/utf8.h"
#include "topology/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

err_t pull_fail(const struct pull *s, const char *fmt, ...)
{
    char msg[160], subject[96] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (s->name_len)
        snprintf(subject, sizeof subject,
                 "tensor '%.*s%s': ", (int)(s->name_len > 64 ? 61 : s->name_len), s->name,
                 s->name_len > 64 ? "..." : "");
    return err_say(s->why, ERR_MODEL, "%s: %s%s", file_tail(s->path), subject, msg);
}

int pull_peek(struct pull *s)
{
    for (; s->at < s->len; s->at++) {
        const uint8_t c = s->text[s->at];
        if (c != ' ' && c != '\t' && c != '\r' && c != '\n') return c;
    }
    return -1;
}

err_t pull_expect(struct pull *s, char c)
{
    const int got = pull_peek(s);
    if (got < 0) return pull_fail(s, "%s ends where '%c' is expected", s->part, c);
    if (got != c)
        return pull_fail(s, "byte %llu of %s is 0x%02x, expected '%c'", (unsigned long long)s->at,
                         s->part, got, c);
    s->at++;
    return OK;
}

err_t pull_open(struct pull *s, char begin, char end, bool *again)
{
    err_t e = pull_expect(s, begin);
    if (e) return e;
    *again = pull_peek(s) != end;
    if (!*again) s->at++;
    return OK;
}

err_t pull_more(struct pull *s, char end, bool *again)
{
    *again = pull_peek(s) == ',';
    if (!*again) return pull_expect(s, end);
    s->at++;
    return OK;
}

static bool hex4(const struct pull *s, uint64_t at, uint32_t *out)
{
    uint32_t v = 0;
    if (s->len - at < 4) return false;
    for (uint64_t i = at; i < at + 4; i++) {
        int c = s->text[i], digit = c >= '0' && c <= '9'   ? c - '0'
                                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                           : -1;
        if (digit < 0) return false;
        v = v << 4 | (uint32_t)digit;
    }
    *out = v;
    return true;
}

static size_t put_utf8(uint32_t u, char *to)
{
    const int n = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
    if (n == 1) {
        to[0] = (char)u;
        return 1;
    }
    for (int i = n - 1; i > 0; i--, u >>= 6)
        to[i] = (char)(0x80 | (u & 0x3f));
    to[0] = (char)((0xf00 >> n & 0xff) | u);
    return (size_t)n;
}

// After a backslash: the character it stands for; false if there is no such escape.
static bool unescape(struct pull *s, char *to, size_t *n)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    if (s->at >= s->len) return false;
    const char c = (char)s->text[s->at++], *which = c ? strchr(from, c) : NULL;
    if (which) {
        *to = into[which - from];
        *n = 1;
        return true;
    }
    uint32_t u, low;
    if (c != 'u' || !hex4(s, s->at, &u)) return false;
    s->at += 4;
    if (u >= 0xd800 && u < 0xe000) { // half of a pair
        if (u >= 0xdc00 || s->len - s->at < 6 || memcmp(s->text + s->at, "\\u", 2) ||
            !hex4(s, s->at + 2, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        s->at += 6;
        u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
    }
    *n = put_utf8(u, to);
    return true;
}

// Bytes from s->at on that stand for themselves.
static size_t plain_run(const struct pull *s)
{
    uint64_t at = s->at;
    while (at < s->len && s->text[at] >= 0x20 && s->text[at] < 0x80 && s->text[at] != '"' &&
           s->text[at] != '\\')
        at++;
    return (size_t)(at - s->at);
}

err_t pull_string(struct pull *s, char *to, size_t size, size_t *len)
{
    size_t n = 0;
    err_t e = pull_expect(s, '"');
    if (e) return e;
    for (;;) {
        char piece[4];
        const char *from = (const char *)s->text + s->at;
        size_t k = plain_run(s), taken = k;
        if (s->at >= s->len) return pull_fail(s, "%s ends within a string", s->part);
        if (!k && *from == '"') break;
        if (!k) {
            k = taken = utf8_len(from, s->len - s->at);
            if (!k || (uint8_t)*from < 0x20)
                return pull_fail(s, "byte %llu of %s, 0x%02x, is no text",
                                 (unsigned long long)s->at, s->part, (uint8_t)*from);
        }
        s->at += taken;
        if (*from == '\\') {
            if (!unescape(s, piece, &k))
                return pull_fail(s, "byte %llu of %s: bad escape", (unsigned long long)s->at,
                                 s->part);
            from = piece;
        }
        if (to && n + k >= size)
            return pull_fail(s, "a name of over %zu bytes at byte %llu of %s", size - 1,
                             (unsigned long long)s->at, s->part);
        if (to) memcpy(to + n, from, k);
        n += k;
    }
    s->at++;
    if (to) to[n] = 0;
    *len = n;
    return OK;
}

err_t pull_name(struct pull *s)
{
    err_t e = pull_string(s, s->name, sizeof s->name, &s->name_len);
    if (e) return e;
    if (s->name_len == 0) return pull_fail(s, "a tensor without a name");
    if (strlen(s->name) != s->name_len) return pull_fail(s, "its name holds a NUL");
    return pull_expect(s, ':');
}

err_t pull_number(struct pull *s, uint64_t *out)
{
    uint64_t v = 0;
    const int first = pull_peek(s);
    const uint64_t from = s->at;
    for (; s->at < s->len && s->text[s->at] >= '0' && s->text[s->at] <= '9'; s->at++)
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s->text[s->at] - '0'), &v) || v > INT64_MAX)
            return pull_fail(s, "a number at byte %llu of %s is over 2^63-1",
                             (unsigned long long)from, s->part);
    const bool ends = s->at >= s->len || !memchr(".eE+-", s->text[s->at], 5);
    if (s->at == from || !ends || (first == '0' && s->at - from > 1))
        return pull_fail(s, "byte %llu of %s is no whole number from 0 to 2^63-1",
                         (unsigned long long)from, s->part);
    *out = v;
    return OK;
}

// true, false, null or a number.
static err_t skip_word(struct pull *s)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t n = strlen(words[i]);
        if (s->len - s->at < n || memcmp(s->text + s->at, words[i], n)) continue;
        s->at += n;
        return OK;
    }
    const uint64_t from = s->at;
    while (s->at < s->len && s->text[s->at] && strchr("0123456789+-.eE", s->text[s->at]))
        s->at++;
    if (s->at > from) return OK;
    return pull_fail(s, "byte %llu of %s begins no value", (unsigned long long)from, s->part);
}

static err_t skip(struct pull *s, int depth)
{
    size_t len;
    const int first = pull_peek(s);
    if (first < 0) return pull_fail(s, "%s ends where a value is expected", s->part);
    if (first == '"') return pull_string(s, NULL, 0, &len);
    if (first != '{' && first != '[') return skip_word(s);
    if (depth == PULL_DEPTH_MAX)
        return pull_fail(s, "%s is nested deeper than %d", s->part, PULL_DEPTH_MAX);
    const char end = first == '{' ? '}' : ']';
    bool again;
    err_t e = pull_open(s, (char)first, end, &again);
    while (!e && again) {
        if (first == '{') e = pull_string(s, NULL, 0, &len);
        if (!e && first == '{') e = pull_expect(s, ':');
        if (!e) e = skip(s, depth + 1);
        if (!e) e = pull_more(s, end, &again);
    }
    return e;
}

err_t pull_skip(struct pull *s)
{
    return skip(s, 0);
}

err_t pull_end(struct pull *s)
{
    if (pull_peek(s) < 0) return OK;
    return pull_fail(s, "byte %llu of %s: something follows the object", (unsigned long long)s->at,
                     s->part);
}
