// Writes small GGUF files for the tests, good ones and, on purpose, bad ones.
#pragma once
#include "proto/base/buf.h"
#include "topology/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void make_le(struct buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        buf_char(b, (char)(v >> (8 * i)));
}

static inline void make_head(struct buf *b, uint32_t version, uint64_t n_tensor, uint64_t n_kv)
{
    buf_add(b, "GGUF", 4);
    make_le(b, version, 4);
    make_le(b, n_tensor, 8);
    make_le(b, n_kv, 8);
}

static inline void make_bytes(struct buf *b, const char *s, uint64_t len)
{
    make_le(b, len, 8);
    buf_add(b, s, len);
}

static inline void make_key(struct buf *b, const char *key, uint32_t type)
{
    make_bytes(b, key, strlen(key));
    make_le(b, type, 4);
}

static inline void make_int(struct buf *b, const char *key, uint32_t type, uint64_t v, int bytes)
{
    make_key(b, key, type);
    make_le(b, v, bytes);
}

static inline void make_u32(struct buf *b, const char *key, uint32_t v)
{
    make_int(b, key, GGUF_U32, v, 4);
}

static inline void make_f32(struct buf *b, const char *key, float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    make_int(b, key, GGUF_F32, u, 4);
}

static inline void make_str(struct buf *b, const char *key, const char *v)
{
    make_key(b, key, GGUF_STR);
    make_bytes(b, v, strlen(v));
}

static inline void make_arr(struct buf *b, const char *key, uint32_t elem, uint64_t n)
{
    make_key(b, key, GGUF_ARR);
    make_le(b, elem, 4);
    make_le(b, n, 8);
}

// Dimensions as the file has them, innermost first.
static inline void make_tensor(struct buf *b, const char *name, uint32_t n_dim,
                               const uint64_t *dims, uint32_t type, uint64_t offset)
{
    make_bytes(b, name, strlen(name));
    make_le(b, n_dim, 4);
    for (uint32_t i = 0; i < n_dim; i++)
        make_le(b, dims[i], 8);
    make_le(b, type, 4);
    make_le(b, offset, 8);
}

static inline void make_pad(struct buf *b, size_t align)
{
    while (b->len % align)
        buf_char(b, 0);
}

// A new temporary file with these bytes; the caller unlinks it.
static inline void make_file(const struct buf *b, char *path, size_t size)
{
    snprintf(path, size, "/tmp/trireme-gguf-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, b->data ? b->data : "", b->len) != (ssize_t)b->len) abort();
    close(fd);
}
