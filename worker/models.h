// models: the models this worker can read, found once at start and known by their hash; a plan
// names a hash and never a path.
#pragma once
#include "proto/wire/wire.h"

struct models_file {
    char *path;
    char name[96]; // the file's stem, or the folder's name
    uint8_t hash[32];
};

struct models {
    struct models_file files[WIRE_MODELS_MAX];
    uint32_t n;
};

// paths: NULL-terminated; what model_open takes, or folders whose .gguf files and Hugging Face
// folders are taken (not of folders within). A named model that cannot be read is an error; one
// found in a folder is left out with a warning.
err_t models_scan(const char *const *paths, struct models *out, struct err_text *why);
// Adds the whole copies of a store's folder (store.h). What cannot be read is left out with a
// warning.
void models_add_store(struct models *m, const char *dir);
// Forgets copies in the store's folder that are not there any more.
void models_drop_missing(struct models *m, const char *dir);
void models_free(struct models *m);
const struct models_file *models_find(const struct models *m, const uint8_t hash[32]); // NULL
