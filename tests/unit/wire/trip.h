// trip: a message over the wire and back, for the tests of wire.
#pragma once
#include "proto/wire/wire.h"

#include <string.h>

struct trip {
    struct buf bytes;
    struct arena arena;
    struct msg out;
    struct err_text why;
};

static inline void trip_fini(struct trip *t)
{
    buf_fini(&t->bytes);
    arena_fini(&t->arena);
}

static inline err_t trip_try(struct trip *t, const struct msg *m)
{
    *t = (struct trip){0};
    arena_init(&t->arena, 0);
    assert_int_equal(wire_pack(m, &t->bytes), OK);
    return wire_unpack(t->bytes.data, t->bytes.len, &t->arena, &t->out, &t->why);
}

// There and back; packing what came out must give the same bytes again.
static inline void trip_ok(struct trip *t, const struct msg *m)
{
    err_t e = trip_try(t, m);
    if (e) fail_msg("%s: %s", wire_kind_name(m->kind), t->why.s);
    assert_int_equal(t->out.kind, m->kind);
    struct buf again = {0};
    assert_int_equal(wire_pack(&t->out, &again), OK);
    assert_int_equal(again.len, t->bytes.len);
    assert_memory_equal(again.data, t->bytes.data, again.len);
    buf_fini(&again);
}

static inline void refused(const struct msg *m, const char *what)
{
    struct trip t;
    err_t e = trip_try(&t, m);
    if (e != ERR_LINK_PROTOCOL) fail_msg("accepted: %s (%d)", what, e);
    assert_true(t.why.s[0]);
    trip_fini(&t);
}

#define REFUSED(good, change)                                                                      \
    do {                                                                                           \
        struct msg m = good;                                                                       \
        change;                                                                                    \
        refused(&m, #change);                                                                      \
    } while (0)
