// What turn.c (text, thoughts, sections), turn_call.c (calls) and turn_value.c (values) share.
#pragma once
#include "coordinator/text/turn.h"

enum {
    TURN_NAME_MAX = 256,      // bytes of a name or a key
    TURN_GAP_MAX = 512,       // bytes between the parts of a call
    TURN_WHOLE_MAX = 4 << 20, // bytes of what is needed whole: a call in literals, one value
    TURN_DEPTH_MAX = 64,
};

static inline const char *turn_here(const struct turn *t)
{
    return t->held.data ? t->held.data + t->at : ""; // nothing has come yet
}
static inline size_t turn_left(const struct turn *t)
{
    return t->held.len - t->at;
}
// Of what is held, as much as still fits a buffer that may hold `max` bytes, and one more, so that
// it shows when there are too many.
static inline size_t turn_room(const struct turn *t, const struct buf *b, size_t max)
{
    const size_t room = max + 1 - b->len;
    return turn_left(t) < room ? turn_left(t) : room;
}
static inline bool turn_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

// Where the first of n marks (NULLs are left out) stands in what is held.
struct turn_hit {
    int mark;   // -1: none
    size_t at;  // bytes before it; if none, bytes in which none begins
    size_t len; // of the mark
};
struct turn_hit turn_find(const struct turn *t, const char *const *marks, int n);

// Consumes n bytes of what is held; while a call has no name yet they are kept in raw.
void turn_eat(struct turn *t, size_t n);
void turn_eat_space(struct turn *t);
void turn_give(struct turn *t, enum turn_kind kind, const char *s, size_t len);
void turn_give_text(struct turn *t, const char *s, size_t len);

// turn_call.c. A step of the states that are theirs: false if there is nothing to do until more
// comes.
bool turn_call_step(struct turn *t);
// A call may begin here.
void turn_call_begin(struct turn *t);
void turn_call_name(struct turn *t, const char *s, size_t len);
void turn_call_arguments(struct turn *t, const char *s, size_t len);
void turn_call_done(struct turn *t);
// The model's turn is over in the middle of a call.
void turn_call_end(struct turn *t);

// turn_value.c. How many of the bytes belong to the value; sets is_over behind its last one.
size_t turn_value_scan(struct turn_value *v, const char *s, size_t len);
// A value written in Python's words, or in Gemma's braces, as JSON: appends to out, and returns how
// many bytes it took; 0: it is none.
enum turn_words { TURN_WORDS_PYTHON, TURN_WORDS_BRACES };
size_t turn_value_literal(enum turn_words words, const char *s, size_t len, struct buf *out);
// Text between tags as a JSON value by the schema of its argument (NULL: none is known).
void turn_value_typed(const struct json *schema, const char *s, size_t len, struct buf *out);
bool turn_value_is_string(const struct json *schema);
// Appends without the quotes.
void turn_value_escape(struct buf *out, const char *s, size_t len);
