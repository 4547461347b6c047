// shape_table: the models of shape:NAME; used by shape.c only.
#pragma once
#include "topology/shape.h"

enum shape_class {
    CLASS_EMBED,
    CLASS_HEAD,
    CLASS_MIXER, // attention, MLA, DeltaNet
    CLASS_DENSE,
    CLASS_EXPERT,
    CLASS_SHARED,
    CLASS_FLOAT, // routers and what quantisers leave alone
    CLASS_COUNT
};

struct shape_type {
    const char *words; // as quant_words
    enum dtype dtype[CLASS_COUNT];
};

struct shape_entry {
    const char *name;
    const struct shape_type *type;
    int32_t n_layer;
    const char *config; // the members of config.json without num_hidden_layers
};

extern const struct shape_entry shape_table[];
extern const int32_t shape_table_n;
