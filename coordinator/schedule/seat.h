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
// Lists what is full and committed. Call it when n_done has moved.
void seat_list(struct sched *s, struct choice *c);
// Its bytes may be bad: nobody shall find them.
void seat_unlist(struct sched *s, struct choice *c);
// Extends the page table to n_page entries, preempting newer choices that have no row in step
// `making`. False: not all of them could be had (some may have been).
bool seat_grow(struct sched *s, struct choice *c, uint32_t n_page, uint64_t making);
// A new or preempted choice waits in its place.
void seat_enqueue(struct sched *s, struct choice *c);

// Of binds, in one step: ids of history, page numbers, twice the biases. A message has a limit
// (WIRE_MESSAGE_MAX), and each of these takes at most 8 bytes of it.
enum { SEAT_BIND_WEIGHT_MAX = 1 << 16 };
