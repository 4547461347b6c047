// regex: regular expressions of tokenizers, by PCRE2. Those in files are written for other
// engines (Oniguruma in tokenizer.json, Rust's in tekken.json): regex_open translates what those
// write differently, and refuses what it cannot.
//
// Files are outside input, and so is the text: a search has limits on steps, memory and (all
// searches of one regex_work together) processor time.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>
#include <stddef.h>

struct regex;

enum regex_dialect {
    REGEX_PCRE, // ours: taken as it is
    REGEX_RUBY, // Oniguruma: ^ and $ match at every line
    REGEX_RUST
};
enum { REGEX_BYTES_MAX = 1 << 16, REGEX_CPU_MS_MAX = 10000 };

// White space of Unicode, inside brackets. PCRE2's own \s has U+180E besides.
#define REGEX_SPACE                                                                                \
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"       \
    "\\x{3000}"

// ERR_MODEL with the reason.
err_t regex_open(const char *s, size_t len, enum regex_dialect d, struct regex **out,
                 struct err_text *why);
void regex_close(struct regex *p);

// What searches work with; one thread. Zero-initialise.
struct regex_work {
    void *data, *context, *stack;
    int64_t began_us; // thread's processor time at the first search
    uint32_t n;
};
void regex_work_fini(struct regex_work *w);
// First match at or after `at` in valid UTF-8. *found false: none. ERR_TOO_LARGE: over a limit.
err_t regex_find(const struct regex *p, struct regex_work *w, const char *text, size_t len,
                 size_t at, bool *found, size_t *from, size_t *to);
