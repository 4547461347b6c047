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

// The caller frees it.
static inline char *turn_log_text(struct turn_log *l)
{
    turn_log_close(l);
    char *s = strdup(l->text.data ? l->text.data : "");
    buf_fini(&l->text);
    return s;
}
