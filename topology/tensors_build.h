// tensors_build: a table of tensors while it is being filled; used by tensors*.c only.
#pragma once
#include "topology/sha256.h"
#include "topology/tensors.h"

struct tensors_build {
    struct arena *a;
    struct err_text *why;
    struct tensors *t;
    struct model_file *files; // n and capacity of these and of the tensors
    struct model_tensor *items;
    int32_t n_file, cap_file, n, cap;
    struct sha256 sha;
};

// Files come before their tensors; `path` is copied.
err_t tensors_build_file(struct tensors_build *b, const char *path, uint64_t bytes);
// Of the last file; `name` is copied.
err_t tensors_build_tensor(struct tensors_build *b, const char *name, size_t len,
                           const struct model_tensor *t);
err_t tensors_build_no_memory(const struct tensors_build *b, const char *path);

// Fill b and b->t from a file, from a folder. b->t->path is set. The table is complete afterwards,
// but for the index: `tensors_folder_check`, after that, compares with what an index file said.
struct tensors_entry { // of weight_map
    const char *name, *shard;
};
err_t tensors_gguf(struct tensors_build *b);
err_t tensors_folder(struct tensors_build *b, const struct tensors_entry **entries, size_t *n);
err_t tensors_folder_check(const struct tensors_build *b, const struct tensors_entry *entries,
                           size_t n);
