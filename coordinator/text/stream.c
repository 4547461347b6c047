#include "coordinator/text/stream.h"

#include <string.h>

void stream_init(struct stream *s, const struct tokenizer *tok, const struct stream_stop *stops,
                 int n_stop, bool at_start)
{
    *s = (struct stream){.tok = tok, .stops = stops, .n_stop = n_stop, .at_start = at_start};
}

void stream_fini(struct stream *s)
{
    buf_fini(&s->held);
}

static void add_piece(struct stream *s, int32_t id)
{
    size_t len;
    const char *p = tokenizer_piece(s->tok, id, s->spells, &len);
    if (len == 0 && s->marks) {
        p = tokenizer_piece(s->tok, id, true, &len);
        if (len && !turn_format_marks(s->marks, p, len)) return;
    }
    if (len == 0) return;
    if (s->at_start && *p == ' ' && tokenizer_strips_first_space(s->tok)) {
        p++;
        len--;
    }
    s->at_start = false;
    buf_add(&s->held, p, len);
}

// Earliest match of any stop string; of those that begin at the same byte, the first listed.
static int find_stop(const struct stream *s, size_t *at)
{
    int best = -1;
    for (int i = 0; i < s->n_stop; i++) {
        const char *hit =
            s->held.len ? memmem(s->held.data, s->held.len, s->stops[i].s, s->stops[i].len) : NULL;
        if (!hit || (best >= 0 && (size_t)(hit - s->held.data) >= *at)) continue;
        best = i;
        *at = (size_t)(hit - s->held.data);
    }
    return best;
}

// Bytes at the end that may be the beginning of a stop string.
static size_t partial_stop(const struct stream *s)
{
    size_t most = 0;
    for (int i = 0; i < s->n_stop; i++) {
        size_t n = s->stops[i].len - 1;
        if (n > s->held.len) n = s->held.len;
        while (n > most && memcmp(s->held.data + s->held.len - n, s->stops[i].s, n) != 0)
            n--;
        if (n > most) most = n;
    }
    return most;
}

// How many of the bytes at p begin a well-formed sequence, and the length of a whole one (0: none
// begins with this byte).
static size_t sequence(const char *p, size_t len, size_t *whole)
{
    const unsigned char *u = (const unsigned char *)p;
    unsigned char low = u[0] == 0xe0 ? 0xa0 : u[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = u[0] == 0xed ? 0x9f : u[0] == 0xf4 ? 0x8f : 0xbf;
    *whole = u[0] < 0x80   ? 1
             : u[0] < 0xc2 ? 0
             : u[0] < 0xe0 ? 2
             : u[0] < 0xf0 ? 3
             : u[0] < 0xf5 ? 4
                           : 0;
    size_t n = 1;
    if (*whole > 1 && len > 1 && u[1] >= low && u[1] <= high)
        for (n = 2; n < *whole && n < len && (u[n] & 0xc0) == 0x80; n++)
            ;
    return n;
}

// Appends bytes as valid UTF-8: the longest beginning of a sequence that does not go on becomes one
// U+FFFD. An unfinished sequence at the end stays unless `last`. Returns the bytes used.
static size_t give(struct buf *out, const char *p, size_t len, bool last)
{
    size_t at = 0, whole;
    while (at < len) {
        size_t n = sequence(p + at, len - at, &whole);
        if (n < whole && n == len - at && !last) break;
        if (n == whole)
            buf_add(out, p + at, n);
        else
            buf_str(out, "\xef\xbf\xbd");
        at += n;
    }
    return at;
}

int stream_push(struct stream *s, int32_t id, struct buf *out)
{
    size_t at = 0;
    add_piece(s, id);
    int stop = find_stop(s, &at);
    if (stop >= 0) {
        if (s->include_stop) at += s->stops[stop].len;
        give(out, s->held.data, at, true);
        buf_clear(&s->held);
        return stop;
    }
    size_t sure = s->held.len - partial_stop(s);
    if (sure) buf_drop(&s->held, give(out, s->held.data, sure, false));
    return -1;
}

void stream_flush(struct stream *s, struct buf *out)
{
    if (s->held.len) give(out, s->held.data, s->held.len, true);
    buf_clear(&s->held);
}
