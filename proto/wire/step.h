// step: one immutable batch of work, and what comes back. The scheduler makes it, wire packs it
// once, the same bytes go to every stage of a lane, and each stage runs it in step order.
//
// Sequences live in slots: a bind gives a slot a new sequence, rows extend it. A stage keeps per
// slot only what a step cannot carry cheaply: the page table (extended by each row), and on the
// last stage the sampling settings and the counts for penalties.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

enum {
    STEP_ROWS_MAX = 256,
    STEP_TOKENS_MAX = 8192, // rows' tokens together
    STEP_SLOTS_MAX = 1024,
    STEP_PAGES_MAX = 1 << 20, // highest page number + 1
    STEP_BIAS_MAX = 1024,
    STEP_LOGPROBS_MAX = 20,
};

struct logit_bias {
    int32_t id;
    float bias;
};

// How the last stage turns logits into an id. Order: bias, penalties, temperature, top-k, top-p,
// min-p, draw. temperature 0 is greedy: lowest id of the largest logit, after bias and penalties.
struct sampling {
    float temperature;         // 0..2
    float top_p;               // (0, 1]; 1: off
    float min_p;               // [0, 1]; 0: off
    int32_t top_k;             // 0: off
    float presence, frequency; // -2..2, over generated tokens (OpenAI)
    float repetition;          // > 0; 1: off; over prompt and generated tokens (Keskar et al. 2019)
    uint64_t seed; // RNG is a pure function of (seed, choice, position of the drawn token)
    uint32_t choice;
    int32_t n_logprobs; // -1: none; 0..20: the drawn token's and the n most likely
    bool digest;        // report a 64-bit digest of the raw logits' bits
    const struct logit_bias *bias;
    uint32_t n_bias;
};

// Penalties are in use: the last stage needs to know which tokens a sequence holds.
static inline bool sampling_is_penalised(const struct sampling *s)
{
    return s->presence != 0 || s->frequency != 0 || s->repetition != 1;
}

struct step_bind {
    uint32_t slot;
    struct sampling sampling;
    // Token history before this sequence's first row in this epoch, only when penalties need it:
    // tokens of a cached prefix never pass through the step. n_prompt of them are prompt.
    const int32_t *history;
    uint32_t n_history;
    uint32_t n_prompt; // prompt tokens of the whole sequence: positions below are not "generated"
};

enum {
    ROW_SAMPLE = 1, // after the last token of the row, draw the next id
    ROW_SCORE = 2,  // report log p(token[i+1]) for each token of the row but the last (prompt
                    // logprobs, perplexity); the last one is scored against `next_id` if >= 0
    ROW_CHAIN = 4,  // the row's single token is the id this slot drew last (ids is NULL): step
                    // n+1 is on its way before step n returned
};

struct step_row {
    uint32_t slot;
    uint32_t flags;
    uint32_t pos;       // position of the first token
    uint32_t n_tok;     // >= 1
    const int32_t *ids; // (n_tok), NULL for ROW_CHAIN
    int32_t next_id;    // for ROW_SCORE; -1: none
    uint64_t from_step; // ROW_CHAIN: the step that drew the id
    uint32_t page_from; // page table entries [page_from, page_from + n_page) are set by this row
    uint32_t n_page;
    const uint32_t *pages;
};

struct step {
    uint64_t epoch;                // plan epoch
    uint64_t number;               // 1, 2, ... within the epoch
    const struct step_bind *binds; // done before the rows
    uint32_t n_bind;
    const struct step_row *rows; // at most one row per slot
    uint32_t n_row;
};

struct token_prob {
    int32_t id;
    float logprob; // natural log, of softmax(raw logits)
};

// What one row with ROW_SAMPLE or ROW_SCORE gave.
struct step_item {
    uint32_t row; // index in the step
    uint32_t slot;
    int32_t id;                   // drawn id, -1 if the row did not sample
    float logprob;                // of id; only if n_logprobs >= 0
    bool nonfinite;               // logits held NaN or infinity: the drawn id is meaningless
    uint64_t digest;              // 0 unless asked
    const struct token_prob *top; // (n_top), most likely first
    uint32_t n_top;
    const float *scores; // (n_score) log p of the row's next tokens, ROW_SCORE
    uint32_t n_score;
};

struct step_result {
    uint64_t epoch, number;
    uint32_t compute_us; // time the last stage spent computing
    const struct step_item *items;
    uint32_t n_item;
};
