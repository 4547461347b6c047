#include "coordinator/text/turn_priv.h"

#include <string.h>

// -- what the states share --

static size_t partial(const char *s, size_t len, const char *mark, size_t mark_len)
{
    size_t n = len < mark_len - 1 ? len : mark_len - 1;
    while (n && memcmp(s + len - n, mark, n) != 0)
        n--;
    return n;
}

struct turn_hit turn_find(const struct turn *t, const char *const *marks, int n)
{
    const char *s = turn_here(t);
    const size_t len = turn_left(t);
    struct turn_hit best = {.mark = -1, .at = len};
    size_t held = 0;
    if (!len) return best;
    for (int i = 0; i < n; i++) {
        if (!marks[i]) continue;
        const size_t mark_len = strlen(marks[i]);
        const char *hit = memmem(s, len, marks[i], mark_len);
        if (hit && (size_t)(hit - s) < best.at)
            best = (struct turn_hit){i, (size_t)(hit - s), mark_len};
        const size_t more = hit || t->is_ending ? 0 : partial(s, len, marks[i], mark_len);
        if (more > held) held = more;
    }
    // A mark that begins earlier and may yet be completed comes first.
    if (best.at > len - held) best = (struct turn_hit){.mark = -1, .at = len - held};
    return best;
}

void turn_eat(struct turn *t, size_t n)
{
    if (!t->is_named && t->state > TURN_IN_HEADER) buf_add(&t->raw, turn_here(t), n);
    t->at += n;
}

void turn_eat_space(struct turn *t)
{
    size_t n = 0;
    while (n < turn_left(t) && turn_is_space(turn_here(t)[n]))
        n++;
    if (n) turn_eat(t, n);
}

void turn_give(struct turn *t, enum turn_kind kind, const char *s, size_t len)
{
    if (!len && (kind == TURN_TEXT || kind == TURN_REASONING || kind == TURN_ARGUMENTS)) return;
    const struct turn_event e = {
        .kind = kind, .call = kind >= TURN_CALL ? t->n_call : 0, .s = s, .len = len};
    t->config.sink(t->config.arg, &e);
}

// Text or thoughts. White space waits until it is known what follows: it is nothing at the edges of
// thoughts and beside calls.
static void give_prose(struct turn *t, enum turn_kind kind, const char *s, size_t len)
{
    bool *had = kind == TURN_TEXT ? &t->had_text : &t->had_reasoning;
    const bool strips = kind == TURN_REASONING || t->after_think || t->n_call;
    size_t last = len;
    while (last && turn_is_space(s[last - 1]))
        last--;
    if (last) {
        size_t from = 0;
        if (!*had && strips) {
            buf_clear(&t->space);
            while (turn_is_space(s[from]))
                from++;
        }
        turn_give(t, kind, t->space.data, t->space.len);
        buf_clear(&t->space);
        turn_give(t, kind, s + from, last - from);
        *had = true;
    }
    buf_add(&t->space, s + last, len - last);
}

void turn_give_text(struct turn *t, const char *s, size_t len)
{
    give_prose(t, TURN_TEXT, s, len);
    if (t->space.len < len) t->is_fresh = false;
}

static void eat_prose(struct turn *t, enum turn_kind kind, size_t n)
{
    if (!n) return;
    if (kind == TURN_TEXT)
        turn_give_text(t, turn_here(t), n);
    else
        give_prose(t, kind, turn_here(t), n);
    t->at += n;
}

// -- text and thoughts --

// The whole answer may be a call without a mark: {"name": .. or [name(..
static bool may_be_bare(const struct turn *t)
{
    const struct turn_format *f = t->config.format;
    return f->bare && t->is_fresh && t->config.tools;
}

static bool try_bare(struct turn *t)
{
    const char first = t->config.format->name_kind == TURN_NAME_PYTHON ? '[' : '{';
    size_t n = 0;
    while (n < turn_left(t) && turn_is_space(turn_here(t)[n]))
        n++;
    eat_prose(t, TURN_TEXT, n);
    if (!turn_left(t)) return false;
    if (t->n_call && *turn_here(t) == ';') { // between calls
        t->at++;
        return true;
    }
    if (*turn_here(t) != first) return false;
    t->state = TURN_BEFORE_CALL;
    turn_call_begin(t);
    return true;
}

static bool in_text(struct turn *t)
{
    const struct turn_format *f = t->config.format;
    const bool calls = t->config.tools;
    const char *const marks[] = {f->think_open, f->think_close, calls ? f->open : NULL,
                                 calls ? f->call_open : NULL};
    if (may_be_bare(t) && try_bare(t)) return true;
    struct turn_hit h = turn_find(t, marks, 4);
    const bool moved = h.at || h.mark >= 0;
    eat_prose(t, TURN_TEXT, h.at);
    if (h.mark < 0) return moved && turn_left(t) && may_be_bare(t);
    if (h.mark <= 1) { // thoughts close that were not opened: the mark alone is dropped
        t->at += h.len;
        t->after_think = true;
        if (h.mark == 0) t->state = TURN_IN_THINK;
        return true;
    }
    t->state = TURN_BEFORE_CALL;
    t->in_section = h.mark == 2;
    turn_call_begin(t);
    turn_eat(t, h.len);
    if (h.mark == 3) t->state = f->name_kind == TURN_NAME_UNTIL ? TURN_IN_NAME : TURN_BEFORE_CALL;
    return true;
}

static bool in_think(struct turn *t)
{
    const char *const close[] = {t->config.format->think_close};
    struct turn_hit h = turn_find(t, close, 1);
    eat_prose(t, TURN_REASONING, h.at);
    if (h.mark < 0) return false;
    t->at += h.len;
    buf_clear(&t->space);
    t->state = TURN_IN_TEXT;
    t->is_fresh = true;
    return true;
}

// -- harmony: messages with a header and a body --

static const char *const harmony_ends[] = {"<|end|>", "<|return|>", "<|call|>", "<|start|>",
                                           "<|channel|>"};

static const char *after(const char *s, size_t len, const char *mark, size_t *n)
{
    const char *hit = memmem(s, len, mark, strlen(mark));
    if (!hit) return NULL;
    hit += strlen(mark);
    *n = 0;
    while (hit + *n < s + len && !turn_is_space(hit[*n]) && hit[*n] != '<')
        ++*n;
    return hit;
}

static void enter_body(struct turn *t, const char *header, size_t len)
{
    size_t n;
    const char *to = after(header, len, "to=", &n);
    if (to && n && t->config.tools) {
        const size_t prefix = n > 10 && !memcmp(to, "functions.", 10) ? 10 : 0;
        turn_call_begin(t);
        t->state = TURN_IN_ARGS;
        turn_call_name(t, to + prefix, n - prefix);
        return;
    }
    const char *channel = after(header, len, "<|channel|>", &n);
    t->state = channel && n == 8 && !memcmp(channel, "analysis", 8) ? TURN_IN_THINK : TURN_IN_TEXT;
    t->after_think |= t->state == TURN_IN_THINK;
    buf_clear(&t->space);
}

static bool in_header(struct turn *t)
{
    const char *const ends[] = {"<|message|>"};
    struct turn_hit h = turn_find(t, ends, 1);
    const char *s = turn_here(t);
    size_t n = turn_left(t);
    if (!n) return false;
    if (t->is_fresh && *s != '<' && *s != ' ' && *s != 't' && *s != 'a') {
        t->state = TURN_IN_TEXT; // a model that writes no header writes an answer
        return true;
    }
    if (h.mark < 0 || h.at > TURN_GAP_MAX) {
        if (n <= TURN_GAP_MAX && !t->is_ending) return false;
        if (n > TURN_GAP_MAX) n = TURN_GAP_MAX;
        while (n > 1 && n < turn_left(t) && ((unsigned char)s[n] & 0xc0) == 0x80)
            n--;
        t->n_garbled++;
        t->state = TURN_IN_TEXT;
        eat_prose(t, TURN_TEXT, n);
        return true;
    }
    t->is_fresh = false;
    t->at += h.at + h.len;
    enter_body(t, s, h.at);
    return true;
}

static bool in_body(struct turn *t)
{
    struct turn_hit h = turn_find(t, harmony_ends, 5);
    if (t->state == TURN_IN_ARGS) {
        if (h.at) turn_call_arguments(t, turn_here(t), h.at);
        t->at += h.at;
    } else {
        eat_prose(t, t->state == TURN_IN_THINK ? TURN_REASONING : TURN_TEXT, h.at);
    }
    if (h.mark < 0) return false;
    if (h.mark < 4) t->at += h.len; // <|channel|> begins the next header
    if (t->state == TURN_IN_ARGS) turn_call_done(t);
    t->state = TURN_IN_HEADER;
    return true;
}

// -- the turn --

static bool step(struct turn *t)
{
    if (t->config.format->name_kind == TURN_NAME_HEADER)
        return t->state == TURN_IN_HEADER ? in_header(t) : in_body(t);
    switch (t->state) {
    case TURN_IN_TEXT:
        return in_text(t);
    case TURN_IN_THINK:
        return in_think(t);
    default:
        return turn_call_step(t);
    }
}

static err_t run(struct turn *t)
{
    while (step(t))
        ;
    if (t->at) {
        buf_drop(&t->held, t->at);
        t->at = 0;
    }
    const bool ok = buf_ok(&t->held) && buf_ok(&t->raw) && buf_ok(&t->space) && buf_ok(&t->given) &&
                    buf_ok(&t->word) && buf_ok(&t->early);
    return ok ? OK : ERR_MEMORY;
}

bool turn_is_thinking(const struct turn_format *f, const char *prompt, size_t len)
{
    const char *open = f->think_open, *close = f->think_close;
    if (!open || !len) return false;
    const char *at = memmem(prompt, len, open, strlen(open));
    return at && !memmem(at, len - (size_t)(at - prompt), close, strlen(close));
}

void turn_init(struct turn *t, const struct turn_config *c)
{
    *t = (struct turn){.config = *c, .is_fresh = true};
    if (c->tools && c->tools->kind == J_ARR && c->tools->arr.n == 0) t->config.tools = NULL;
    if (c->format->name_kind == TURN_NAME_HEADER)
        t->state = TURN_IN_HEADER;
    else if (turn_is_thinking(c->format, c->prompt, c->prompt_len))
        t->state = TURN_IN_THINK;
    t->after_think = t->state == TURN_IN_THINK;
    t->config.prompt = NULL;
}

void turn_fini(struct turn *t)
{
    buf_fini(&t->held);
    buf_fini(&t->raw);
    buf_fini(&t->space);
    buf_fini(&t->given);
    buf_fini(&t->word);
    buf_fini(&t->early);
}

err_t turn_push(struct turn *t, const char *s, size_t len)
{
    buf_add(&t->held, s, len);
    return run(t);
}

err_t turn_end(struct turn *t)
{
    t->is_ending = true;
    err_t e = run(t);
    if (t->state > TURN_IN_HEADER) {
        turn_call_end(t);
        if (!e) e = run(t);
    }
    const bool keeps = t->had_text || !(t->after_think || t->n_call);
    if (t->state != TURN_IN_THINK && keeps && !t->n_call)
        turn_give(t, TURN_TEXT, t->space.data, t->space.len);
    buf_clear(&t->space);
    return e;
}
