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

// What model.safetensors.index.json says: which tensor lies in which file of the folder.
struct tensors_entry {
    const char *name;
    int32_t shard;
};
struct tensors_shard {
    const char *name;
    int32_t file; // in the table
};
struct tensors_index {
    struct tensors_entry *entries;
    struct tensors_shard *shards;
    size_t n, cap;
    int32_t n_shard;
};
// Names live in b's arena. ERR_MODEL, ERR_MEMORY, ERR_SYSTEM.
err_t tensors_index_read(const struct tensors_build *b, const char *path,
                         struct tensors_index *out);
void tensors_index_free(struct tensors_index *x);

// Fill b and b->t from a file, from a folder. b->t->path is set. The table is complete afterwards,
// but for its own index: tensors_folder_check, after that, compares with what the folder's said.
err_t tensors_gguf(struct tensors_build *b);
err_t tensors_folder(struct tensors_build *b, struct tensors_index *x);
err_t tensors_folder_check(const struct tensors_build *b, const struct tensors_index *x);
