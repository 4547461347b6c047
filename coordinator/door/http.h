// http: the front door's socket side: libmicrohttpd inside our libuv loop. Owns connections, the
// header gate, deadlines, authentication and routing; hands whole bodies to the api_* files and
// carries their answers back, whole or as server-sent events.
#pragma once
#include "coordinator/door/engine.h"
#include <uv.h>

struct door;

// Names, origins and the ledger's path are borrowed for the door's life, the rest only while it is
// opened.
struct door_config {
    const char *listen;                     // "127.0.0.1:30000", "[::1]:0"; port 0 picks one
    const char *const *api_keys;            // lines as auth.h says, NULL-terminated; NULL: none
                                            // asked (loopback only)
    const char *tls_cert_pem, *tls_key_pem; // file contents, or NULL: plain HTTP (loopback only)
    const char *const *hosts;   // further names allowed in Host, NULL-terminated; loopback names
                                // and the listen address always are
    const char *const *origins; // CORS allow-list, or NULL: no CORS headers at all
    const char *ledger;         // file of records (ledger.h), or NULL
    size_t max_body_bytes;      // 0: 8 MiB
    uint64_t replay_bytes;      // of turns with calls that are kept (replay.h); 0: REPLAY_BYTES
    bool
        log_misses; // say why prefixes of conversations are lost (recall.h), with pieces of prompts
    bool strict_roles;        // what a template refuses is refused, and not repaired (repair.h)
    uint32_t max_connections; // 0: 1024
    uint32_t max_per_address; // 0: 64 (loopback is exempt)
    uint32_t header_ms, body_ms, write_ms; // deadlines; 0: 10 s, 30 s, 60 s
};

// ERR_CONFIG: a public address without key and TLS is refused here with a sentence; ERR_SYSTEM.
err_t door_open(uv_loop_t *loop, const struct door_config *c, struct engine *e, struct door **out,
                struct err_text *why);
int door_port(const struct door *d);
// Stops accepting; existing streams go on. Then door_close when door_n_active is 0 or time is up.
void door_drain(struct door *d);
uint32_t door_n_active(const struct door *d);
// The engine is not called, nor its model looked at, after this returns; the loop must run once
// more to free the rest. May wait for a tokenisation that is under way.
void door_close(struct door *d);
