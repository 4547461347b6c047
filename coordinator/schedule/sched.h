// sched: which rows go into the next step. A pure decision: state and time in, step out; no I/O, no
// clock, no threads. The same code runs in the simulator.
//
//   every running sequence gets a decode row first; what is left of the token budget goes to
//   prefill chunks, shared fairly among the prefilling; so a long prompt never stalls a stream for
//   longer than one step, and a short prompt never waits for a long one to finish.
//
// With S stages, up to in_flight steps are on their way at once. A sequence's decode row may be
// sent before its last id is known here (ROW_CHAIN: the first stage gets the id straight from the
// last), and the running sequences are spread over S consecutive steps (micro-batches), so that
// every stage has work. Results come back in step order.
//
// Admission is by priority (request.priority); of one priority it is fair among callers
// (conversations, or keys where none is named): whoever has least running is next, and of those who
// came first. There is no overtaking by size: whoever is passed over by smaller ones could wait for
// ever. (Choices 1.. of a request step aside until choice 0 has computed the prompt,
// and then find it in the prefix cache.) A choice is admitted when the pages for its history and
// one more for each running choice are there. When pages run out all the same, the last choice
// by priority and arrival is preempted: it gives back its pages, waits in its old place and is
// computed again from its history. The first is never preempted, so it always finishes, and then
// the next.
//
// Pages of local layers (window, chunk) that fell out of sight are given back when the row that was
// the last to see them is committed, or as soon as its step is sent if others need them. A choice
// is admitted only when the local pool can hold what all the running may see at once.
//
// A prefix is taken over up to the longest length at which its pages, its local pages in sight and,
// for models with recurrent state, a snapshot are all there. Snapshots are saved where a sequence
// is likely to be taken up again: at the last full page of the prompt (prefill rows are cut to end
// there), where the listed pages show that others went on differently, at each page's end while
// decoding (the newest replaces the one before), and now and then in long prompts as long as that
// pushes out nothing better.
//
// A choice with rules (request_rules) gets its mask when its history has grown, and its rows travel
// with it; they are chained only where the rules say that any id may come then, and of masks there
// are at most STEP_MASKS_MAX bytes in a step: the others' turn comes with the next. Rules that
// allow nothing more end the choice with FINISH_STOP.
//
// A request with pooling ends, with FINISH_STOP, when the vector of its prompt is there; vectors of
// a step are at most STEP_VECTORS_MAX numbers together.
//
// An end id ends a choice with FINISH_STOP: it gives no EVENT_TOKEN, but counts in n_generated.
// Logits that hold NaN or infinity end the whole request with FINISH_ERROR, and its pages are no
// longer found by others.
#pragma once
#include "coordinator/schedule/request.h"

struct sched;

struct sched_config {
    uint64_t epoch;
    uint32_t n_stage; // steps that keep the lane busy: its stages, and what is on long roads
    uint32_t in_flight;
    uint32_t n_slot, n_page, page_tok;
    uint32_t n_page_local;  // 0: local layers use the other pages, or there are none
    uint32_t window, chunk; // of local layers, 0: none (step_sees_from)
    uint32_t n_snapshot;
    bool recurrent;             // the model has recurrent state
    uint32_t max_tok, max_rows; // of one step
    // Prompts are cut for several stages, so that none waits for the first one to be through with
    // all of it, into steps of no fewer tokens than this. 0: not cut.
    uint32_t piece_tok;
    uint32_t ctx;
    uint32_t dim;       // numbers of a vector (request.pooling)
    uint32_t queue_max; // choices waiting; over it sched_submit says ERR_BUSY
    bool prefix_cache;
    bool chain; // allow ROW_CHAIN
};

// What a commit (or finish, cancel, configure) made happen, in order. Valid until the next sched
// call; item and scores point into the committed result.
enum sched_event_kind { EVENT_TOKEN, EVENT_FINISH, EVENT_SCORES, EVENT_VECTOR };
struct sched_event {
    enum sched_event_kind kind;
    struct choice *choice;
    const struct step_item *item; // EVENT_TOKEN: id, logprobs, digest; EVENT_VECTOR: the vector
    // EVENT_SCORES: log p of prompt tokens [from, from + n_score); position 0 has none. Of choice 0
    // only (the prompt is the same); each position once, whatever was computed again.
    const float *scores;
    uint32_t from, n_score;
    bool request_done; // EVENT_FINISH: it was the last choice; the request is the caller's again
};

struct sched_stats {
    uint32_t n_running, n_waiting, n_slot, n_page, n_page_used, n_page_cached, in_flight;
    uint32_t n_page_local, n_page_local_used, n_page_local_cached, n_snapshot, n_snapshot_cached;
    uint64_t prefix_queries, prefix_hits; // tokens
    uint64_t preemptions, prompt_tokens, generated_tokens, steps, step_tokens;
};

// NULL: no memory. queue_max counts until sched_configure says otherwise.
struct sched *sched_new(uint32_t queue_max);
// Live requests are not freed: their owners must have taken them back.
void sched_free(struct sched *s);

// A new placement took over: every unfinished choice goes back to QUEUED with its history, in its
// old order and before newer requests; nothing of the old epoch's steps is waited for; pages start
// empty. A request that can never fit the new pages ends with FINISH_ERROR (an event).
// ERR_MEMORY, ERR_INVALID (zeros, over the limits of step.h, max_rows or max_tok below 2, fewer
// local pages than one sequence needs): it stays suspended.
err_t sched_configure(struct sched *s, const struct sched_config *c);
// Local pages that n_running sequences need at most, whatever the steps.
static inline uint64_t sched_local_pages(const struct sched_config *c, uint32_t n_running)
{
    return step_local_pages(n_running, c->window, c->chunk, c->page_tok, c->max_tok);
}
// No placement: sched_next gives nothing and results are ignored until the next sched_configure.
// Unfinished choices are QUEUED. Requests stay and may be submitted, finished and cancelled.
void sched_suspend(struct sched *s);

// The request stays the caller's memory but must not be changed or freed until its last
// EVENT_FINISH. ERR_BUSY: queue full. ERR_TOO_LARGE: can never fit the context or the KV pages, or
// its vector a step.
// ERR_MEMORY. What its rules say of the first token, if not OK.
err_t sched_submit(struct sched *s, struct request *r, int64_t now_us, struct err_text *why);
// Schedulers side by side (one for each lane) count arrivals together, so that a request keeps its
// place when it changes over. Before anything is submitted; the counter must live as long.
void sched_count_with(struct sched *s, uint64_t *last_order);
// Takes the request out, whatever it is doing: its unfinished choices are QUEUED with their
// history, for another scheduler's sched_adopt. No events; of those not yet drained none may be of
// it.
void sched_release(struct sched *s, struct request *r);
// Takes in a request that another scheduler released, in its old order and however long the queue
// is. ERR_TOO_LARGE: can never fit here; ERR_MEMORY. Then it is nobody's still.
err_t sched_adopt(struct sched *s, struct request *r, struct err_text *why);
// Tokens of the request's prompt that the prefix cache holds now.
uint32_t sched_known(const struct sched *s, const struct request *r);
// Pages that the request's prompt and first token take.
uint32_t sched_pages(const struct sched *s, const struct request *r);
// Ends one choice now (stop string found, caller gone). Its rows already on their way are ignored
// when they return. Emits EVENT_FINISH through the events list.
void sched_finish(struct sched *s, struct choice *c, enum finish reason, int64_t now_us);
void sched_cancel(struct sched *s, struct request *r, int64_t now_us);

// Fills the next step; its pointers are valid until the next sched call (some point into requests).
// Call it until it says false: nothing to send now, ask again after the next commit or submit.
bool sched_next(struct sched *s, int64_t now_us, struct step *out);
// A step's result. Wrong epoch: ignored, OK. Out of order, unknown step, rows that do not match,
// ids outside [0, n_vocab): ERR_LINK_PROTOCOL with a sentence, and nothing was changed (the caller
// drops that worker). There must be one item for each row that samples or scores, in row order.
// ERR_MEMORY: nothing was changed.
err_t sched_commit(struct sched *s, const struct step_result *r, int32_t n_vocab, int64_t now_us,
                   struct err_text *why);
// Events since the last call; borrowed until the next sched call. Every call that can emit must be
// followed by draining this. Who calls sched_finish or sched_cancel while going through a batch
// must copy the batch before, and may free a request only when all events before its last are done
// with.
const struct sched_event *sched_events(struct sched *s, uint32_t *n);

struct sched_stats sched_stats_get(const struct sched *s);
// Oldest step still on its way: its number and the time it was sent; 0 if none. For step deadlines.
uint64_t sched_oldest_step(const struct sched *s, int64_t *sent_us);
// Requests in order of arrival, for status: iterate while non-NULL.
const struct request *sched_request_next(const struct sched *s, const struct request *after);
// NULL, or which invariant is broken. For tests: linear in everything.
const char *sched_check(const struct sched *s);
