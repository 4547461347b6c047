#include "proto/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_MIN = 4096, CHUNK_MAX = 1 << 20, ALIGN = 16 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t size, at; // bytes in `data`, bytes taken
    _Alignas(ALIGN) unsigned char data[];
};

void arena_init(struct arena *a, size_t max_bytes)
{
    *a = (struct arena){.max_bytes = max_bytes};
}

void arena_fini(struct arena *a)
{
    for (struct arena_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    a->chunks = NULL;
    a->used_bytes = 0;
}

void arena_reset(struct arena *a)
{
    struct arena_chunk *keep = NULL;
    for (struct arena_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        if (!keep || c->size > keep->size) {
            free(keep);
            keep = c;
        } else {
            free(c);
        }
    }
    if (keep) {
        keep->next = NULL;
        keep->at = 0;
    }
    a->chunks = keep;
    a->used_bytes = 0;
}

static struct arena_chunk *chunk_new(struct arena *a, size_t need)
{
    size_t size = a->chunks ? a->chunks->size * 2 : CHUNK_MIN;
    if (size > CHUNK_MAX) size = CHUNK_MAX;
    if (size < need) size = need;
    struct arena_chunk *c = malloc(sizeof *c + size);
    if (!c) return NULL;
    *c = (struct arena_chunk){.next = a->chunks, .size = size};
    a->chunks = c;
    return c;
}

void *arena_take(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t need = bytes ? (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN;
    if (a->max_bytes && (need > a->max_bytes || a->used_bytes > a->max_bytes - need)) return NULL;
    struct arena_chunk *c = a->chunks;
    if (!c || c->size - c->at < need) c = chunk_new(a, need);
    if (!c) return NULL;
    void *p = c->data + c->at;
    c->at += need;
    a->used_bytes += need;
    return memset(p, 0, need);
}

void *arena_take_n(struct arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) return NULL;
    return arena_take(a, bytes);
}

void *arena_copy(struct arena *a, const void *p, size_t bytes)
{
    void *q = arena_take(a, bytes);
    if (q && bytes) memcpy(q, p, bytes);
    return q;
}

char *arena_copy_str(struct arena *a, const char *s, size_t len)
{
    if (len == SIZE_MAX) return NULL;
    char *q = arena_take(a, len + 1);
    if (q && len) memcpy(q, s, len);
    return q;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *s = n < 0 ? NULL : arena_take(a, (size_t)n + 1);
    if (s) vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return s;
}
