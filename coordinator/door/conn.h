// conn: connections: how many, from where, how long each may take for what, and whether the caller
// is still there. libmicrohttpd's timeouts are of inactivity only (a byte a second keeps a
// connection for ever) and it does not look at suspended connections at all, so a sweep every
// 100 ms does both here.
#pragma once
#include "coordinator/door/door.h"

enum { CONN_SWEEP_MS = 100, CONN_IDLE_MS = 75000, CONN_LINGER_MS = 2000 };

// MHD_AcceptPolicyCallback and MHD_NotifyConnectionCallback; cls is the door.
enum MHD_Result conn_policy(void *cls, const struct sockaddr *addr, socklen_t len);
void conn_notify(void *cls, struct MHD_Connection *mhd, void **socket_context,
                 enum MHD_ConnectionNotificationCode code);

void conn_set(struct conn *c, enum conn_phase phase);
// Text of the local address, for the Host check; false if unknown.
bool conn_local(const struct conn *c, char *out, size_t cap);
// Sends a whole JSON error past the library, for the states in which it takes no answer; the
// caller closes the connection next. Does nothing under TLS.
void conn_send_error(struct conn *c, const struct refusal *no);

// Deadlines and hang-ups of all connections. Returns false when there is nothing left to sweep.
bool conn_sweep(struct door *d, int64_t now_us);
void conn_drop_lingers(struct door *d);
// libmicrohttpd 0.9.75 turns round and round over a chunk size line that fills its buffer. Ends
// the connections that can be the cause.
void conn_drop_stuck(struct door *d);
// The library answers some faults by itself: with pages of HTML, for a malformed Content-Length
// with two header sections. It logs before it does: called with that line, sends a proper error in
// its place when there is no doubt whose request it is. What is left to it: a header line without a
// colon, a wrong version, and the rest when several callers are in the same state.
void conn_library_says(struct door *d, const char *line);
