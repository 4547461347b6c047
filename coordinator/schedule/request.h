// request: what a caller asked for, once it is ids: the unit the scheduler works on. A request owns
// an arena; all that is parsed or made for it lives there and dies with it. A request has n choices
// with the same prompt.
//
// States of a choice, and who moves it:
//
//   QUEUED --admit--> PREFILL --prompt computed--> DECODE --end id, length, finish--> DONE
//      ^                 |                            |
//      +----- preempt, new epoch (history is kept) ---+          any --cancel, fail--> DONE
//
// A choice's token history (prompt, then generated) is complete at all times: every KV page can be
// rebuilt from it, so losing a worker costs a recompute and nothing else.
#pragma once
#include "proto/base/arena.h"
#include "proto/base/list.h"
#include "proto/wire/step.h"

enum choice_state { CHOICE_QUEUED, CHOICE_PREFILL, CHOICE_DECODE, CHOICE_DONE };
enum finish {
    FINISH_NONE,
    FINISH_STOP,      // end id or stop string
    FINISH_LENGTH,    // max_tokens or the context is full
    FINISH_CANCELLED, // the caller left
    FINISH_ERROR,     // see request.error, request.why
};

struct request;
struct choice;

// What the choices of a request may draw, decided outside of schedule/ by their histories alone.
struct request_rules {
    // The choice is new, or its history has grown by a token that its mask let through: sets its
    // mask and may_chain, which stay so until the next call for this choice. ERR_END: nothing may
    // follow, the choice is done. Others: it cannot go on, with the sentence.
    err_t (*next)(struct choice *c, struct err_text *why);
    // The request is about to be freed.
    void (*free)(struct request *r);
};

struct choice {
    struct request *req;
    uint32_t index;
    enum choice_state state;
    enum finish finish;
    int32_t *generated; // (max_tokens), an end id that stopped it included
    uint32_t n_generated;
    const uint8_t *mask; // of the next id (struct step_row), by request.rules; NULL: any
    uint32_t n_mask;
    bool may_chain; // by them: whatever comes next, any id may come after it
    void *ruled;    // the rules' own

    // -- the scheduler's own --
    struct list node;  // in the queue, or among the prefilling or decoding
    uint64_t order;    // order of arrival: of the queue; the last is preempted first
    int32_t slot;      // -1: none
    uint32_t n_sent;   // positions whose computation has been sent
    uint32_t n_done;   // positions whose computation was committed
    uint32_t n_cached; // positions taken from the prefix cache at the last admission
    uint32_t n_scored; // prompt positions whose log p was reported: 1..n_scored
    uint32_t *pages;   // page table, the slot's
    uint32_t n_page;
    uint64_t last_step; // newest step that holds a row of it: fairness, and ROW_CHAIN's from_step
};

struct request {
    struct arena arena;
    char id[48];              // "chatcmpl-..."
    struct sampling sampling; // choice is set per choice
    const int32_t *prompt;
    uint32_t n_prompt;   // >= 1
    uint32_t max_tokens; // >= 1, prompt + max_tokens <= ctx: checked when the request is made
    const int32_t *end_ids;
    uint32_t n_end;    // 0: end tokens do not stop it
    bool score_prompt; // report log p of each prompt token (no prefix reuse then)
    // Its answer is the prompt's vector instead of tokens: one choice, max_tokens is 0, no rules,
    // no scores. Unless it is of the last token, nothing of the prefix is reused.
    enum pooling pooling;
    int32_t priority; // lower is earlier; 0 is usual
    uint64_t tenant;  // prefix pages are shared within a tenant only
    uint64_t session; // requests of one conversation share it, and like to share a lane; 0: none
    struct choice *choices;
    uint32_t n_choice;

    const struct request_rules *rules; // NULL: any text
    void *ruled;                       // the rules' own

    void *owner;  // the front door's
    void *engine; // the engine's own, while it has the request

    err_t error; // of FINISH_ERROR: ERR_DEVICE, ERR_TOO_LARGE, or what the rules said
    struct err_text why;

    // Filled by the scheduler, for usage and metrics. Microseconds of the loop's clock, 0: not yet.
    int64_t arrived_us, admitted_us, first_token_us, finished_us;
    uint32_t n_cached;    // prompt tokens that were not computed again, at the first admission
    uint32_t n_prefilled; // prompt tokens computed or cached so far, for progress
    uint32_t n_live;      // choices not DONE
    struct list node;     // all requests of the scheduler
};

// A request whose arena is bounded by max_bytes, living in its own arena; sampling is set to plain
// sampling at temperature 1. NULL: no memory.
struct request *request_new(size_t max_bytes);
// After the scheduler gave it back (all choices DONE) or before it was submitted.
void request_free(struct request *r);
// Takes the choices and their token buffers out of the arena once prompt, max_tokens, n are known.
// ERR_MEMORY: over the arena's budget. ERR_INVALID: one of them is 0 (max_tokens is, exactly when
// there is pooling) or absurd.
err_t request_init_choices(struct request *r, uint32_t n_choice);
// Token at position i of a choice's history.
static inline int32_t choice_id_at(const struct choice *c, uint32_t i)
{
    return i < c->req->n_prompt ? c->req->prompt[i] : c->generated[i - c->req->n_prompt];
}
static inline uint32_t choice_n_id(const struct choice *c)
{
    return c->req->n_prompt + c->n_generated;
}
