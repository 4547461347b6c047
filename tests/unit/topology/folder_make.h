// Writes small Hugging Face folders and safetensors files for the tests, good and bad ones.
#pragma once
#include "proto/base/buf.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct folder {
    char path[64];
};

static inline struct folder folder_new(void)
{
    struct folder f = {"/tmp/trireme-folder-XXXXXX"};
    if (!mkdtemp(f.path)) abort();
    return f;
}

static inline void folder_path(const struct folder *f, const char *name, char *out, size_t size)
{
    if (snprintf(out, size, "%s/%s", f->path, name) >= (int)size) abort();
}

// A file of these bytes and, where `whole` is more, a hole after them.
static inline void folder_put(const struct folder *f, const char *name, const void *data,
                              size_t len, size_t whole)
{
    char path[512];
    folder_path(f, name, path, sizeof path);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 || (len && write(fd, data, len) != (ssize_t)len)) abort();
    if (whole > len && ftruncate(fd, (off_t)whole)) abort();
    close(fd);
}

static inline void folder_text(const struct folder *f, const char *name, const char *text)
{
    folder_put(f, name, text, strlen(text), 0);
}

static inline void folder_remove(const struct folder *f)
{
    DIR *d = opendir(f->path);
    for (struct dirent *at; d && (at = readdir(d));) {
        char path[512];
        folder_path(f, at->d_name, path, sizeof path);
        if (at->d_name[0] != '.' && unlink(path)) rmdir(path);
    }
    if (d) closedir(d);
    rmdir(f->path);
}

// A safetensors file: header text as given, then data_bytes of zeros.
static inline void folder_safetensors(const struct folder *f, const char *name, const char *header,
                                      size_t data_bytes)
{
    struct buf b = {0};
    const uint64_t len = strlen(header);
    for (int i = 0; i < 8; i++)
        buf_char(&b, (char)(len >> (8 * i)));
    buf_add(&b, header, len);
    folder_put(f, name, b.data, b.len, b.len + data_bytes);
    buf_fini(&b);
}

static inline size_t make_bits(const char *dtype)
{
    static const struct {
        const char *name;
        size_t bits;
    } types[] = {{"F64", 64},  {"I64", 64}, {"F32", 32}, {"I32", 32},    {"F16", 16},
                 {"BF16", 16}, {"I8", 8},   {"U8", 8},   {"F8_E4M3", 8}, {"F8_E5M2", 8}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, dtype) == 0) return types[i].bits;
    abort();
}

// A well-formed file of the tensors of a text with lines "NAME DTYPE 4,8" ("-": a scalar).
static inline void folder_tensors(const struct folder *f, const char *name, const char *lines)
{
    struct buf b = {0};
    size_t at = 0;
    buf_char(&b, '{');
    for (const char *line = lines; *line;) {
        char tensor[128], dtype[16], shape[64];
        size_t n = 1, bits;
        if (sscanf(line, "%127s %15s %63s", tensor, dtype, shape) != 3) abort();
        bits = make_bits(dtype);
        if (strcmp(shape, "-") == 0) shape[0] = 0;
        for (char *d = shape; *d; d += *d == ',')
            n *= strtoul(d, &d, 10);
        buf_printf(&b, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                   b.len > 1 ? "," : "", tensor, dtype, shape, at, at + n * bits / 8);
        at += n * bits / 8;
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    buf_char(&b, '}');
    folder_safetensors(f, name, b.data, at);
    buf_fini(&b);
}

// `text` with the first `from` replaced; the caller frees it.
static inline char *make_replaced(const char *text, const char *from, const char *to)
{
    struct buf b = {0};
    const char *at = strstr(text, from);
    if (!at) {
        fprintf(stderr, "'%s' is not in the text\n", from);
        abort();
    }
    buf_add(&b, text, (size_t)(at - text));
    buf_str(&b, to);
    buf_str(&b, at + strlen(from));
    buf_char(&b, 0);
    return b.data;
}
