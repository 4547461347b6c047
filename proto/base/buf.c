#include "proto/base/buf.h"
#include "proto/base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->broken = false;
    if (b->data) b->data[0] = 0;
}

bool buf_reserve(struct buf *b, size_t more)
{
    if (b->broken) return false;
    size_t need;
    if (__builtin_add_overflow(b->len, more, &need) || need >= SIZE_MAX / 2 ||
        (b->max && need > b->max)) {
        b->broken = true;
        return false;
    }
    if (need < b->cap) return true;
    size_t cap = b->cap ? b->cap * 2 : 256;
    if (cap < need + 1) cap = need + 1;
    char *p = realloc(b->data, cap);
    if (!p) {
        b->broken = true;
        return false;
    }
    b->data = p;
    b->cap = cap;
    return true;
}

void buf_add(struct buf *b, const void *p, size_t len)
{
    if (!buf_reserve(b, len)) return;
    if (len) memcpy(b->data + b->len, p, len);
    b->len += len;
    b->data[b->len] = 0;
}

void buf_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_char(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0 && buf_reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

void buf_drop(struct buf *b, size_t n)
{
    if (n >= b->len) {
        b->len = 0;
    } else if (n) {
        memmove(b->data, b->data + n, b->len - n);
        b->len -= n;
    }
    if (b->data) b->data[b->len] = 0;
}

void buf_json_str(struct buf *b, const char *str, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *s = (const unsigned char *)str, *end = s + len, *run = s;
    buf_char(b, '"');
    while (s < end) {
        const size_t n = utf8_len(s, (size_t)(end - s));
        if (n > 1 || (n == 1 && *s >= 0x20 && *s != '"' && *s != '\\')) {
            s += n;
            continue;
        }
        buf_add(b, run, (size_t)(s - run));
        if (n == 0) {
            buf_str(b, "\xef\xbf\xbd");
        } else if (*s == '"' || *s == '\\') {
            buf_add(b, (char[]){'\\', (char)*s}, 2);
        } else if (*s == '\n' || *s == '\r' || *s == '\t') {
            buf_add(b, (char[]){'\\', *s == '\n' ? 'n' : *s == '\r' ? 'r' : 't'}, 2);
        } else {
            buf_add(b, (char[]){'\\', 'u', '0', '0', hex[*s >> 4], hex[*s & 15]}, 6);
        }
        run = ++s;
    }
    buf_add(b, run, (size_t)(s - run));
    buf_char(b, '"');
}

void buf_json_num(struct buf *b, double v)
{
    if (!isfinite(v)) {
        buf_str(b, "null");
        return;
    }
    char s[40];
    snprintf(s, sizeof s, "%.9g", v);
    if (strtod(s, NULL) != v) snprintf(s, sizeof s, "%.17g", v);
    buf_str(b, s);
}

void buf_base64(struct buf *b, const uint8_t *p, size_t len)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) { // three bytes become four letters
        const uint32_t b1 = i + 1 < len ? p[i + 1] : 0, b2 = i + 2 < len ? p[i + 2] : 0;
        const uint32_t v = (uint32_t)p[i] << 16 | b1 << 8 | b2;
        const char four[4] = {letters[v >> 18], letters[v >> 12 & 63],
                              i + 1 < len ? letters[v >> 6 & 63] : '=',
                              i + 2 < len ? letters[v & 63] : '='};
        buf_add(b, four, sizeof four);
    }
}
