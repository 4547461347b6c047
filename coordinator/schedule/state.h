// state: the scheduler's inside, shared by its files (sched, batch, seat, commit, events) only.
//
// Invariants (sched_check):
//   S1  a live choice is in exactly one list: queue (QUEUED, no slot), prefill or decode (a slot);
//       the queue is in order of priority and arrival
//   S2  prefill: n_sent < known tokens; decode: known - 1 <= n_sent <= known + 1, all but the last
//       known token sent, at most one row beyond the known history (ROW_CHAIN)
//   S3  n_done <= n_sent; with nothing of it on its way they are equal
//   S4  the pages held are those in the running choices' tables, counted with sharing; the
//       snapshots held are those of the seats and of rows on their way
//   S5  steps on their way are numbered number - n_sent + 1 .. number
//   S6  the local pages held reach from what the next row to be committed sees, or from what the
//       last row sent sees, up to the last position sent
//
// A row on its way names its choice by slot and ticket, never by pointer: a request can be given
// back to its owner while rows of it are on their way; they are dropped when they return.
#pragma once
#include "coordinator/schedule/pages.h"
#include "coordinator/schedule/sched.h"

// A slot and who sits in it.
struct seat {
    struct choice *choice; // NULL: free
    uint64_t ticket;       // number of the admission
    bool bound;            // the stages know of it: a row was sent
    uint32_t n_told;       // page table entries the stages know
    uint32_t n_listed;     // pages of the table that the prefix cache knows
    uint32_t tip;          // the last of them, or its equal: the one that is found
    struct pages_key key;  // where its chain stands after n_listed pages
    uint32_t *locals;      // local page table; entries [local_from, n_local) are held
    uint32_t local_from, n_local, n_local_told;
    uint32_t row_pos;   // position of the last row sent
    uint32_t start;     // snapshot to start from, held until it is bound; POOL_NONE
    uint32_t trail;     // newest snapshot saved by this seat, held; POOL_NONE
    bool trail_is_mark; // it stays worth keeping when there is a newer one
    uint32_t saved;     // tokens before the newest snapshot, also if on its way
    uint32_t branch;    // tokens that listed pages know beyond what could be taken over; or 0
};

struct sent_row {
    uint64_t ticket;
    uint32_t slot, flags, pos, n_tok, n_score;
    uint32_t snapshot; // its state is saved there, numbered from 1; held until it is back; 0: none
    bool is_mark;      // where others will begin
    int32_t n_logprobs;
};
struct sent_step {
    int64_t sent_us;
    struct sent_row *rows;
    uint32_t n_row;
};

struct pick {
    struct choice *choice;
    uint32_t n_tok;
};

// The step in the making; what sched_next hands out points here.
struct batch {
    struct step_row *rows; // (max_rows)
    struct step_bind *binds;
    struct sent_row *sent; // into the ring
    int32_t *ids;          // (max_tok)
    struct pick *picks;    // (n_slot)
    uint32_t n_row, n_bind, n_tok;
    uint32_t bind_weight;
    uint32_t n_mask;   // bytes
    uint32_t n_vector; // numbers
};

struct sched {
    struct sched_config cfg;
    bool on; // configured and not suspended

    // Of the present configuration, in mem.
    struct arena mem;
    struct pages pages;
    struct seat *seats; // (n_slot)
    uint32_t *free_slots;
    uint32_t n_free_slot;
    uint32_t *tables;       // (n_slot, table_cap)
    uint32_t *local_tables; // (n_slot, table_cap)
    uint32_t table_cap;
    int32_t *page_ids; // (page_tok) scratch
    struct batch batch;
    struct sent_step *ring; // (in_flight), a step at number % in_flight
    uint32_t n_sent;        // steps on their way
    uint64_t number;        // last step

    struct list requests; // all that live, in order of arrival
    struct list queue, prefill, decode;
    uint32_t n_waiting, n_running;
    uint64_t last_ticket;
    uint64_t own_order, *last_order; // the counter of arrivals: our own, or shared
    // The head of the queue that did not fit, and the room there was: asked again when there is
    // more.
    uint64_t blocked_order;
    int64_t blocked_room;

    struct sched_event *events;
    uint32_t n_event, cap_event;
    bool events_given;        // the caller has had them: the next one starts anew
    struct sched_stats stats; // counters only
};

static inline struct choice *state_choice(struct list *node)
{
    return list_item(node, struct choice, node);
}
// Who goes first where not all can: by priority, then by arrival.
static inline bool state_is_before(const struct choice *a, const struct choice *b)
{
    const int32_t pa = a->req->priority, pb = b->req->priority;
    return pa != pb ? pa < pb : a->order < b->order;
}
static inline bool state_has_local(const struct sched *s)
{
    return s->cfg.n_page_local;
}
// Snapshots are of use.
static inline bool state_saves(const struct sched *s)
{
    return s->cfg.recurrent && s->cfg.prefix_cache && s->cfg.n_snapshot;
}
// First local page that a token at pos needs.
static inline uint32_t state_local_from(const struct sched *s, uint32_t pos)
{
    return step_sees_from(pos, s->cfg.window, s->cfg.chunk) / s->cfg.page_tok;
}
static inline uint32_t state_pages_for(const struct sched *s, uint32_t n_tok)
{
    return n_tok / s->cfg.page_tok + (n_tok % s->cfg.page_tok != 0);
}
// Every token of the choice passes through the steps.
static inline bool state_needs_all(const struct choice *c)
{
    return c->req->pooling == POOLING_MEAN || c->req->pooling == POOLING_FIRST;
}
// The choice reports log p of prompt positions that have not been reported yet.
static inline bool state_scores(const struct choice *c)
{
    return c->req->score_prompt && c->index == 0 && c->n_scored + 1 < c->req->n_prompt;
}
