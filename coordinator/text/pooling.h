// pooling: what a model says of how the hidden states of a text become one vector: a folder in
// 1_Pooling/config.json and modules.json (as sentence-transformers writes them), a GGUF in
// "ARCH.pooling_type". One that says nothing is a model of language, where only the last token has
// seen the whole text.
#pragma once
#include "proto/wire/step.h"

struct model;

struct pooling_said {
    enum pooling kind; // POOLING_NONE: what it says cannot be done
    const char *why;   // of POOLING_NONE; static
};

struct pooling_said pooling_find(const struct model *m);
// "last", "mean", "cls"; POOLING_NONE: no such word.
enum pooling pooling_named(const char *word);
