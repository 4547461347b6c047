// trace: requests with their times, for simulations: a file of JSON lines, or made up.
//
//   {"at": 0.5, "prompt": 1200, "output": 150, "session": "a", "common": 300}
//
// at: seconds from the start; prompt, output: tokens. Requests of one session are a conversation:
// each prompt begins like the one before it with its answer. The first `common` tokens are the same
// for all sessions (a system prompt). session and common may be left out.
//
// "agents:N,TURNS" makes up N agents that start one after the other, each of which takes up its
// conversation TURNS times: a long prompt, then turns that add a tool's answer, thinking in
// between.
#pragma once
#include "proto/base/err.h"

struct trace_request {
    double at_s;
    uint32_t n_prompt, n_output;
    uint64_t session; // 0: none
    uint32_t n_common;
};

struct trace {
    struct trace_request *requests; // by time
    uint32_t n;
};

enum { TRACE_REQUESTS_MAX = 10000000 };

// ERR_SYSTEM, ERR_INVALID with "path:line: what, found, allowed". Free with trace_close.
err_t trace_open(const char *path, struct trace *out, struct err_text *why);
void trace_close(struct trace *t);
