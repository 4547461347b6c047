// template: chat templates, a Jinja interpreter in C. Renders a model's own template with the
// environment Hugging Face gives it: trim_blocks, lstrip_blocks, loop controls, tojson (no HTML
// escapes, ensure_ascii false), raise_exception, strftime_now, namespace, macros.
//
// A template is outside input: steps, memory, depth and output are bounded, nothing recurses on its
// say. Bytes that come from messages are marked in the output, so that the tokenizer can refuse to
// read special tokens out of user text.
#pragma once
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/turn.h"
#include "proto/base/json.h"

struct template;

enum {
    TEMPLATE_SOURCE_MAX = 1 << 20,
    TEMPLATE_STEPS_MAX = 1000000,
    TEMPLATE_MEMORY_MAX = 16 << 20, // besides the input tree
    TEMPLATE_DEPTH_MAX = 64,
};

struct template_input {
    const struct json *messages; // array
    const struct json *tools;    // array or NULL (None)
    const struct json *kwargs;   // object of further variables, or NULL; they win over the rest
    const char *bos_token, *eos_token; // "" when the model has none
    bool add_generation_prompt;
    int64_t now_s; // local wall-clock seconds for strftime_now
};

struct template_output {
    struct buf text;
    struct text_span *plain; // bytes that came from the input tree; sorted, disjoint
    size_t n_plain, cap_plain;
};
void template_output_fini(struct template_output *o);

// The source of a model's own template, in `a`. ERR_NOT_FOUND: it has none (a base model).
struct model;
struct arena;
err_t template_find(const struct model *m, struct arena *a, const char **source, size_t *len,
                    struct err_text *why);
// The same for a Hugging Face directory.
err_t template_find_dir(const char *dir, struct arena *a, const char **source, size_t *len,
                        struct err_text *why);
// ERR_MODEL with line number.
err_t template_open(const char *source, size_t len, struct template **out, struct err_text *why);
void template_close(struct template *t);
// What it was opened from.
const char *template_source(const struct template *t, size_t *len);
// How the model writes calls and thoughts, by what its template spells.
const struct turn_format *template_turn(const struct template *t);
// Thread-safe. ERR_INVALID: the template called raise_exception (why holds its words) or failed on
// this input; ERR_TOO_LARGE: over a budget.
err_t template_render(const struct template *t, const struct template_input *in,
                      struct template_output *out, struct err_text *why);
