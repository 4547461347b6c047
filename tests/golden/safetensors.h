// Just enough safetensors to read golden answers: one file in memory, tensors found by name.
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct st_file {
    char *bytes;
    json_t *header;
    uint64_t data_from, size;
};

struct st_tensor {
    const void *data;
    int64_t shape[4];
    int n_dim;
};

static inline bool st_open(struct st_file *f, const char *path)
{
    *f = (struct st_file){0};
    FILE *in = fopen(path, "rb");
    if (!in) return false;
    fseek(in, 0, SEEK_END);
    f->size = (uint64_t)ftell(in);
    rewind(in);
    f->bytes = malloc(f->size + 1);
    bool ok = f->bytes && fread(f->bytes, 1, f->size, in) == f->size;
    fclose(in);
    uint64_t n = 0;
    if (ok) memcpy(&n, f->bytes, 8);
    f->data_from = 8 + n;
    if (ok && n < f->size) f->header = json_loadb(f->bytes + 8, n, 0, NULL);
    return f->header != NULL;
}

static inline void st_close(struct st_file *f)
{
    json_decref(f->header);
    free(f->bytes);
}

// False if it is not there or not of this type ("F32", "I32").
static inline bool st_find(const struct st_file *f, const char *name, const char *dtype,
                           struct st_tensor *out)
{
    json_t *t = json_object_get(f->header, name);
    json_t *shape = json_object_get(t, "shape"), *range = json_object_get(t, "data_offsets");
    const char *type = json_string_value(json_object_get(t, "dtype"));
    if (!type || strcmp(type, dtype) || json_array_size(shape) > 4) return false;
    *out = (struct st_tensor){.n_dim = (int)json_array_size(shape)};
    uint64_t bytes = 4;
    for (int i = 0; i < out->n_dim; i++) {
        out->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        bytes *= (uint64_t)out->shape[i];
    }
    const uint64_t from = (uint64_t)json_integer_value(json_array_get(range, 0));
    if (f->data_from + from + bytes > f->size) return false;
    out->data = f->bytes + f->data_from + from;
    return true;
}
