#include "coordinator/text/pretokenize.h"
#include "coordinator/text/vocab.h"
#include "proto/base/utf8.h"

#include <stdlib.h>
#include <string.h>

static const char mark[] = "\xe2\x96\x81";

bool pretokenize_add(struct pretokenize *p, const struct pretokenize_step *s)
{
    if (p->n == PRETOKENIZE_STEPS_MAX) {
        regex_close(s->pattern);
        return false;
    }
    p->steps[p->n++] = *s;
    return true;
}

void pretokenize_close(struct pretokenize *p)
{
    for (int i = 0; p && i < p->n; i++)
        regex_close(p->steps[i].pattern);
    free(p);
}

void pretokenize_work_fini(struct pretokenize_work *w)
{
    regex_work_fini(&w->match);
    for (int i = 0; i < PRETOKENIZE_STEPS_MAX; i++)
        buf_fini(&w->texts[i]);
    buf_fini(&w->word);
}

struct split {
    const struct pretokenize *p;
    struct pretokenize_work *work;
    bool letters; // the words are spelled in letters
    pretokenize_fn *fn;
    void *arg;
};

static err_t piece(struct split *s, int level, const char *text, size_t len, bool at_start);

static err_t word(struct split *s, const char *text, size_t len)
{
    if (!s->letters) return s->fn(s->arg, text, len);
    struct buf *b = &s->work->word;
    size_t n;
    buf_clear(b);
    if (!buf_reserve(b, len)) return ERR_MEMORY;
    if (!vocab_letters(text, len, b->data, &n)) return ERR_INVALID;
    return s->fn(s->arg, b->data, n);
}

// --- splits -----------------------------------------------------------------------------------

// A run of text that goes on to the next step when it is known that nothing joins it.
struct held {
    size_t from, to;
    bool is_match, any;
};

static err_t give(struct split *s, int level, const char *text, struct held *h, bool at_start)
{
    bool any = h->any && h->to > h->from;
    h->any = false;
    return any ? piece(s, level + 1, text + h->from, h->to - h->from, at_start && h->from == 0)
               : OK;
}

static bool joins(enum pretokenize_then then, const struct held *h, bool is_match)
{
    if (!h->any) return false;
    switch (then) {
    case PRETOKENIZE_TO_PREVIOUS:
        return is_match && !h->is_match;
    case PRETOKENIZE_TO_NEXT:
        return !is_match && h->is_match;
    case PRETOKENIZE_CONTIGUOUS:
        return is_match == h->is_match;
    default:
        return false;
    }
}

static err_t take(struct split *s, int level, const char *text, struct held *h, struct held next,
                  bool at_start)
{
    const struct pretokenize_step *step = &s->p->steps[level];
    next.is_match ^= step->invert;
    if (joins(step->then, h, next.is_match)) {
        h->to = next.to;
        h->is_match = next.is_match;
        return OK;
    }
    err_t err = give(s, level, text, h, at_start);
    if (step->then != PRETOKENIZE_REMOVED || !next.is_match) *h = next;
    return err;
}

static err_t by_pattern(struct split *s, int level, const char *text, size_t len, bool at_start)
{
    const struct regex *p = s->p->steps[level].pattern;
    struct held h = {0};
    err_t err = OK;
    size_t done = 0;
    bool any = false; // a match ended at `done`: no empty one counts there
    for (size_t at = 0; !err && at < len;) {
        bool found = false;
        size_t from = len, to = len;
        err = regex_find(p, &s->work->match, text, len, at, &found, &from, &to);
        if (err) return err;
        at = to;
        if (from == to && to < len) at += utf8_len(text + to, len - to);
        if (found && from == to && any && to == done) continue;
        if (from > done)
            err = take(s, level, text, &h, (struct held){done, from, false, true}, at_start);
        if (!err && found)
            err = take(s, level, text, &h, (struct held){from, to, true, true}, at_start);
        done = to;
        any = found;
    }
    if (!err && done < len)
        err = take(s, level, text, &h, (struct held){done, len, false, true}, at_start);
    return err ? err : give(s, level, text, &h, at_start);
}

// --- steps that write -------------------------------------------------------------------------

static err_t with_space(struct split *s, int level, const char *text, size_t len)
{
    if (*text == ' ') return piece(s, level + 1, text, len, false);
    struct buf *b = &s->work->texts[level];
    buf_clear(b);
    buf_char(b, ' ');
    buf_add(b, text, len);
    return buf_ok(b) ? piece(s, level + 1, b->data, b->len, false) : ERR_MEMORY;
}

static err_t in_letters(struct split *s, int level, const char *text, size_t len)
{
    struct buf *b = &s->work->texts[level];
    buf_clear(b);
    for (size_t i = 0; i < len; i++) {
        uint32_t c = vocab_letter((uint8_t)text[i]);
        if (c >= 0x80) buf_char(b, (char)(0xc0 | c >> 6));
        buf_char(b, (char)(c >= 0x80 ? 0x80 | (c & 63) : c));
    }
    if (!buf_ok(b)) return ERR_MEMORY;
    s->letters = true;
    err_t err = piece(s, level + 1, b->data, b->len, false);
    s->letters = false;
    return err;
}

// Words begin with their mark; of several marks the last one only.
static err_t by_marks(struct split *s, int level, const char *text, size_t len)
{
    err_t err = OK;
    for (size_t from = 0; !err && from < len;) {
        size_t to = from + (len - from >= 3 && memcmp(text + from, mark, 3) == 0 ? 3 : 1);
        const char *next = memmem(text + to, len - to, mark, 3);
        to = next ? (size_t)(next - text) : len;
        err = piece(s, level + 1, text + from, to - from, false);
        from = to;
    }
    return err;
}

static err_t with_marks(struct split *s, int level, const char *text, size_t len, bool at_start)
{
    const struct pretokenize_step *step = &s->p->steps[level];
    struct buf *b = &s->work->texts[level];
    bool prefix =
        step->prefix == PRETOKENIZE_ALWAYS || (step->prefix == PRETOKENIZE_FIRST && at_start);
    buf_clear(b);
    if (prefix && *text != ' ' && (len < 3 || memcmp(text, mark, 3) != 0)) buf_str(b, mark);
    for (size_t at = 0, end; at < len; at = end + 1) {
        const char *space = memchr(text + at, ' ', len - at);
        end = space ? (size_t)(space - text) : len;
        buf_add(b, text + at, end - at);
        if (space) buf_str(b, mark);
    }
    if (!buf_ok(b)) return ERR_MEMORY;
    return step->split ? by_marks(s, level, b->data, b->len)
                       : piece(s, level + 1, b->data, b->len, false);
}

// At most PRETOKENIZE_STEPS_MAX deep.
static err_t piece(struct split *s, int level, const char *text, size_t len, bool at_start)
{
    if (len == 0) return OK;
    if (level == s->p->n) return word(s, text, len);
    switch (s->p->steps[level].kind) {
    case PRETOKENIZE_SPLIT:
        return by_pattern(s, level, text, len, at_start);
    case PRETOKENIZE_SPACE:
        return with_space(s, level, text, len);
    case PRETOKENIZE_LETTERS:
        return in_letters(s, level, text, len);
    case PRETOKENIZE_MARKS:
        return with_marks(s, level, text, len, at_start);
    }
    return OK;
}

err_t pretokenize_each(const struct pretokenize *p, struct pretokenize_work *w, const char *text,
                       size_t len, bool at_start, pretokenize_fn *fn, void *arg)
{
    struct split s = {.p = p, .work = w, .fn = fn, .arg = arg};
    return piece(&s, 0, text, len, at_start);
}
