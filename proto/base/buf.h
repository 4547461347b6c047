// buf: a growable run of bytes. After a failed append the buffer is "broken": later appends do
// nothing, and buf_ok tells; so writers append freely and check once at the end.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

struct buf {
    char *data; // NULL while empty; always NUL-terminated at data[len] otherwise
    size_t len, cap;
    size_t max; // 0: no limit
    bool broken;
};

static inline bool buf_ok(const struct buf *b)
{
    return !b->broken;
}
void buf_fini(struct buf *b);  // zero-initialised buffers are valid; leaves it so
void buf_clear(struct buf *b); // keeps the memory
bool buf_reserve(struct buf *b, size_t more);
void buf_add(struct buf *b, const void *p, size_t len);
void buf_str(struct buf *b, const char *s);
void buf_char(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// Drops the first n bytes.
void buf_drop(struct buf *b, size_t n);
// JSON string literal with quotes: escapes " \ and control bytes, keeps UTF-8 raw; bytes that are
// not UTF-8 become U+FFFD, so the output is always valid JSON.
void buf_json_str(struct buf *b, const char *s, size_t len);
void buf_base64(struct buf *b, const uint8_t *p, size_t len); // RFC 4648, with padding
// JSON number for a double: shortest of %.9g / %.17g that reads back; null for NaN and infinities.
void buf_json_num(struct buf *b, double v);
