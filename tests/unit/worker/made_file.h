// A file with some tensors, and a model that has it, made on the spot.
#pragma once
#include "topology/model.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MADE_FILE_BYTES = 1 << 20, MADE_TENSORS = 16 };

struct made_file {
    char path[64];
    uint8_t *bytes;
    uint64_t n_bytes;
    struct model_tensor tensors[MADE_TENSORS];
    int32_t n;
    struct model_file file;
    struct model model;
};

static inline void made_open(struct made_file *f)
{
    *f = (struct made_file){.bytes = calloc(1, MADE_FILE_BYTES), .n_bytes = 64};
    if (!f->bytes) abort();
}

static inline struct model_tensor *made_add(struct made_file *f, const char *name, enum dtype t,
                                            const void *data, uint64_t bytes)
{
    struct model_tensor *x = &f->tensors[f->n++];
    if (f->n > MADE_TENSORS || f->n_bytes + bytes > MADE_FILE_BYTES) abort();
    *x = (struct model_tensor){.name = name, .dtype = t, .offset = f->n_bytes, .bytes = bytes};
    memcpy(f->bytes + f->n_bytes, data, bytes);
    f->n_bytes += bytes + 3; // tensors need not be aligned
    return x;
}

static inline void made_write(struct made_file *f)
{
    strcpy(f->path, "/tmp/trireme-source-XXXXXX");
    const int fd = mkstemp(f->path);
    if (fd < 0 || write(fd, f->bytes, f->n_bytes) != (ssize_t)f->n_bytes) abort();
    close(fd);
    f->file = (struct model_file){f->path, f->n_bytes};
    f->model = (struct model){.path = f->path, .files = &f->file, .n_file = 1};
}

static inline void made_close(struct made_file *f)
{
    unlink(f->path);
    free(f->bytes);
}
