// mock_engine: an engine without a model: real tokenizer and template, made-up tokens. The text it
// says is always the beginning of MOCK_TEXT, repeated, for 64 tokens and then an end token (unless
// end tokens do not stop the request), so a test knows every answer in advance.
//
// A request's seed may be a command (MOCK_*). Stepping runs on the loop.
#pragma once
#include "coordinator/door/engine.h"
#include <uv.h>

#define MOCK_TEXT                                                                                  \
    "The quick brown fox jumps over the lazy dog. \xc3\x9cn\xc3\xaf"                               \
    "c\xc3\xb6"                                                                                    \
    "d\xc3\xa9, "                                                                                  \
    "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xf0\x9f\x99\x82\xf0\x9f\x9a\x80 \"quoted\" \\ done.\n"

enum {
    MOCK_ECHO = 1001,         // says its own prompt, ids and all
    MOCK_FAIL_FIRST = 1002,   // fails before the first token: a worker was lost
    MOCK_FAIL_LATER = 1003,   // fails after three tokens
    MOCK_BUSY = 1004,         // submit says the queue is full, come back in 7 s
    MOCK_NO_CAPACITY = 1005,  // submit says there is no placement, come back in 3 s
    MOCK_SLOW_PREFILL = 1006, // 2 s before the first token, with progress
    MOCK_NONFINITE = 1007,    // the choice ends with FINISH_ERROR after two tokens
    MOCK_SLOW = 1008,         // a token every 20 ms
    MOCK_NEVER = 1009,        // never a token
};

// Number k of a vector: the prompt's id number k modulo its length, modulo 97, and k, and the
// pooling (step.h); not normalised.
enum { MOCK_DIM = 300 };

struct mock_config {
    const char *vocab;         // .gguf with a vocabulary
    const char *chat_template; // file; NULL: a base model
    const char *const *aliases;
    const char *say;    // said once and whole instead of MOCK_TEXT, special tokens and all; or NULL
    uint32_t ctx;       // 0: 4096
    uint32_t per_turn;  // tokens of each choice in one turn of the loop; 0: 1
    uint32_t step_us;   // pause between turns; 0: none
    uint32_t queue_max; // requests at once; 0: 4096
};

err_t mock_engine_open(uv_loop_t *loop, const struct mock_config *c, struct engine **out,
                       struct err_text *why);
void mock_engine_set_state(struct engine *e, enum engine_state state);
uint32_t mock_engine_n_running(const struct engine *e);
// The loop must run once more for its handles.
void mock_engine_close(struct engine *e);
