// The header gate on sections parsed in place, as libmicrohttpd 0.9.75 leaves them.
#include "coordinator/door/gate.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

struct parsed {
    char raw[2048];
    struct gate_header h[16];
    struct gate_request q;
};

// Cuts a well-formed-looking section into pieces the way the library does: line ends (also bare
// LF), the colon and the request line's spaces become NULs; values start behind white space.
static void parse(const char *section, size_t len, struct parsed *p)
{
    assert_true(len < sizeof p->raw);
    memcpy(p->raw, section, len);
    memset(&p->q, 0, sizeof p->q);
    char *at = p->raw, *end = p->raw + len;
    for (int line = 0; at < end; line++) {
        char *nl = memchr(at, '\n', (size_t)(end - at));
        assert_non_null(nl);
        char *next = nl + 1;
        *nl = 0;
        if (nl > at && nl[-1] == '\r') nl[-1] = 0;
        if (line == 0) {
            char *sp = strchr(at, ' '), *last = strrchr(at, ' ');
            *sp = *last = 0;
            p->q.method = at;
            sp += 1 + strspn(sp + 1, " ");
            p->q.uri = sp;
            p->q.uri_len = strlen(sp);
            p->q.version = last + 1;
        } else if (*at) {
            char *colon = strchr(at, ':');
            assert_non_null(colon);
            *colon = 0;
            char *value = colon + 1 + strspn(colon + 1, " \t");
            p->h[p->q.n++] = (struct gate_header){
                .name = at, .name_len = strlen(at), .value = value, .value_len = strlen(value)};
        }
        at = next;
    }
    p->q.headers = p->h;
    p->q.section_bytes = len;
}

static int status_of(const char *section, size_t len)
{
    struct parsed p;
    struct gate_facts f;
    struct refusal no = {0};
    parse(section, len, &p);
    return gate_check(&p.q, &f, &no) == OK ? 200 : no.status;
}
#define STATUS(s) status_of(s, sizeof s - 1)

static void well_formed(void **state)
{
    (void)state;
    assert_int_equal(STATUS("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
    assert_int_equal(STATUS("GET /x?y HTTP/1.0\r\n\r\n"), 200);
    assert_int_equal(STATUS("GET / HTTP/1.1\r\nHost:a\r\nX:\r\nY: \t b c \r\n\r\n"), 200);
}

static void layout(void **state)
{
    (void)state;
    assert_int_equal(STATUS("GET / HTTP/1.1\nHost: a\r\n\r\n"), 400);
    assert_int_equal(STATUS("GET / HTTP/1.1\r\nHost: a\n\r\n"), 400);
    assert_int_equal(STATUS("GET / HTTP/1.1\r\nHost: a\r\n\n"), 400);
    assert_int_equal(STATUS("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n"), 400);
    assert_int_equal(STATUS("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
}

static void folded(void **state)
{
    (void)state;
    struct parsed p;
    struct gate_facts f;
    struct refusal no = {0};
    static const char s[] = "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\nc: d\r\n\r\n";
    parse(s, sizeof s - 1, &p);
    assert_int_equal(gate_check(&p.q, &f, &no), OK);
    // The library moves the name of a folded field and appends the second line to it.
    static const char moved[] = "Xc";
    p.h[1].name = moved;
    p.h[1].name_len = 2;
    p.h[2] = p.h[1];
    p.q.n = 2;
    assert_int_equal(gate_check(&p.q, &f, &no), ERR_INVALID);
}

static void smuggling(void **state)
{
    (void)state;
    assert_int_equal(STATUS("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                            "Content-Length: 1\r\n\r\n"),
                     400);
    assert_int_equal(STATUS("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                            "Transfer-Encoding: chunked\r\n\r\n"),
                     400);
    assert_int_equal(STATUS("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"), 400);
    assert_int_equal(STATUS("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    assert_int_equal(STATUS("POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\n"), 400);
    assert_int_equal(STATUS("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 \r\n\r\n"), 400);
    assert_int_equal(STATUS("POST / HTTP/1.1\r\n\r\n"), 400);
    assert_int_equal(STATUS("POST / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"), 400);
    assert_int_equal(STATUS("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
    assert_int_equal(STATUS("POST / HTTP/1.3\r\nHost: a\r\n\r\n"), 505);
}

static void facts(void **state)
{
    (void)state;
    struct parsed p;
    struct gate_facts f;
    struct refusal no = {0};
    static const char s[] = "POST / HTTP/1.1\r\nHost: a:1\r\nCONTENT-LENGTH: 12\r\n"
                            "Content-Type: x/y\r\nAuthorization: Bearer k\r\nx-api-key: l\r\n"
                            "X-API-KEY: m\r\nOrigin: http://o\r\n\r\n";
    parse(s, sizeof s - 1, &p);
    assert_int_equal(gate_check(&p.q, &f, &no), OK);
    assert_string_equal(f.host, "a:1");
    assert_int_equal(f.body_bytes, 12);
    assert_string_equal(f.content_type, "x/y");
    assert_string_equal(f.authorization, "Bearer k");
    assert_string_equal(f.origin, "http://o");
    assert_true(f.twice);
    static const char c[] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
    parse(c, sizeof c - 1, &p);
    assert_int_equal(gate_check(&p.q, &f, &no), OK);
    assert_int_equal(f.body_bytes, GATE_CHUNKED);
}

static void paths(void **state)
{
    (void)state;
    static const struct {
        const char *uri, *path; // NULL: refused
    } rows[] = {
        {"/", "/"},
        {"/a/b?c=/../", "/a/b"},
        {"/%61%2Fb", "/a/b"},
        {"/a..b", "/a..b"},
        {"/...", "/..."},
        {"/a//b", "/a//b"},
        {"", NULL},
        {"a", NULL},
        {"*", NULL},
        {"http://x/", NULL},
        {"/..", NULL},
        {"/.", NULL},
        {"/a/./b", NULL},
        {"/a/../b", NULL},
        {"/a/%2e%2E/b", NULL},
        {"/a%2f..", NULL},
        {"/%00", NULL},
        {"/%0a", NULL},
        {"/%7f", NULL},
        {"/%", NULL},
        {"/%1", NULL},
        {"/%g1", NULL},
        {"/a b", NULL},
        {"/a\\b", NULL},
        {"/%5c", NULL},
        {"/a#b", NULL},
        {"/\xc3\xa9", NULL},
        {"/%c3%a9", "/\xc3\xa9"},
    };
    char out[GATE_URI_MAX + 1];
    struct refusal no;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        err_t err = gate_path(rows[i].uri, strlen(rows[i].uri), out, &no);
        if ((err == OK) != (rows[i].path != NULL)) fail_msg("%s", rows[i].uri);
        if (rows[i].path) assert_string_equal(out, rows[i].path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(well_formed), cmocka_unit_test(layout), cmocka_unit_test(folded),
        cmocka_unit_test(smuggling),   cmocka_unit_test(facts),  cmocka_unit_test(paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
