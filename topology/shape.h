// shape: real models without their files, for plans and speed tests:
//     shape:NAME[@layers=N][:TYPE]
// NAME is one of a table of configs written from public sources; @layers=N keeps the first N
// layers; TYPE ("Q4_K") makes every matrix of that type but routers and MLA keys (SLOT_MLA_K_B).
#pragma once
#include "proto/base/json.h"
#include "topology/model.h"

struct shape_type; // which matrices are quantised

struct shape {
    const char *name;          // "gpt-oss-20b"
    const char *word;          // the whole, in one spelling: "shape:gpt-oss-20b@layers=4"
    const struct json *config; // as config.json, an object
    uint8_t hash[32];          // of word
    const char *quant;         // words for status
    const struct shape_type *type;
    enum dtype override; // DT_NONE: as the release has it
};

bool shape_is(const char *path); // begins with "shape:"
// ERR_MODEL: an unknown name (the sentence lists all), a number or a type that is not allowed.
err_t shape_open(const char *path, struct arena *a, struct shape *out, struct err_text *why);
// Type in memory of a matrix with rows of `cols` elements.
// ERR_MODEL if the type asked for does not fit.
err_t shape_dtype(const struct shape *s, enum slot slot, int64_t cols, enum dtype *out,
                  struct err_text *why);
