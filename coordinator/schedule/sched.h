// sched: which rows go into the next step. A pure decision: state and time in, step out; no I/O, no
// clock, no threads. The same code runs in the simulator.
//
//   every running sequence gets a decode row first; what is left of the token budget goes to
//   prefill chunks, shared fairly among the prefilling; so a long prompt never stalls a stream for
//   longer than one step, and a short prompt never waits for a long one to finish.
//
// With S stages, up to in_flight steps are on their way at once. A sequence's decode row may be sent
// before its last id is known here (ROW_CHAIN: the first stage gets the id straight from the last),
// and the running sequences are spread over S consecutive steps (micro-batches), so that every stage
// has work. Results come back in step order.
#pragma once
#include "coordinator/schedule/request.h"

struct sched;

struct sched_config {
    uint64_t epoch;
    uint32_t n_stage;
    uint32_t in_flight;
    uint32_t n_slot, n_page, page_tok;
    uint32_t max_tok, max_rows; // of one step
    uint32_t ctx;
    uint32_t queue_max;   // choices waiting; over it sched_submit says ERR_BUSY
    bool prefix_cache;
    bool chain;           // allow ROW_CHAIN
};

// What a commit (or finish, cancel, fail) made happen, in order. Valid until the next sched call.
enum sched_event_kind { EVENT_TOKEN, EVENT_FINISH, EVENT_SCORES };
struct sched_event {
    enum sched_event_kind kind;
    struct choice *choice;
    const struct step_item *item; // EVENT_TOKEN: id, logprobs, digest
    // EVENT_SCORES: log p of prompt tokens [from, from + n); position 0 has none
    const float *scores;
    uint32_t from, n_score;
    bool request_done; // EVENT_FINISH: it was the last choice; the request is the caller's again
};

struct sched_stats {
    uint32_t n_running, n_waiting, n_slot, n_page, n_page_used, n_page_cached, in_flight;
    uint64_t prefix_queries, prefix_hits; // tokens
    uint64_t preemptions, prompt_tokens, generated_tokens, steps, step_tokens;
};

struct sched *sched_new(uint32_t queue_max);
// Live requests are not freed: their owners must have taken them back.
void sched_free(struct sched *s);

// A new placement took over: every unfinished choice goes back to QUEUED with its history, in its
// old order and before newer requests; nothing of the old epoch's steps is waited for; pages start
// empty. ERR_MEMORY.
err_t sched_configure(struct sched *s, const struct sched_config *c);
// No placement: sched_next gives nothing until the next sched_configure. Requests stay.
void sched_suspend(struct sched *s);

// The request stays the caller's memory but must not be changed or freed until its last
// EVENT_FINISH. ERR_BUSY: queue full. ERR_TOO_LARGE: can never fit the KV pages.
err_t sched_submit(struct sched *s, struct request *r, int64_t now_us, struct err_text *why);
// Ends one choice now (stop string found, caller gone). Its rows already on their way are ignored
// when they return. Emits EVENT_FINISH through the events list.
void sched_finish(struct sched *s, struct choice *c, enum finish reason, int64_t now_us);
void sched_cancel(struct sched *s, struct request *r, int64_t now_us);

// Fills the next step; its pointers are valid until the next sched_next. False: nothing to send now.
bool sched_next(struct sched *s, int64_t now_us, struct step *out);
// A step's result. Wrong epoch: ignored, OK. Out of order, unknown step, rows that do not match,
// ids outside [0, n_vocab): ERR_LINK_PROTOCOL with a sentence, and nothing was changed (the caller
// drops that worker).
err_t sched_commit(struct sched *s, const struct step_result *r, int32_t n_vocab, int64_t now_us,
                   struct err_text *why);
// Events since the last call; borrowed until the next sched call. Every call that can emit must be
// followed by draining this.
const struct sched_event *sched_events(struct sched *s, uint32_t *n);

struct sched_stats sched_stats_get(const struct sched *s);
// Oldest step still on its way: its number and the time it was sent; 0 if none. For step deadlines.
uint64_t sched_oldest_step(const struct sched *s, int64_t *sent_us);
// Requests in order of arrival, for status: iterate while non-NULL.
const struct request *sched_request_next(const struct sched *s, const struct request *after);
