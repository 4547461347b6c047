// file: bytes of a regular file at given places. Symbolic links are followed; directories, pipes
// and devices are refused without blocking. Read, not mapped: a file that shrinks under us is an
// error and not a SIGBUS.
#pragma once
#include "proto/base/err.h"
#include "topology/sha256.h"
#include <stdbool.h>

struct file {
    const char *path; // borrowed
    uint64_t bytes;
    int fd;
};

// ERR_MODEL with "path: ..." if it is no regular file, ERR_SYSTEM if it cannot be opened.
err_t file_open(const char *path, struct file *out, struct err_text *why);
void file_close(struct file *f);
// Bytes [at, at + len), which must lie in f->bytes. ERR_MODEL if the file has shrunk since.
err_t file_read(const struct file *f, uint64_t at, void *to, uint64_t len, struct err_text *why);
// Where samples of a file of `bytes` bytes whose data begins at `from` lie: begin and length of
// sample i of n.
enum { FILE_SAMPLE_BYTES = 4096 };
uint64_t file_sample(uint64_t bytes, uint64_t from, uint32_t n, uint32_t i, uint64_t *len);
// Adds the size of the file and n (2 or more) samples at even distances from `from` to the end: two
// trainings of one model may have the same header and the same size.
err_t file_add_samples(const struct file *f, uint64_t from, uint32_t n, struct sha256 *sha,
                       struct err_text *why);
// What a model is called after its path: the last part, without slashes behind it and without
// ".gguf". Borrowed from `path`, *len bytes.
const char *file_stem(const char *path, size_t *len);
// The end of a path, which says more than its beginning, short enough for a sentence.
const char *file_tail(const char *path);
