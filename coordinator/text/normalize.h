// normalize: what happens to text before it is cut into words: a list of steps, as "normalizer" in
// tokenizer.json names them. Unicode forms are linear for every input, sequences of a million
// combining marks included.
#pragma once
#include "coordinator/text/regex.h"
#include "proto/base/buf.h"

enum normalize_kind {
    NORMALIZE_FORM,    // form: NFC and so on
    NORMALIZE_REPLACE, // `what` (or pattern) -> with
    NORMALIZE_PREPEND, // `with`, unless the text is empty
    NORMALIZE_STRIP,   // white space at the ends, as left and right say
    NORMALIZE_LOWER,
    NORMALIZE_ACCENTS, // drops combining marks
    NORMALIZE_CHARSMAP // SentencePiece's precompiled table
};
enum normalize_form { NORMALIZE_NFC, NORMALIZE_NFD, NORMALIZE_NFKC, NORMALIZE_NFKD };
enum { NORMALIZE_STEPS_MAX = 16 };

struct normalize_step {
    enum normalize_kind kind;
    enum normalize_form form;
    bool left, right;
    struct regex *pattern; // REPLACE; the normalizer's
    // Borrowed; must live as long as the normalizer. CHARSMAP: `what` is the table.
    const char *what, *with;
    size_t what_len, with_len;
};
struct normalizer {
    struct normalize_step steps[NORMALIZE_STEPS_MAX];
    int n;
    bool keeps_origin; // the output tells for each byte where in the input it comes from
};
// False: too many. The step's pattern is taken over in any case.
bool normalize_add(struct normalizer *n, const struct normalize_step *s);
// Takes ownership of nothing but patterns. n may be NULL.
void normalize_close(struct normalizer *n);
// Checks a precompiled table before it is used.
bool normalize_charsmap_ok(const char *table, size_t len);

struct normal {
    struct buf text, other;      // the result is in text
    struct buf from, other_from; // uint32_t of each byte, if keeps_origin
};
void normal_fini(struct normal *o);
// text is valid UTF-8 of less than 4 GiB.
err_t normalize_run(const struct normalizer *n, struct regex_work *w, const char *text, size_t len,
                    struct normal *out);
