#include "coordinator/text/scan.h"
#include "proto/base/buf.h"
#include "proto/base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 512, NUMBER_MAX = 64 };

err_t scan_fail(struct scan *s, const char *what)
{
    if (!s->err)
        s->err = err_say(s->why, ERR_MODEL, "%s: byte %zu: %s", s->file, (size_t)(s->at - s->begin),
                         what);
    return s->err;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

char scan_peek(struct scan *s)
{
    while (s->at < s->end && is_space(*s->at))
        s->at++;
    return s->at < s->end ? *s->at : 0;
}

static bool take(struct scan *s, char c, const char *what)
{
    if (s->err) return false;
    if (scan_peek(s) != c) {
        scan_fail(s, what);
        return false;
    }
    s->at++;
    return true;
}

bool scan_next(struct scan *s, char open, bool *first)
{
    char close = open == '{' ? '}' : ']';
    if (*first && !take(s, open, open == '{' ? "an object is expected" : "a list is expected"))
        return false;
    if (s->err) return false;
    char c = scan_peek(s);
    if (c == close) {
        s->at++;
        return false;
    }
    if (!*first && !take(s, ',', "a comma is expected")) return false;
    *first = false;
    return true;
}

bool scan_key(struct scan *s, bool *first, struct scan_str *key)
{
    return scan_next(s, '{', first) && scan_string(s, key) && take(s, ':', "a colon is expected");
}

bool scan_key_is(const struct scan_str *key, const char *name)
{
    return key->len == strlen(name) && memcmp(key->s, name, key->len) == 0;
}

static int32_t hex4(const char *s)
{
    int32_t v = 0;
    for (int i = 0; i < 4; i++) {
        int d = s[i] >= '0' && s[i] <= '9'   ? s[i] - '0'
                : s[i] >= 'a' && s[i] <= 'f' ? s[i] - 'a' + 10
                : s[i] >= 'A' && s[i] <= 'F' ? s[i] - 'A' + 10
                                             : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

static size_t put_utf8(char *out, int32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)((0xf00 >> n & 0xff) | c);
    return n;
}

// \uXXXX at p, and the second half of a pair; the bytes read, 0: bad.
static size_t read_u(const char *p, const char *end, int32_t *c)
{
    if (end - p < 6 || (*c = hex4(p + 2)) < 0) return 0;
    if (*c < 0xd800 || *c > 0xdfff) return 6;
    if (*c > 0xdbff || end - p < 12 || p[6] != '\\' || p[7] != 'u') return 0;
    int32_t low = hex4(p + 8);
    if (low < 0xdc00 || low > 0xdfff) return 0;
    *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
    return 12;
}

// From the first backslash on.
static bool unescape(struct scan *s, const char *from, const char *to, struct scan_str *out)
{
    static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    char *made = arena_take(s->mem, (size_t)(to - from) + 1);
    size_t n = 0;
    if (!made) {
        s->err = err_say(s->why, ERR_MEMORY, "%s: out of memory", s->file);
        return false;
    }
    for (const char *p = from; p < to;) {
        if (*p != '\\') {
            made[n++] = *p++;
            continue;
        }
        const char *known = p + 1 < to ? memchr(letters, p[1], 8) : NULL;
        int32_t c = 0;
        size_t used = 2;
        if (known)
            made[n++] = bytes[known - letters];
        else if (p + 1 < to && p[1] == 'u' && (used = read_u(p, to, &c)) > 0)
            n += put_utf8(made + n, c);
        else
            return scan_fail(s, "a bad escape in a string") == OK;
        p += used;
    }
    *out = (struct scan_str){made, n};
    return true;
}

// To behind the closing quote; NULL: there is none. *escaped: the first backslash, if any.
static const char *string_end(const char *p, const char *end, bool *escaped)
{
    *escaped = false;
    for (; p < end && *p != '"'; p++)
        if (*p == '\\') {
            *escaped = true;
            p++;
        }
    return p < end ? p : NULL;
}

bool scan_string(struct scan *s, struct scan_str *out)
{
    bool escaped;
    if (!take(s, '"', "a string is expected")) return false;
    const char *from = s->at, *to = string_end(from, s->end, &escaped);
    if (!to) return scan_fail(s, "a string without end") == OK;
    s->at = to + 1;
    if (escaped) return unescape(s, from, to, out);
    *out = (struct scan_str){from, (size_t)(to - from)};
    return true;
}

bool scan_number(struct scan *s, double *out)
{
    char text[NUMBER_MAX + 1], *end;
    size_t n = 0;
    if (s->err) return false;
    scan_peek(s);
    while (n < NUMBER_MAX && s->at + n < s->end && s->at[n] && strchr("+-.0123456789eE", s->at[n]))
        n++;
    memcpy(text, s->at, n);
    text[n] = 0;
    *out = strtod(text, &end);
    if (n == 0 || *end) return scan_fail(s, "a number is expected") == OK;
    s->at += n;
    return true;
}

bool scan_id(struct scan *s, int32_t *out)
{
    int64_t v = 0;
    size_t n = 0;
    if (s->err) return false;
    scan_peek(s);
    while (n < 11 && s->at + n < s->end && s->at[n] >= '0' && s->at[n] <= '9')
        v = v * 10 + (s->at[n++] - '0');
    if (n == 0 || v > INT32_MAX) return scan_fail(s, "an id is expected") == OK;
    s->at += n;
    *out = (int32_t)v;
    return true;
}

bool scan_skip(struct scan *s, struct scan_str *out)
{
    size_t depth = 0;
    bool escaped;
    if (s->err) return false;
    scan_peek(s);
    const char *p = s->at;
    for (; p < s->end; p++) {
        char c = *p;
        if (depth == 0 && (c == ',' || c == ']' || c == '}' || is_space(c))) break;
        if (c == '"' && !(p = string_end(p + 1, s->end, &escaped)))
            return scan_fail(s, "a string without end") == OK;
        if (c == '[' || c == '{') depth++;
        if (c == ']' || c == '}') depth--;
        if (depth > DEPTH_MAX) return scan_fail(s, "too deep") == OK;
        if (depth == 0 && (c == ']' || c == '}' || c == '"')) {
            p++;
            break;
        }
    }
    if (depth > 0 || p == s->at) return scan_fail(s, "a value is expected") == OK;
    *out = (struct scan_str){s->at, (size_t)(p - s->at)};
    s->at = p;
    return true;
}

bool scan_tree(struct scan *s, const struct scan_str *text, const struct json **out)
{
    struct err_text why = {""};
    if (s->err) return false;
    err_t err = json_read(text->s, text->len, s->mem, out, NULL, &why);
    if (err)
        s->err = err_say(s->why, ERR_MODEL, "%s: byte %zu: %s", s->file,
                         (size_t)(text->s - s->begin), why.s);
    return err == OK;
}

err_t scan_file(const char *dir, const char *name, size_t max, struct buf *out,
                struct err_text *why)
{
    char path[4096];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return err_say(why, ERR_MODEL, "%s: the path is too long", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return ERR_NOT_FOUND;
    if (fd < 0) return err_say(why, ERR_SYSTEM, "%s: %s", path, strerror(errno));
    err_t err = OK;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        err = err_say(why, ERR_MODEL, "%s: not a file", path);
    else if ((uint64_t)st.st_size > max)
        err = err_say(why, ERR_MODEL, "%s: larger than %zu bytes", path, max);
    else if (!buf_reserve(out, (size_t)st.st_size + 1))
        err = err_say(why, ERR_MEMORY, "%s: out of memory", path);
    while (!err && out->len < (size_t)st.st_size) {
        ssize_t n = read(fd, out->data + out->len, (size_t)st.st_size - out->len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) err = err_say(why, ERR_SYSTEM, "%s: %s", path, strerror(errno));
        if (n <= 0) break;
        out->len += (size_t)n;
    }
    close(fd);
    if (!err) out->data[out->len] = 0;
    return err;
}
