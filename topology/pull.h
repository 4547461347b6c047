// pull: JSON (RFC 8259) in one pass without a tree, for the lists of tensors that model files have:
// megabytes of which only names and whole numbers are wanted. Each call takes one thing and says in
// one sentence what else it found. No recursion deeper than PULL_DEPTH_MAX, no memory.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PULL_NAME_MAX = 512, PULL_DEPTH_MAX = 64 };

struct pull {
    const char *path; // of the file, for sentences
    const char *part; // what the text is of it, likewise: "its header"
    const uint8_t *text;
    uint64_t len, at;
    char name[PULL_NAME_MAX + 1]; // of the tensor at hand; name_len 0: none
    size_t name_len;
    struct err_text *why;
};

// ERR_MODEL with file and tensor before the sentence.
__attribute__((format(printf, 2, 3))) err_t pull_fail(const struct pull *s, const char *fmt, ...);
// The next character that is no white space, not taken; -1: there is none.
int pull_peek(struct pull *s);
err_t pull_expect(struct pull *s, char c);
// After "{" or "[": *again false if nothing is in it, and `end` is taken.
err_t pull_open(struct pull *s, char begin, char end, bool *again);
// After a value: *again true if another follows, else `end` is taken.
err_t pull_more(struct pull *s, char end, bool *again);
// A string without its escapes and a NUL after it; `size` is the room. to NULL: any length, kept
// nowhere.
err_t pull_string(struct pull *s, char *to, size_t size, size_t *len);
// The key of a tensor and the colon after it: to s->name. Refused are names that are empty or hold
// a NUL.
err_t pull_name(struct pull *s);
// A whole number from 0 to 2^63-1.
err_t pull_number(struct pull *s, uint64_t *out);
// Any value.
err_t pull_skip(struct pull *s);
// Nothing but white space may follow.
err_t pull_end(struct pull *s);
