// seat: a choice takes a slot, and pages with it; what the prefix cache knows of it.
#pragma once
#include "coordinator/schedule/state.h"

// Puts a queued choice into a slot (there must be a free one) with what the prefix cache has of its
// history. It stays in its list.
void seat_take(struct sched *s, struct choice *c);
// Gives slot and pages back; nothing of it counts as sent.
void seat_give(struct sched *s, struct choice *c);
// Takes over pages of the prefix cache, as long as no row was sent.
void seat_match(struct sched *s, struct choice *c);
// Tokens of a new request's prompt that could be taken over now.
uint32_t seat_known(const struct sched *s, const struct request *r);
// Lists what is full and committed. Call it when n_done has moved.
void seat_list(struct sched *s, struct choice *c);
// A row whose state was saved is done (of a seat that still holds the choice): the snapshot is the
// page's that ends there. After seat_list.
void seat_keep(struct sched *s, struct choice *c, const struct sent_row *row);
// Gives back the local pages that a token at pos no longer sees.
void seat_forget(struct sched *s, struct choice *c, uint32_t pos);
// Its bytes may be bad: nobody shall find them.
void seat_unlist(struct sched *s, struct choice *c);
// Extends the page tables to n_page entries, preempting newer choices that have no row in step
// `making`. False: not all of them could be had (some may have been).
bool seat_grow(struct sched *s, struct choice *c, uint32_t n_page, uint64_t making);
// A new or preempted choice waits in its place.
void seat_enqueue(struct sched *s, struct choice *c);

// What the bind says of it: its snapshot to start from (numbered from 1; 0: none), which is given
// back: steps run in order.
uint32_t seat_start(struct sched *s, struct choice *c);
// Tokens of a prefill row of at most n_tok, cut to end where a snapshot is wanted.
uint32_t seat_cut(const struct sched *s, const struct choice *c, uint32_t n_tok);
// Others are likely to begin after position end - 1, which is not yet sent.
bool seat_is_mark(const struct sched *s, const struct choice *c, uint32_t end);
// The snapshot (numbered from 1) into which the state is to be saved after position end - 1, the
// last of the row in the making; 0: none.
uint32_t seat_save(struct sched *s, struct choice *c, uint32_t end);

// Of binds, in one step: ids of history, page numbers, twice the biases. A message has a limit
// (WIRE_MESSAGE_MAX), and each of these takes at most 8 bytes of it.
enum { SEAT_BIND_WEIGHT_MAX = 1 << 16 };
