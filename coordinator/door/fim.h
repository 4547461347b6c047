// fim: filling in the middle: how a code model marks what is before and behind the place (Bavarian
// et al. 2022), found by the usual spellings of the marks in its vocabulary.
#pragma once
#include "coordinator/text/tokenizer.h"

struct fim {
    int32_t prefix, suffix, middle; // -1 none of them, or all are there
    int32_t repo, file;             // of several files (Hui et al. 2024); -1: there is none
    int32_t pad;
};

// False: the vocabulary has no such marks.
bool fim_find(const struct tokenizer *t, struct fim *out);
