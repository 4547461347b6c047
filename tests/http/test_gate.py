"""H12, H13, H15, H16, H17: what a request may look like on the wire."""
import json

from kit import CHAT, case, eq

BODY = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
NEXT = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(headers, body=BODY, line=b"POST " + CHAT.encode() + b" HTTP/1.1"):
    return line + b"\r\n" + b"".join(h + b"\r\n" for h in headers) + b"\r\n" + body


HOST = b"Host: localhost"
TYPE = b"Content-Type: application/json"
LENGTH = b"Content-Length: %d" % len(BODY)

# Each is followed by a pipelined request that must not be answered.
SMUGGLING = [
    ("two_content_length_same", post([HOST, TYPE, LENGTH, LENGTH])),
    ("two_content_length_different", post([HOST, TYPE, LENGTH, b"Content-Length: 3"])),
    ("length_and_chunked", post([HOST, TYPE, LENGTH, b"Transfer-Encoding: chunked"],
                                b"0\r\n\r\n")),
    ("xchunked", post([HOST, TYPE, b"Transfer-Encoding: xchunked"])),
    ("chunked_identity", post([HOST, TYPE, b"Transfer-Encoding: chunked, identity"])),
    ("chunked_twice", post([HOST, TYPE, b"Transfer-Encoding: chunked",
                            b"Transfer-Encoding: chunked"], b"0\r\n\r\n")),
    ("chunked_http_1_0", post([HOST, TYPE, b"Transfer-Encoding: chunked"], b"0\r\n\r\n",
                              b"POST /v1/chat/completions HTTP/1.0")),
    ("space_before_colon", post([HOST, TYPE, b"Content-Length : %d" % len(BODY)])),
    ("length_plus", post([HOST, TYPE, b"Content-Length: +5"])),
    ("length_hex", post([HOST, TYPE, b"Content-Length: 0x5"])),
    ("length_list", post([HOST, TYPE, b"Content-Length: 5,5"])),
    ("length_negative", post([HOST, TYPE, b"Content-Length: -1"])),
    ("length_empty", post([HOST, TYPE, b"Content-Length:"])),
    ("length_2_64", post([HOST, TYPE, b"Content-Length: 18446744073709551616"])),
    ("length_2_63", post([HOST, TYPE, b"Content-Length: 9223372036854775808"])),
    ("folded_length", post([HOST, TYPE, b"Content-Length: %d\r\n x" % len(BODY)])),
    ("folded_length_into_token", post([HOST, TYPE, b"Content-Length: 4\r\n e"])),
    ("bare_lf_before_length", post([HOST, TYPE, b"X: y\nContent-Length: %d" % len(BODY)])),
    ("nul_hides_length", post([HOST, TYPE, b"X: y\0\r\nContent-Length: 5"])),
]

CHUNKS = [
    ("negative", b"-5\r\nhello\r\n0\r\n\r\n"),
    ("hex_prefix", b"0x3\r\nabc\r\n0\r\n\r\n"),
    ("overflow", b"10000000000000000\r\nabc\r\n0\r\n\r\n"),
    ("no_crlf_after_data", b"3\r\nabcX0\r\n\r\n"),
    ("not_hex", b"zz\r\nabc\r\n0\r\n\r\n"),
    ("extension_1MB", b"3;" + b"e" * (1 << 20) + b"\r\nabc\r\n0\r\n\r\n"),
]

for _name, _data in SMUGGLING:
    def _run(door, data=_data):
        answers, closed = door.raw(data + NEXT)
        eq(len(answers), 1, "answers")
        assert closed, "connection stays open"
        eq(answers[0].headers.get("connection", "").lower(), "close", "connection")
        answers[0].refused(400)
    case("H15_smuggling_" + _name)(_run)

for _name, _chunks in CHUNKS:
    def _run(door, chunks=_chunks):
        data = post([HOST, TYPE, b"Transfer-Encoding: chunked"], chunks)
        answers, closed = door.raw(data + NEXT)
        assert closed, "connection stays open"
        eq(len([a for a in answers if a.status == 200]), 0, "answered the next request")
        assert len(answers) <= 1, "more than one answer"
    case("H15_chunk_" + _name)(_run)


@case("H15_chunk_size_beyond_the_end")
def _(door):
    # A body that is never whole: what follows is part of it. The deadline for bodies ends it.
    data = post([HOST, TYPE, b"Transfer-Encoding: chunked"], b"FFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n")
    answers, _ = door.raw(data + b"\r\n" + NEXT, timeout=1)
    eq(answers, [], "answers")


@case("H15_chunked_well_formed")
def _(door):
    half = len(BODY) // 2
    body = b"%x;ext=1\r\n%s\r\n%X\r\n%s\r\n0\r\nTrailer: yes\r\n\r\n" % (
        half, BODY[:half], len(BODY) - half, BODY[half:])
    data = post([HOST, TYPE, b"Transfer-Encoding: chunked"], body)
    answers, _ = door.raw(data + NEXT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    eq([a.status for a in answers], [200, 200])


HEADERS = [
    ("no_host", [TYPE, LENGTH], 400),
    ("two_hosts", [HOST, HOST, TYPE, LENGTH], 400),
    ("name_with_space", [HOST, b"X Y: z", TYPE, LENGTH], 400),
    ("name_with_paren", [HOST, b"X(Y: z", TYPE, LENGTH], 400),
    ("name_with_high_byte", [HOST, b"X\xe9: z", TYPE, LENGTH], 400),
    ("name_with_control", [HOST, b"X\x01: z", TYPE, LENGTH], 400),
    ("empty_name", [HOST, b": z", TYPE, LENGTH], 400),
    ("value_with_control", [HOST, b"X: a\x01b", TYPE, LENGTH], 400),
    ("value_with_del", [HOST, b"X: a\x7fb", TYPE, LENGTH], 400),
    ("value_with_nul", [HOST, b"X: a\0b", TYPE, LENGTH], 400),
    ("value_with_bare_cr", [HOST, b"X: a\rb", TYPE, LENGTH], 400),
    ("bare_lf", [HOST, b"X: a\nY: b", TYPE, LENGTH], 400),
    ("obs_fold_space", [HOST, b"X: a\r\n b", TYPE, LENGTH], 400),
    ("obs_fold_tab", [HOST, b"X: a\r\n\tb", TYPE, LENGTH], 400),
    ("obs_fold_first_line", [b" X: a", HOST, TYPE, LENGTH], 400),
    ("empty_host", [b"Host:", TYPE, LENGTH], 403),
    ("bad_expect", [HOST, b"Expect: the-unexpected", TYPE, LENGTH], 417),
    ("count_101", [HOST, TYPE, LENGTH] + [b"X-%d: y" % i for i in range(98)], 431),
    ("bytes_33k", [HOST, TYPE, LENGTH, b"X: " + b"y" * 33000], 431),
    ("gzip", [HOST, TYPE, LENGTH, b"Content-Encoding: gzip"], 415),
]

for _name, _headers, _status in HEADERS:
    def _run(door, headers=_headers, status=_status):
        answers, closed = door.raw(post(headers) + NEXT)
        eq(len(answers), 1, "answers")
        assert closed, "connection stays open"
        answers[0].refused(status)
    case("H16_header_" + _name)(_run)


@case("H16_lines_that_are_fine")
def _(door):
    # White space around values, an empty value, high bytes, many headers, upper case.
    headers = [b"HOST:localhost", b"content-TYPE: \t application/json; charset=utf-8", LENGTH,
               b"X-Empty:", b"X-Latin: caf\xe9", b"X-Tab: a\tb", b"Connection: close"]
    answers, _ = door.raw(post(headers + [b"X-%d: y" % i for i in range(90)]))
    eq([a.status for a in answers], [200])


@case("H16_byte_by_byte")
def _(door):
    s = door.connect()
    for b in post([HOST, TYPE, LENGTH, b"Cookie: a=b; c=d", b"Connection: close"]):
        s.send(bytes([b]))
    data = b""
    while part := s.recv(65536):
        data += part
    s.close()
    assert data.startswith(b"HTTP/1.1 200 "), data[:100]


@case("H16_large_but_allowed")
def _(door):
    headers = [HOST, TYPE, LENGTH, b"Connection: close"] + [b"X-%d: " % i + b"y" * 1000
                                                            for i in range(28)]
    answers, _ = door.raw(post(headers))
    eq([a.status for a in answers], [200])


LINES = [
    ("http_0_9", b"GET /livez\r\n\r\n", (400, 505)),
    ("http_2_0", b"GET /livez HTTP/2.0\r\nHost: localhost\r\n\r\n", (400, 505)),
    ("http_9_9", b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n", (400, 505)),
    ("http_1_2", b"GET /livez HTTP/1.2\r\nHost: localhost\r\n\r\n", (400, 505)),
    ("http2_preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    ("lower_case_version", b"GET /livez http/1.1\r\nHost: localhost\r\n\r\n", (400, 505)),
    ("double_space", b"GET  /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)),
    ("tab", b"GET\t/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, 505)),
    ("space_in_path", b"GET /li vez HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)),
    ("trailing_space", b"GET /livez HTTP/1.1 \r\nHost: localhost\r\n\r\n", (400,)),
    ("bad_method", b"G@T /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)),
    ("nul_in_name", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX\0Y: z\r\n\r\n", (400,)),
    ("no_colon", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nnothing\r\n\r\n", (400,)),
    ("header_64k", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 65536 + b"\r\n\r\n",
     (431, 413)),
    ("headers_10000", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 10000
     + b"\r\n", (431, 413)),
    ("tls_hello", bytes.fromhex("16030100c8010000c40303") + b"\x5a" * 200 + b"\r\n\r\n", (400,)),
]

for _name, _data, _statuses in LINES:
    def _run(door, name=_name, data=_data, statuses=_statuses):
        answers, closed = door.raw(data, timeout=2, shut=name == "tls_hello")
        assert closed, "still open after 2 s"
        assert len(answers) <= 1, "more than one answer"
        if answers:
            assert answers[0].status in statuses, answers[0].status
    case("H17_line_" + _name)(_run)


@case("H17_random_bytes")
def _(door):
    import random
    r = random.Random(7)
    for _ in range(100):
        answers, closed = door.raw(r.randbytes(r.randrange(1, 3000)) + b"\r\n\r\n\r\n\r\n", 2,
                                   shut=True)
        assert closed, "still open"
        assert all(a.status >= 400 for a in answers), [a.status for a in answers]


@case("H17_http_1_0_works")
def _(door):
    answers, closed = door.raw(b"GET /livez HTTP/1.0\r\n\r\n")
    eq([a.status for a in answers], [200])
    assert closed
    line = b"POST /v1/chat/completions HTTP/1.0"
    body = BODY.replace(b"}]", b"}], \"stream\": true")
    answers, closed = door.raw(post([HOST, TYPE, b"Content-Length: %d" % len(body)], body, line))
    eq(answers[0].status, 200)
    assert answers[0].body.endswith(b"data: [DONE]\n\n"), answers[0].body[-50:]


PATHS = [
    ("/v1/models/../../etc/passwd", 400), ("/v1/models/..", 400), ("/../livez", 400),
    ("/v1/models/%2e%2e%2fx", 400), ("/v1/models/%2E./x", 400), ("/./livez", 400),
    ("/livez%00", 400), ("/livez%0d%0aX:y", 400), ("/livez%", 400), ("/livez%4", 400),
    ("/livez%zz", 400), ("/v1\\models", 400), ("/v1/models/a\\b", 400), ("/livez#x", 400),
    ("/v1//chat/completions", 404), ("//livez", 404), ("/livez/", 404), ("/LIVEZ", 404),
    ("/livez;x", 404), ("/v1/models/;x", 404), ("/v1", 404), ("/index.html", 404),
    ("http://localhost/livez", 400), ("*", 400), ("livez", 400), ("?x", 400),
    ("/" + "a" * 9000, 414), ("/livez?" + "a" * 9000, 414),
]

for _path, _status in PATHS:
    def _run(door, path=_path, status=_status):
        door.get(path).refused(status)
    case("H12_path_" + _path[:30])(_run)


@case("H12_paths_that_are_fine")
def _(door):
    for path in ("/livez?x=1&y=%00", "/%6civez", "/livez?"):
        eq(door.get(path).status, 200, path)


@case("H12_connect_and_trace")
def _(door):
    for data in (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 b"TRACE /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        answers, closed = door.raw(data + NEXT)
        eq(len(answers), 1, "answers")
        assert closed
        assert answers[0].status in (400, 405)
        answers[0].refused(answers[0].status)


@case("H13_wrong_method")
def _(door):
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"):
        a = door.request(method, CHAT)
        eq(a.status, 405, method)
        eq(a.headers["allow"], "POST")
        if method != "HEAD":
            a.refused(405)
    for path in ("/livez", "/v1/models", "/v1/models/x", "/metrics", "/"):
        a = door.post(path, {}).refused(405)
        eq(a.headers["allow"], "GET, HEAD")


@case("H13_head")
def _(door):
    for path in ("/", "/livez", "/health", "/v1/models"):
        a = door.request("HEAD", path)
        eq(a.status, 200, path)
        eq(int(a.headers["content-length"]), len(door.get(path).body), path)


@case("H13_get_with_body")
def _(door):
    for path in ("/livez", "/v1/models"):
        answers, closed = door.raw(
            b"GET %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
            % (path.encode(), len(NEXT), NEXT))
        eq(len(answers), 1)
        answers[0].refused(400)
        assert closed
