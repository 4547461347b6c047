// stream: token ids of one choice -> text that may be sent. Holds back incomplete UTF-8 and partial
// matches of stop strings; what it gave out never has to be taken back.
#pragma once
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/turn.h"

enum { STREAM_STOPS_MAX = 16, STREAM_STOP_BYTES_MAX = 1024 };

struct stream_stop {
    const char *s; // borrowed for the life of the stream
    size_t len;    // 1..STREAM_STOP_BYTES_MAX
};

struct stream {
    const struct tokenizer *tok;
    const struct stream_stop *stops;
    int n_stop;
    bool at_start;     // nothing decoded yet (SPM strips a leading space there)
    bool include_stop; // keep the matched stop text in the output
    bool spells;       // control tokens are text too
    // Control tokens that are marks of this format are spelled out, for a turn to read; NULL: none.
    const struct turn_format *marks;
    struct buf held; // bytes not yet given out
};

// The stops are borrowed. A prompt continuation (completions) passes at_start false.
void stream_init(struct stream *s, const struct tokenizer *tok, const struct stream_stop *stops,
                 int n_stop, bool at_start);
void stream_fini(struct stream *s);
// Appends to `out` what became certain. Returns the index of the stop string that matched (its text
// and all after it is dropped), or -1.
int stream_push(struct stream *s, int32_t id, struct buf *out);
// The choice ended without a stop string: gives out what is held; broken UTF-8 becomes U+FFFD.
void stream_flush(struct stream *s, struct buf *out);
