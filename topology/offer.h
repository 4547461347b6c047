// offer: the files of a model that another machine needs to open it and to load parts of it, and
// which bytes of them it must have to open it. A copy of these files, under the same names in one
// folder, is the same model with the same hash; ranges that are not read may be holes.
#pragma once
#include "topology/model.h"

struct offer_file {
    const char *path; // here
    const char *name; // its last part
    uint64_t bytes;
    uint64_t header_bytes; // what lies before the weights; all of a file that holds none
};

struct offer {
    struct offer_file *files; // n_file 0: the model is made up
    uint32_t n_file;
};

// Reads the files' headers. Memory is the arena's. ERR_MODEL, ERR_SYSTEM, ERR_MEMORY.
err_t offer_make(const struct model *m, struct arena *a, struct offer *out, struct err_text *why);

// Calls on_range for what model_open reads of a file of this name: header and samples.
typedef void offer_range_fn(void *arg, uint64_t from, uint64_t bytes);
void offer_opening(const struct offer_file *f, offer_range_fn *on_range, void *arg);
// Of such files (one or more), which one's path model_open takes; -1: their folder's.
int32_t offer_entry(const struct offer_file *files, uint32_t n_file);
