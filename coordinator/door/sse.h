// sse: server-sent events as OpenAI clients read them (WHATWG HTML, section 9.2): one line of JSON
// per event. Clients exist that fail on any line without ": ", so comments are written with it.
#pragma once
#include "proto/base/buf.h"

static inline void sse_begin(struct buf *out)
{
    buf_add(out, "data: ", 6);
}
static inline void sse_end(struct buf *out)
{
    buf_add(out, "\n\n", 2);
}
static inline void sse_done(struct buf *out)
{
    buf_str(out, "data: [DONE]\n\n");
}
static inline void sse_keep_alive(struct buf *out)
{
    buf_str(out, ": keep-alive\n\n");
}
