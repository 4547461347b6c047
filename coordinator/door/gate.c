#include "coordinator/door/gate.h"

#include <string.h>
#include <strings.h>

static bool is_token(unsigned char c)
{
    if (c >= '0' && c <= '9') return true;
    if ((c | 32) >= 'a' && (c | 32) <= 'z') return true;
    return c && strchr("!#$%&'*+-.^_`|~", c);
}

static bool names(const struct gate_header *h, const char *name)
{
    return h->name_len == strlen(name) && strncasecmp(h->name, name, h->name_len) == 0;
}

// RFC 9110, section 5.5: visible bytes, space, tab and bytes above 0x7f.
static bool value_ok(const struct gate_header *h)
{
    for (size_t i = 0; i < h->value_len; i++) {
        unsigned char c = (unsigned char)h->value[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) return false;
    }
    return true;
}

// True when the header section holds nothing but what `q` shows.
static bool layout_ok(const struct gate_request *q)
{
    const char *at = q->method + strlen(q->method) + 1;
    if (at != q->uri) return false;
    at += q->uri_len + 1;
    if (at != q->version) return false;
    at += strlen(q->version) + 2;
    for (size_t i = 0; i < q->n; i++) {
        const struct gate_header *h = &q->headers[i];
        if (h->name != at) return false;
        const char *value = at + h->name_len + 1; // behind the colon
        // A folded field's name was moved elsewhere and its value lies before it; a plain value
        // is reached over nothing but white space.
        if (h->value < value || (size_t)(h->value - value) > GATE_HEADER_BYTES_MAX) return false;
        for (; value < h->value; value++)
            if (*value != ' ' && *value != '\t') return false;
        at = h->value + h->value_len + 2;
    }
    return at + 2 == q->method + q->section_bytes;
}

static err_t read_length(const struct gate_header *h, int64_t *out, struct refusal *no)
{
    int64_t v = 0;
    // 18 digits always fit.
    bool ok = h->value_len >= 1 && h->value_len <= 18;
    for (size_t i = 0; ok && i < h->value_len; i++) {
        ok = h->value[i] >= '0' && h->value[i] <= '9';
        v = v * 10 + (h->value[i] - '0');
    }
    if (!ok) return refusal_set(no, 400, "bad_request", "Content-Length is not a number");
    *out = v;
    return OK;
}

struct counts {
    int host, length, coding, authorization, api_key;
};

static err_t take_header(const struct gate_header *h, struct counts *n, struct gate_facts *f,
                         struct refusal *no)
{
    if (h->name_len == 0) return refusal_set(no, 400, "bad_request", "a header has no name");
    for (size_t i = 0; i < h->name_len; i++)
        if (!is_token((unsigned char)h->name[i]))
            return refusal_set(no, 400, "bad_request", "a header name holds the byte 0x%02x",
                               (unsigned char)h->name[i]);
    if (!value_ok(h))
        return refusal_set(no, 400, "bad_request", "header '%.*s' holds a control byte",
                           (int)(h->name_len > 64 ? 64 : h->name_len), h->name);
    if (names(h, "Content-Length")) {
        if (n->length++) return refusal_set(no, 400, "bad_request", "more than one Content-Length");
        return read_length(h, &f->body_bytes, no);
    }
    if (names(h, "Transfer-Encoding")) {
        if (n->coding++ || h->value_len != 7 || strncasecmp(h->value, "chunked", 7) != 0)
            return refusal_set(no, 400, "bad_request", "Transfer-Encoding must be 'chunked'");
    } else if (names(h, "Host")) {
        if (n->host++) return refusal_set(no, 400, "bad_request", "more than one Host");
        f->host = h->value;
    } else if (names(h, "Authorization")) {
        f->twice |= n->authorization++ > 0;
        f->authorization = h->value;
    } else if (names(h, "x-api-key")) {
        f->twice |= n->api_key++ > 0;
        f->api_key = h->value;
    } else if (names(h, "Content-Type")) {
        f->content_type = h->value;
    } else if (names(h, "Origin")) {
        f->origin = h->value;
    } else if (names(h, "Content-Encoding")) {
        f->encoded = strcasecmp(h->value, "identity") != 0;
    } else if (names(h, "Expect") && strcasecmp(h->value, "100-continue") != 0) {
        return refusal_set(no, 417, "bad_request", "Expect must be '100-continue'");
    }
    return OK;
}

static err_t check_line(const struct gate_request *q, struct refusal *no)
{
    for (const char *m = q->method; *m; m++)
        if (!is_token((unsigned char)*m))
            return refusal_set(no, 400, "bad_request", "the method holds the byte 0x%02x",
                               (unsigned char)*m);
    if (strcmp(q->method, "CONNECT") == 0 || strcmp(q->method, "TRACE") == 0)
        return refusal_set(no, 405, "method_not_allowed", "%s is not allowed", q->method);
    if (strcmp(q->version, "HTTP/1.1") != 0 && strcmp(q->version, "HTTP/1.0") != 0)
        return refusal_set(no, 505, "bad_request", "only HTTP/1.1 and HTTP/1.0 are spoken here");
    if (q->uri_len > GATE_URI_MAX)
        return refusal_set(no, 414, "bad_request", "the URI is longer than %d bytes", GATE_URI_MAX);
    return OK;
}

static err_t check_size(const struct gate_request *q, struct refusal *no)
{
    size_t bytes = 0;
    for (size_t i = 0; i < q->n && i < GATE_HEADERS_MAX; i++)
        bytes += q->headers[i].name_len + q->headers[i].value_len + 4;
    if (q->n > GATE_HEADERS_MAX || bytes > GATE_HEADER_BYTES_MAX)
        return refusal_set(no, 431, "bad_request", "more than %d headers or %d bytes of them",
                           GATE_HEADERS_MAX, GATE_HEADER_BYTES_MAX);
    return OK;
}

err_t gate_check(const struct gate_request *q, struct gate_facts *out, struct refusal *no)
{
    err_t err = check_line(q, no);
    if (!err) err = check_size(q, no);
    if (err) return err;
    struct gate_facts f = {0};
    struct counts n = {0};
    for (size_t i = 0; i < q->n; i++) {
        err = take_header(&q->headers[i], &n, &f, no);
        if (err) return err;
    }
    if (q->section_bytes && !layout_ok(q))
        return refusal_set(no, 400, "bad_request",
                           "lines must end in CRLF, hold no NUL and not be folded");
    bool old = strcmp(q->version, "HTTP/1.0") == 0;
    if (n.coding && (n.length || old))
        return refusal_set(no, 400, "bad_request", "Transfer-Encoding %s",
                           old ? "needs HTTP/1.1" : "and Content-Length exclude each other");
    if (n.host == 0 && !old)
        return refusal_set(no, 400, "bad_request", "HTTP/1.1 needs a Host header");
    if (n.coding) f.body_bytes = GATE_CHUNKED;
    *out = f;
    return OK;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool has_dot_segment(const char *path)
{
    for (const char *s = path; s; s = strchr(s, '/')) {
        s += *s == '/';
        size_t len = strcspn(s, "/");
        if ((len == 1 && s[0] == '.') || (len == 2 && s[0] == '.' && s[1] == '.')) return true;
        if (!s[len]) break;
        s += len;
    }
    return false;
}

err_t gate_path(const char *uri, size_t len, char *out, struct refusal *no)
{
    if (len > GATE_URI_MAX)
        return refusal_set(no, 414, "bad_request", "the URI is longer than %d bytes", GATE_URI_MAX);
    if (len == 0 || uri[0] != '/')
        return refusal_set(no, 400, "bad_request", "the request target must be a path");
    size_t n = 0;
    for (size_t i = 0; i < len && uri[i] != '?'; i++) {
        unsigned char c = (unsigned char)uri[i];
        if (c == '%') {
            int hi = i + 1 < len ? hex(uri[i + 1]) : -1, lo = i + 2 < len ? hex(uri[i + 2]) : -1;
            if (hi < 0 || lo < 0)
                return refusal_set(no, 400, "bad_request", "the path holds a broken escape");
            c = (unsigned char)(hi * 16 + lo);
            i += 2;
        } else if (c <= 0x20 || c >= 0x7f) {
            return refusal_set(no, 400, "bad_request", "the path holds the byte 0x%02x", c);
        }
        if (c < 0x20 || c == 0x7f || c == '\\' || c == '#')
            return refusal_set(no, 400, "bad_request", "the path holds the byte 0x%02x", c);
        out[n++] = (char)c;
    }
    out[n] = 0;
    if (has_dot_segment(out))
        return refusal_set(no, 400, "bad_request", "the path holds a '.' or '..' segment");
    return OK;
}
