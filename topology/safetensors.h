// safetensors: reads the header of one file (https://github.com/huggingface/safetensors, "Format"):
// u64 length, JSON object of tensors, data. As the reference does, headers over 100 MB are refused,
// and tensors must cover the data without hole or overlap.
//
// One pass over the header, no tree: memory is the header and its tensors.
#pragma once
#include "topology/model.h"
#include "topology/sha256.h"

enum { SAFETENSORS_SAMPLES = 16 }; // of the data of each file, for the hash

// Called for each tensor in the order of the header; `name` and `t` live during the call, t->name
// is NULL, t->file 0. More than 4 dimensions (vision towers) come with the last ones multiplied
// into the fourth. dtype DT_NONE: a type of the format that no weight has (complex, 6 bits, ...).
struct safetensors_sink {
    err_t (*on_tensor)(void *user, const char *name, size_t len, const struct model_tensor *t,
                       struct err_text *why);
    void *user;
};

// Adds header, size and samples of the data to `sha`. Duplicate names are the caller's to refuse.
// ERR_MODEL: "path: ..." in why; ERR_SYSTEM if the file cannot be read.
err_t safetensors_read(const char *path, const struct safetensors_sink *sink, struct sha256 *sha,
                       uint64_t *file_bytes, struct err_text *why);
