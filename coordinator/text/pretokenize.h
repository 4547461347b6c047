// pretokenize: how normalised text is cut into words. A list of steps, each applied to the pieces
// that the ones before it left: those that a GGUF's tokenizer.ggml.pre names (pretokenize_names.c),
// or "pre_tokenizer" of a tokenizer.json.
#pragma once
#include "coordinator/text/regex.h"
#include "proto/base/buf.h"

enum pretokenize_kind {
    PRETOKENIZE_SPLIT,
    PRETOKENIZE_SPACE,   // add_prefix_space of ByteLevel: a space in front of what has none
    PRETOKENIZE_LETTERS, // bytes become letters (GPT-2's alphabet), for steps that see them so
    PRETOKENIZE_MARKS    // Metaspace: spaces become U+2581, which begin words
};
// What becomes of a match (or, inverted, of what lies between).
enum pretokenize_then {
    PRETOKENIZE_ISOLATED,
    PRETOKENIZE_REMOVED,
    PRETOKENIZE_TO_PREVIOUS,
    PRETOKENIZE_TO_NEXT,
    PRETOKENIZE_CONTIGUOUS
};
enum pretokenize_prefix { PRETOKENIZE_ALWAYS, PRETOKENIZE_FIRST, PRETOKENIZE_NEVER };
enum { PRETOKENIZE_STEPS_MAX = 16 };

struct pretokenize_step {
    enum pretokenize_kind kind;
    enum pretokenize_then then;
    bool invert;
    struct regex *pattern;          // SPLIT
    enum pretokenize_prefix prefix; // MARKS
    bool split;                     // MARKS
};
struct pretokenize {
    struct pretokenize_step steps[PRETOKENIZE_STEPS_MAX];
    int n;
};
// False: too many. The step's pattern is taken over in any case.
bool pretokenize_add(struct pretokenize *p, const struct pretokenize_step *s);
void pretokenize_close(struct pretokenize *p);
// The steps of a tokenizer.ggml.pre name: ERR_MODEL if it is not known.
err_t pretokenize_open(const char *name, size_t len, struct pretokenize **out, bool *ignore_merges,
                       bool *add_bos, struct err_text *why);
// GPT-2's pattern, which ByteLevel has inside.
err_t pretokenize_gpt2(struct regex **out, struct err_text *why);

struct pretokenize_work {
    struct regex_work match;
    struct buf texts[PRETOKENIZE_STEPS_MAX]; // of steps that write
    struct buf word;
};
void pretokenize_work_fini(struct pretokenize_work *w);
// Called with each word of the text, in order; stops at the first error.
typedef err_t pretokenize_fn(void *arg, const char *word, size_t len);
// text is valid UTF-8. `at_start`: nothing of the input came before it.
err_t pretokenize_each(const struct pretokenize *p, struct pretokenize_work *w, const char *text,
                       size_t len, bool at_start, pretokenize_fn *fn, void *arg);
