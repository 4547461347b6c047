// scan: walks through JSON text without making a tree of it. A tokenizer.json has millions of
// values, nearly all of them in two lists: those are read this way; the rest is small, and goes to
// json_read. Nothing recurses; values are checked as far as they are read.
#pragma once
#include "proto/base/arena.h"
#include "proto/base/json.h"

struct scan {
    const char *begin, *at, *end;
    const char *file;  // for sentences
    struct arena *mem; // of strings with escapes
    struct err_text *why;
    err_t err; // the first one; then every call returns false
};
struct scan_str {
    const char *s; // borrowed from the text, or in mem; may hold NULs
    size_t len;
};

// For (bool first = true; scan_next(s, '[', &first);) each value must be read (or skipped). Opens
// the list with the first call. False: it is over, or s->err.
bool scan_next(struct scan *s, char open, bool *first);
// The same for an object; the key is read.
bool scan_key(struct scan *s, bool *first, struct scan_str *key);
bool scan_key_is(const struct scan_str *key, const char *name);
bool scan_string(struct scan *s, struct scan_str *out);
bool scan_number(struct scan *s, double *out);
bool scan_id(struct scan *s, int32_t *out); // an integer from 0 to INT32_MAX
char scan_peek(struct scan *s);             // first byte of the next value; 0: end
// The text of any value, which is skipped.
bool scan_skip(struct scan *s, struct scan_str *out);
// A tree of such a text.
bool scan_tree(struct scan *s, const struct scan_str *text, const struct json **out);
err_t scan_fail(struct scan *s, const char *what);

// Reads a whole file. ERR_NOT_FOUND if there is none (why untouched), ERR_MODEL if it is larger
// than max. The buffer is the caller's also on failure.
struct buf;
err_t scan_file(const char *dir, const char *name, size_t max, struct buf *out,
                struct err_text *why);
