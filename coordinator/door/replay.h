// replay: what a model wrote when it called tools, kept under the ids of its calls. A template
// renders a call that comes back in a conversation in its own way (other spaces, other order,
// thoughts left out), and every token behind the first difference would have to be computed again;
// so where a caller sends a turn back unchanged, the prompt gets the tokens that the model wrote
// (history.h).
//
// Turns are kept as long as there is room, those used last the longest; each belongs to a tenant,
// and nobody else finds it. Any thread may call.
#pragma once
#include "proto/base/buf.h"
#include "proto/base/json.h"
#include <stdint.h>

struct replay;

enum {
    REPLAY_CALLS_MAX = 64, // of one turn; turns with more are not kept
    REPLAY_BYTES = 64 << 20,
};

struct replay_text {
    const char *s;
    size_t len;
};
struct replay_call {
    struct replay_text id, name, arguments; // as the caller got them
};

// One turn with calls.
struct replay_turn {
    uint64_t tenant;
    struct replay_text content, reasoning;
    const struct replay_call *calls;
    uint32_t n_call;
    const int32_t *ids; // as drawn, without the end token
    uint32_t n_id;
    // Where it stood: behind `before` bytes of the rendered conversation, which have this number
    // (fnv.h: who makes two texts of one number gets his own prompts wrong, and nobody else's), and
    // then what the template wrote behind the last byte that was the caller's.
    uint64_t before, before_hash;
    struct replay_text tail;
};

struct replay_stats {
    uint64_t n_turn, bytes; // kept now
    // Turns of conversations that came back and whose tokens were used; that were found but had to
    // be rendered, because their place in the prompt was another.
    uint64_t n_exact, n_rendered;
};

// max_bytes: of all turns; a turn that is larger is not kept. NULL: no memory.
struct replay *replay_new(size_t max_bytes);
void replay_free(struct replay *r); // NULL is fine
// Copies. Without memory it is not kept.
void replay_keep(struct replay *r, const struct replay_turn *t);
// The turn that an assistant's message (of messages_read) is, whole and unchanged but for white
// space around its text, the spelling of its arguments, and thoughts that were left out; copied
// into the arena. NULL: none.
const struct replay_turn *replay_find(struct replay *r, uint64_t tenant, const struct json *message,
                                      struct arena *a);
void replay_count(struct replay *r, uint32_t n_exact, uint32_t n_rendered);
struct replay_stats replay_stats_get(struct replay *r);

// Without white space at the ends.
struct replay_text replay_trim(struct replay_text t);

// A turn on its way: what its caller gets to see of it.
struct replay_notes {
    struct buf content, reasoning;
    struct buf calls; // id, name, arguments of each, a NUL after each
    uint32_t n_call;
};
void replay_notes_fini(struct replay_notes *n);
// Keeps the turn whose calls the notes have; `t` says the rest.
void replay_keep_notes(struct replay *r, const struct replay_notes *n, struct replay_turn t);
