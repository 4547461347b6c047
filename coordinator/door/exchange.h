// exchange: one request and its answer, from the request line to the last byte:
//
//   NEW --first call: gate, host, key, route, type, length, limit--> BODY --all of it came--> WORK
//    WORK --route's function, or the pool and the engine--> ANSWER --library sends--> gone
//
// A refusal before the body is read closes the connection unless there is no body. exchange_abort
// from any state: nothing more is sent.
#pragma once
#include "coordinator/door/door.h"
#include "coordinator/door/reply.h"
#include "coordinator/door/route.h"

enum { EXCHANGE_OUT_MAX = 1 << 20, EXCHANGE_KEEP_ALIVE_MS = 10000 };

enum exchange_phase { EXCHANGE_NEW, EXCHANGE_BODY, EXCHANGE_WORK, EXCHANGE_ANSWER };

struct exchange {
    struct door *door;
    struct conn *conn;
    struct MHD_Connection *mhd;
    struct list dirty; // in door->dirty while something waits for pump()
    enum exchange_phase phase;
    bool suspended, dead;
    char id[PREPARE_ID_MAX]; // x-request-id
    // request
    const char *raw_uri; // the library's; valid until the first call
    size_t raw_len;
    char *path;         // decoded, without the query
    const char *origin; // allowed one, or NULL
    bool head, chunked;
    const struct route *route;
    const char *rest;     // of the path, behind a route that ends in '/'
    struct auth_key *key; // NULL: none is asked for
    bool is_limited;      // counted by the key's limit
    int64_t whole_us;     // all of it was there
    struct buf body;
    // answer
    struct refusal no;
    int status; // 0: not decided yet
    const char *type;
    struct buf answer;
    struct buf policy; // Content-Security-Policy, of a page
    bool varies;       // with Accept
    bool close;
    // tokens
    struct call *call; // on the pool
    struct reply *reply;
    unsigned repaired; // enum repair_rule
    bool streaming, ended;
    struct buf out; // events not handed to the library yet: [out_at, len)
    size_t out_at;
    int64_t last_out_us;
};

// The library's callbacks; cls is the door.
void *exchange_uri(void *cls, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result exchange_access(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **context);
void exchange_completed(void *cls, struct MHD_Connection *mhd, void **context,
                        enum MHD_RequestTerminationCode why);

// For routes. exchange_json takes the buffer over.
void exchange_json(struct exchange *x, int status, struct buf *json);
void exchange_text(struct exchange *x, int status, const char *type, struct buf *text);
void exchange_refuse(struct exchange *x); // x->no says why
void exchange_stream(struct exchange *x); // x->reply runs
// Something happened that pump() must look at.
void exchange_wake(struct exchange *x);

void exchange_flush(struct exchange *x);
void exchange_tick(struct exchange *x, int64_t now_us);
void exchange_abort(struct exchange *x);
uint64_t exchange_body_bytes(const struct exchange *x);
bool exchange_is_chunked(const struct exchange *x);
// Streaming, with bytes that nobody takes.
bool exchange_is_stuck(const struct exchange *x);
