// machine: runs a grammar (nfa.h) byte by byte. A state is the set of all places where the grammar
// can stand after the bytes so far; a place is a node and a stack of what is to be returned to
// (calls) and counted (repetitions). Stacks are shared and equal ones are one, so a state is a
// sorted list of pairs of numbers; states and the steps between them are made when they are needed
// and kept, so a text seen before costs a table look-up per byte.
//
// Everything is bounded: places of a state, work of one call (machine_begin), memory. What goes
// over fails the machine (`err`) until the next machine_begin: callers check it at the end.
// Not thread-safe.
#pragma once
#include "coordinator/text/nfa.h"

enum {
    MACHINE_PLACES_MAX = 2048,     // of one state
    MACHINE_HEIGHT_MAX = 1024,     // of a stack
    MACHINE_WORK_MAX = 1 << 18,    // places looked at in one call, about
    MACHINE_BYTES_SOFT = 6 << 20,  // above it machine_renew is due
    MACHINE_BYTES_HARD = 24 << 20, // above it a call fails
    MACHINE_DEAD = 0,              // the state without places that does not accept
};

struct machine_stack {
    uint32_t node;   // CALL: where to return; COUNT: what is counted
    uint32_t count;  // COUNT: times it was done before
    uint32_t parent; // 0: none
    uint32_t height; // entries in it
    uint32_t depth;  // calls among them
    uint32_t alike;  // machine_alike's memory; 0: not asked yet
};
struct machine_state {
    uint32_t at, n; // places
    uint32_t alike; // 0: not asked yet
    bool accepts;   // the text may end here
    bool plain;     // any run of plain characters may come: of any length
    bool has_token; // control tokens may come
    void *mask;     // the owner's, of states that machine_alike returns
};

struct machine {
    const struct nfa *nfa;
    struct machine_stack *stacks; // from 1
    struct machine_state *states; // from 0, the dead one
    uint64_t *places;             // node << 32 | stack, of all states
    uint32_t *steps;              // (n_state, n_class) state; MACHINE_UNKNOWN
    uint32_t n_stack, cap_stack, n_state, cap_state, n_place, cap_place;
    uint32_t *stack_slots, *state_slots; // hashes; index, 0: free
    uint32_t n_stack_slot, n_state_slot; // powers of two
    uint32_t longest; // counts that differ by less are told apart: bytes of the longest token
    uint32_t start;

    // Work of the present call.
    uint64_t *found, *todo; // places with something to take; nodes to look at
    uint32_t n_found, n_todo;
    uint64_t *seen_at; // hash of nodes looked at
    uint32_t *seen_in; // in which round
    uint32_t round, n_seen;
    bool accepts;
    uint32_t work;
    err_t err;
};
static const uint32_t MACHINE_UNKNOWN = UINT32_MAX;

// ERR_MEMORY.
err_t machine_init(struct machine *m, const struct nfa *nfa, uint32_t longest);
// The owner has freed the masks.
void machine_fini(struct machine *m);
size_t machine_bytes(const struct machine *m);
// Allows the next calls MACHINE_WORK_MAX.
void machine_begin(struct machine *m);

// The state before any byte; of a grammar that was closed it is not dead.
uint32_t machine_start(struct machine *m);
// A step that is not in the table yet; use machine_step.
uint32_t machine_make_step(struct machine *m, uint32_t state, uint8_t byte);
static inline uint32_t machine_step(struct machine *m, uint32_t state, uint8_t byte)
{
    const uint32_t to = m->steps[(size_t)state * m->nfa->n_class + m->nfa->class_of[byte]];
    return to != MACHINE_UNKNOWN ? to : machine_make_step(m, state, byte);
}
// After control token `id`.
uint32_t machine_step_token(struct machine *m, uint32_t state, int32_t id);
// The state that stands for all from which the same tokens (of at most `longest` bytes) can come:
// counts far from their bounds are alike.
uint32_t machine_alike(struct machine *m, uint32_t state);
// Calls fn for each control token that may come: an id, or any but that id (-1: any).
void machine_tokens(const struct machine *m, uint32_t state,
                    void (*fn)(void *arg, int32_t id, bool any_but), void *arg);
// Forgets all but `n` states, whose new numbers it puts into `live`. The owner has freed the masks.
// After a failure (m->err) the machine holds what it held.
void machine_renew(struct machine *m, uint32_t *const *live, uint32_t n);
