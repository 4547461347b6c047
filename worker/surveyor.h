// surveyor: the worker's side of a survey of links: a data port that lasts one round and belongs to
// no plan, over which others measure us and we measure others. On a thread of its own, so that
// heartbeats go on while it waits for a far peer.
//
//   SURVEY without targets   opens the port of this round (and closes that of another one):
//   SURVEYED
//                            with its address
//   SURVEY with targets      connects to each and measures, in order: SURVEYED with the paths
//   SURVEY with road 0       closes it; so does surveyor_shut, and silence of SURVEYOR_IDLE_MS
//
// The control thread hands in messages and takes letters, as with compute.h.
#pragma once
#include "worker/compute.h"

enum { SURVEYOR_IDLE_MS = 20000 };

struct surveyor;

struct surveyor_config {
    const char *transports, *devices; // of the port, as for plans; outlive the surveyor
};

err_t surveyor_open(const struct surveyor_config *c, struct surveyor **out, struct err_text *why);
// Waits for the measurement of one link if one runs: about two seconds at most.
void surveyor_close(struct surveyor *s);
// Takes a parcel with a SURVEY. Returns at once.
void surveyor_hand(struct surveyor *s, struct compute_parcel *p);
// The round is over for us: a plan begins, or the coordinator is gone. Returns at once.
void surveyor_shut(struct surveyor *s);
int surveyor_fd(const struct surveyor *s); // readable: there may be letters
// A packed SURVEYED for the coordinator, or NULL; freed with compute_letter_free.
struct compute_letter *surveyor_letter(struct surveyor *s);
