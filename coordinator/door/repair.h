// repair: what is done to a conversation that the model's template refuses. Templates demand what
// callers do not promise: that user and assistant alternate, that there is no system message, that
// an assistant speaks between a tool's answer and the next user. Rather than to refuse the caller,
// the conversation is changed in the smallest way that the template takes, and the caller is told
// (x-trireme-repaired).
#pragma once
#include "proto/base/arena.h"
#include "proto/base/json.h"
#include <stdint.h>

// One bit each, in the order they are applied.
enum repair_rule {
    REPAIR_TOOLS = 1,  // calls and their results are told as text: the template knows no tools
    REPAIR_LATER = 2,  // system messages after the beginning go into the user's next message
    REPAIR_SYSTEM = 4, // all of them do
    REPAIR_MERGE = 8,  // neighbours of one role become one message
    REPAIR_BRIDGE = 16 // an assistant says "OK." between a tool's answer and the user
};
enum { REPAIR_RULES = 5 };

// The word of a rule, by the number of its bit.
extern const char *const repair_names[REPAIR_RULES];
// The i-th way of repairing, smallest change first; 0: there are no more.
unsigned repair_way(size_t i);
// Applies rules to messages as messages_read left them; what is new lies in the arena. *changed:
// the rules that did anything. ERR_MEMORY when the arena is full.
err_t repair_apply(const struct json *messages, unsigned rules, struct arena *arena,
                   const struct json **out, unsigned *changed);
