// engine: what the front door asks of whatever makes the tokens. The coordinator is one engine; the
// tests and the door's own benchmark have a mock. Everything runs on the loop's thread.
#pragma once
#include "coordinator/schedule/request.h"
#include "coordinator/text/grammar.h"
#include "coordinator/text/template.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/turn.h"
#include "proto/base/buf.h"

struct engine;

// What can be told of readiness; the words of GET /readyz.
enum engine_state {
    ENGINE_LOADING,
    ENGINE_READY,
    ENGINE_DEGRADED,
    ENGINE_NO_CAPACITY,
    ENGINE_DRAINING
};

struct engine_model {
    const char *id;             // the name callers use
    const char *const *aliases; // NULL-terminated
    int64_t created_s;
    const char *file; // name of its file or folder, without where that is
    uint32_t ctx;
    uint32_t n_slot; // choices that run at once
    const struct tokenizer *tokenizer;
    const struct template *template;  // NULL: the model has none (base model): chat is refused
    const struct turn_format *format; // how it writes calls and thoughts; never NULL
    struct grammar_book *grammars;    // of the tokenizer, for constrained answers
    const char *bos, *eos;            // text of these tokens for the template, "" if none
    const int32_t *end_ids;
    uint32_t n_end;
    uint32_t dim;            // numbers of a vector
    enum pooling pooling;    // of vectors unless a caller says otherwise; POOLING_NONE: he must,
    const char *pooling_why; // because of this
};

// Called by the engine for a submitted request, on the loop's thread. Inside on_token the receiver
// may call finish for that choice, and cancel for the request.
struct engine_listener {
    void (*on_token)(struct request *r, struct choice *c, const struct step_item *item);
    void (*on_scores)(struct request *r, const float *scores, uint32_t from, uint32_t n);
    // Of a request with pooling: its answer, not normalised; borrowed.
    void (*on_vector)(struct request *r, struct choice *c, const float *vector, uint32_t n);
    // The choice is over. `is_last`: the request is the listener's again, to be freed.
    void (*on_finish)(struct request *r, struct choice *c, bool is_last);
    // The whole request failed (after or before its first token): no on_finish will follow; the
    // request is the listener's again.
    void (*on_error)(struct request *r, err_t code, const char *sentence, uint32_t retry_after_s);
};

struct engine_ops {
    // OK: the listener will hear of it. ERR_BUSY, ERR_CAPACITY (with retry_after_s), ERR_TOO_LARGE:
    // it stays the caller's.
    err_t (*submit)(struct engine *e, struct request *r, const struct engine_listener *l,
                    uint32_t *retry_after_s, struct err_text *why);
    void (*finish)(struct engine *e, struct choice *c, enum finish reason);
    // The caller left: gone from the next step. on_finish is called for each live choice, at once.
    void (*cancel)(struct engine *e, struct request *r);
    const struct engine_model *(*model)(struct engine *e); // NULL while there is none yet
    enum engine_state (*state)(struct engine *e, const char **reason);
    void (*metrics)(struct engine *e, struct buf *out); // Prometheus text
    void (*cluster)(struct engine *e, struct buf *out); // the JSON of /v1/cluster
    void (*experts)(struct engine *e, struct buf *out); // the JSON of /v1/cluster/experts
    // The worker or lane of this name takes no new requests and leaves when those it has are done,
    // or after grace_s (0: as at a shutdown). ERR_NOT_FOUND.
    err_t (*drain)(struct engine *e, const char *name, uint32_t grace_s, struct err_text *why);
};

struct engine {
    const struct engine_ops *ops;
};
