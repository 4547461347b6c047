// turn_log: the events of a turn as one line of text, neighbours of one kind joined, so that two
// ways to cut the same text can be compared: T[..] text, R[..] thoughts, C[name] A[arguments] E.
#pragma once
#include "coordinator/text/turn.h"

#include <stdlib.h>
#include <string.h>

struct turn_log {
    struct buf text;
    enum turn_kind last;
    bool is_open;
    bool in_call, is_unpaired; // calls begin and end, one after the other
};

static inline void turn_log_close(struct turn_log *l)
{
    if (l->is_open) buf_char(&l->text, ']');
    l->is_open = false;
}

static inline void turn_log_event(void *arg, const struct turn_event *e)
{
    static const char letters[] = "TRCAE";
    struct turn_log *l = arg;
    const bool is_of_call = e->kind == TURN_ARGUMENTS || e->kind == TURN_CALL_END;
    l->is_unpaired |= l->in_call != is_of_call;
    l->in_call = e->kind == TURN_CALL || e->kind == TURN_ARGUMENTS;
    if (!l->is_open || l->last != e->kind || e->kind == TURN_CALL) {
        turn_log_close(l);
        buf_char(&l->text, letters[e->kind]);
        if (e->kind == TURN_CALL_END) return;
        buf_char(&l->text, '[');
        l->is_open = true;
        l->last = e->kind;
    }
    buf_add(&l->text, e->s, e->len);
}

// Every call that began has ended, before the next one and before other events.
static inline bool turn_log_is_paired(const struct turn_log *l)
{
    return !l->is_unpaired && !l->in_call;
}

// The caller frees it.
static inline char *turn_log_text(struct turn_log *l)
{
    turn_log_close(l);
    char *s = strdup(l->text.data ? l->text.data : "");
    buf_fini(&l->text);
    return s;
}
