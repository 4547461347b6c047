// gate: what the HTTP library lets through and we do not. Runs once per request, before anything
// else looks at it; a refusal closes the connection, so that nothing behind it is read as another
// request (RFC 9112, section 11.2: request smuggling).
//
// libmicrohttpd 0.9.75 takes two Content-Length, Content-Length with Transfer-Encoding, a space
// before the colon, obs-fold, bare LF, NUL, CONNECT and absolute URIs. It parses in place, so the
// pointers it hands out tell how the bytes lay on the wire: when request line and fields, with
// exactly one CRLF after each, do not add up to the section it read, there was something else.
#pragma once
#include "coordinator/door/refusal.h"

enum {
    GATE_HEADERS_MAX = 100,
    GATE_HEADER_BYTES_MAX = 32 << 10,
    GATE_URI_MAX = 8 << 10,
};

struct gate_header {
    const char *name, *value;
    size_t name_len, value_len;
};

struct gate_request {
    const char *method, *version;
    const char *uri; // as received, with the query
    size_t uri_len;
    const struct gate_header *headers; // in order; at least min(n, GATE_HEADERS_MAX) of them
    size_t n;
    size_t section_bytes; // from the method to behind the empty line; 0: pointers tell nothing
};

enum { GATE_CHUNKED = -1 };

struct gate_facts {
    const char *host, *authorization, *api_key, *content_type, *origin; // NULL: absent
    bool twice;         // Authorization or x-api-key more than once
    int64_t body_bytes; // 0: none; GATE_CHUNKED: unknown
    bool encoded;       // Content-Encoding other than identity
};

// ERR_INVALID with the refusal (400, 405, 414, 417, 431, 501, 505).
err_t gate_check(const struct gate_request *q, struct gate_facts *out, struct refusal *no);

// The path part of a raw URI, with %XX decoded, NUL-terminated into out (cap >= GATE_URI_MAX + 1).
// Refuses absolute URIs, "*", control bytes, backslashes, broken or NUL escapes, and "." or ".."
// segments however they are written. ERR_INVALID.
err_t gate_path(const char *uri, size_t len, char *out, struct refusal *no);
