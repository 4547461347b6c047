// pattern: the regular expressions that quantisation configs name modules with (Python's syntax):
// characters, . [...] \d \w \s \b ^ $, groups, |, * + ? {m,n}, (?=...) and (?!...). What remembers
// or looks back is refused. Matching follows all alternatives at once (Thompson 1968), so its time
// is bounded by text times pattern, whatever the pattern. Bytes, not characters.
#pragma once
#include "proto/base/arena.h"
#include <stdbool.h>

struct pattern;

// `anywhere`: as re.search, else as re.match (from the beginning, not to the end).
// ERR_INVALID: a sentence about the pattern.
err_t pattern_compile(const char *text, bool anywhere, struct arena *a, struct pattern **out,
                      struct err_text *why);
// Takes steps off *budget; when it comes to 0 there is no match, and the budget tells.
bool pattern_match(const struct pattern *p, const char *text, uint64_t *budget);
