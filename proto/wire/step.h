// step: one immutable batch of work, and what comes back. The scheduler makes it, wire packs it
// once, the same bytes go to every stage of a lane, and each stage runs it in step order.
//
// Sequences live in slots: a bind gives a slot a new sequence, rows extend it. A stage keeps per
// slot only what a step cannot carry cheaply: the page tables (extended by each row), the recurrent
// state, and on the last stage the sampling settings and the counts for penalties.
//
// Layers that see a window or chunk only may have pages of their own (plan_settings.n_page_local):
// a second table, whose entries fall out of sight as the sequence grows and are then somebody
// else's. Recurrent state can be copied to one of n_snapshot places, numbered from 1, and a
// sequence can start from there.
#pragma once
#include "proto/base/err.h"
#include "proto/base/idset.h"
#include <stdbool.h>

enum {
    STEP_ROWS_MAX = 256,
    STEP_TOKENS_MAX = 8192, // rows' tokens together
    STEP_SLOTS_MAX = 1024,
    STEP_PAGES_MAX = 1 << 20, // highest page number + 1
    STEP_SNAPSHOTS_MAX = 1 << 14,
    STEP_BIAS_MAX = 1024,
    STEP_LOGPROBS_MAX = 20,
    STEP_MASKS_MAX = 384 << 10,   // bytes of the masks of all rows; one has IDSET_BYTES_MAX at most
    STEP_VECTORS_MAX = 128 << 10, // numbers of the vectors of all rows (ROW_POOL)
};

// Which hidden states of a sequence, after the final norm, make one vector. The sum of a mean runs
// over the tokens in their order, in double, so that it is the same however they were cut into
// rows. POOLING_MEAN and POOLING_FIRST need every token to pass: nothing of a prefix is reused.
enum pooling {
    POOLING_NONE,
    POOLING_LAST,
    POOLING_MEAN,
    POOLING_FIRST, // of an encoder's [CLS]
    POOLINGS
};

struct logit_bias {
    int32_t id;
    float bias;
};

// How the last stage turns logits into an id. Order: bias, penalties, the row's mask, temperature,
// top-k, top-p, min-p, draw. temperature 0 is greedy: lowest id of the largest logit, after bias
// and penalties.
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
    uint32_t snapshot; // the recurrent state starts as this snapshot; 0: as zeros
    enum pooling pooling; // what a row with ROW_POOL will ask for
};

enum {
    ROW_SAMPLE = 1, // after the last token of the row, draw the next id
    ROW_SCORE = 2,  // report log p(token[i+1]) for each token of the row but the last (prompt
                    // logprobs, perplexity); the last one is scored against `next_id` if >= 0
    ROW_CHAIN = 4,  // the row's single token is the id this slot drew last (ids is NULL): step
                    // n+1 is on its way before step n returned
    ROW_POOL = 8,   // the sequence ends with this row: report its vector (step_bind.pooling).
                    // Alone: nothing is drawn or scored, and there are no logits
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
    // The same of the table of local pages. A sequence's first row begins it where its first token
    // begins to see; entries before that are never set and never read.
    uint32_t local_from;
    uint32_t n_local;
    const uint32_t *locals;
    uint32_t snapshot; // after its last token the recurrent state is copied there; 0: it is not
    // Of ROW_SAMPLE without ROW_CHAIN (what may come depends on what came): the ids that may be
    // drawn, as an idset; NULL: any. Log probabilities and scores know nothing of it.
    const uint8_t *mask;
    uint32_t n_mask; // bytes
};

// First position that a token at `pos` sees in a local layer with this window and chunk (0: none;
// kernels.h, struct attn_args).
static inline uint32_t step_sees_from(uint32_t pos, uint32_t window, uint32_t chunk)
{
    uint32_t from = window && pos >= window ? pos - window + 1 : 0;
    uint32_t first = chunk ? pos - pos % chunk : 0;
    return from > first ? from : first;
}

// Local pages that n_seq sequences need at most at once, in steps of at most max_tok tokens.
static inline uint64_t step_local_pages(uint32_t n_seq, uint32_t window, uint32_t chunk,
                                        uint32_t page_tok, uint32_t max_tok)
{
    uint64_t sees = window && (!chunk || window < chunk) ? window : chunk;
    return n_seq * ((sees + page_tok - 1) / page_tok + 2) + max_tok / page_tok;
}

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
    const float *vector; // (n_vector) of ROW_POOL, not normalised; n_vector is the model's dim
    uint32_t n_vector;
};

struct step_result {
    uint64_t epoch, number;
    uint32_t compute_us; // time the last stage spent computing
    const struct step_item *items;
    uint32_t n_item;
};
