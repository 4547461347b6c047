// err: the one status type, and the sentence that goes with it.
//
// Codes are grouped by the largest thing the failure breaks, so that a caller can decide from
// the number alone: flow codes break nothing, request codes end one request, link codes end one
// connection, node codes end one process (or its worker role).
// The function that decides an error logs it, once; callers pass the code on in silence.
#pragma once
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

typedef int32_t err_t;

enum {
    OK = 0,

    // flow: nothing is broken
    ERR_AGAIN = 1,   // nothing to read now, or no room to write now (back-pressure)
    ERR_TIMEOUT = 2, // the deadline passed
    ERR_END = 3,     // orderly end of input

    // request: this request ends, nothing else is affected
    ERR_INVALID = 100,   // malformed or out-of-range input
    ERR_TOO_LARGE = 101, // over a stated limit
    ERR_NOT_FOUND = 102,
    ERR_CANCELLED = 103,
    ERR_BUSY = 104,     // queue full: try later
    ERR_CAPACITY = 105, // no placement of the model exists now
    ERR_DENIED = 106,   // authentication or permission

    // link: this connection ends
    ERR_LINK = 200,          // peer gone, reset, or never answered
    ERR_LINK_PROTOCOL = 201, // the peer sent something it must not send
    ERR_LINK_AUTH = 202,     // certificate, token or key refused
    ERR_LINK_VERSION = 203,  // peer speaks another protocol version

    // node: this process (or its worker role) cannot go on
    ERR_MEMORY = 300, // allocation refused or over the budget
    ERR_SYSTEM = 301, // the operating system refused a call
    ERR_MODEL = 302,  // bad model file or a model this build cannot run (exit code 78)
    ERR_CONFIG = 303, // bad option or configuration file (exit code 78)
    ERR_DEVICE = 304, // accelerator failure
    ERR_UNSUPPORTED = 305,
};

static inline int err_is_request(err_t e)
{
    return e >= 100 && e < 200;
}
static inline int err_is_link(err_t e)
{
    return e >= 200 && e < 300;
}
static inline int err_is_node(err_t e)
{
    return e >= 300 && e < 400;
}

// Short lower-case name of a code, for logs: "invalid", "link auth". Never NULL.
const char *err_name(err_t e);

// The sentence a user sees. Always one line: control bytes and broken UTF-8 are escaped as \xNN
// when written, so text from files and peers may be put in with %s.
struct err_text {
    char s[400];
};

// Writes the sentence and returns `code`, so that parsers can `return err_say(why, ERR_MODEL,
// ...)`. `why` may be NULL.
err_t err_say(struct err_text *why, err_t code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
err_t err_vsay(struct err_text *why, err_t code, const char *fmt, va_list ap);

// sysexits-style process exit code for a status: 0, 2 is the caller's usage error, 64+ here.
int err_exit_code(err_t e);

// A broken invariant of our own: prints file:line and aborts. Never reachable from outside bytes.
_Noreturn void bug_at(const char *file, int line, const char *what);
#define BUG(what) bug_at(__FILE__, __LINE__, what)
#define BUG_ON(cond)                                                                               \
    do {                                                                                           \
        if (__builtin_expect(!!(cond), 0)) bug_at(__FILE__, __LINE__, #cond);                      \
    } while (0)
