// ledger: what became of every request that the engine took: one record each, when its last choice
// has ended, whatever ended it. Counted always; written as one line of JSON each where a file is
// named:
//
//   {"time":"2031-05-04T03:02:01.234Z","id":"chatcmpl-..","request_id":"req_..","key":"anna",
//    "path":"/v1/chat/completions","model":"..","finish":"stop","reason":null,"streamed":true,
//    "prompt_tokens":9,"cached_tokens":0,"output_tokens":5,"reasoning_tokens":0,
//    "queue_ms":0.1,"ttft_ms":20.5,"total_ms":61.0}
//
// No text of a prompt or an answer, no key. `time` is when the record was written. finish is stop
// (an end token or a stop string), length, tool_calls, cancelled (the caller left, or did not take
// what was written) or failed, then with the reason: the code that the caller was told. Of several
// choices: length if one of them was cut, else tool_calls if one called, else stop. Tokens are sums
// over prompts and choices. Times are from the whole of the body on (queue_ms: from the engine's
// taking it until it begins); null: it did not come to that.
//
// The file belongs to the loop's thread. It is made with mode 0600 and only appended to, with one
// write for each record; when it was moved away (logrotate), the next record begins a new one. What
// cannot be written is counted and said once, until writing works again; no request suffers.
#pragma once
#include "proto/base/buf.h"

enum ledger_finish {
    LEDGER_STOP,
    LEDGER_LENGTH,
    LEDGER_TOOL_CALLS,
    LEDGER_CANCELLED,
    LEDGER_FAILED,
    LEDGER_FINISHES
};

enum { LEDGER_NEVER = -1 }; // of a time

struct ledger_record {
    const char *id, *request_id;
    const char *key; // its name, or NULL
    const char *path, *model;
    enum ledger_finish finish;
    const char *reason; // of LEDGER_FAILED; else NULL
    bool streamed;
    uint64_t prompt, cached, output, reasoning;
    int64_t queue_us, ttft_us, total_us;
};

struct ledger {
    const char *path; // NULL: no file
    int fd;
    bool failing, torn; // the last write did not succeed; it left a part of a line
    uint64_t n[LEDGER_FINISHES];
    uint64_t n_lost; // records that are not in the file, or not whole
};

// `path` is borrowed for the ledger's life, or NULL. ERR_CONFIG: the file cannot be appended to.
err_t ledger_open(struct ledger *l, const char *path, struct err_text *why);
void ledger_close(struct ledger *l); // also of one of zeros
void ledger_add(struct ledger *l, const struct ledger_record *r);
// Prometheus text of what was counted.
void ledger_metrics(const struct ledger *l, struct buf *out);
