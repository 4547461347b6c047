"""H01-H04, H14: bodies that are no JSON, too large, too deep, not UTF-8, or of another type."""
import json
import time

from kit import CHAT, COMPLETIONS, USER, case, eq

GOOD = json.dumps({"messages": USER, "max_tokens": 1})

NOT_JSON = {
    "empty": b"", "space": b" \n", "truncated": GOOD.encode()[:-3], "garbage_behind":
    GOOD.encode() + b"x", "two_documents": GOOD.encode() * 2, "bom": b"\xef\xbb\xbf" + GOOD.encode(),
    "utf16": GOOD.encode("utf-16"), "utf16le": GOOD.encode("utf-16-le"),
    "comment": b"/* hi */" + GOOD.encode(), "line_comment": b"// hi\n" + GOOD.encode(),
    "nan": b'{"temperature": NaN}', "infinity": b'{"temperature": Infinity}',
    "minus_infinity": b'{"temperature": -Infinity}', "overflow": b'{"temperature": 1e999}',
    "single_quotes": b"{'n': 1}", "trailing_comma": b'{"n": 1,}', "bare_word": b"hello",
    "leading_zero": b'{"n": 01}', "hex": b'{"n": 0x1}', "plus": b'{"n": +1}',
    "control_in_string": b'{"model": "a\nb"}', "bad_escape": b'{"model": "\\x41"}',
    "big_integer": b'{"max_tokens": 18446744073709551616}',
}
for _name, _body in NOT_JSON.items():
    def _run(door, body=_body):
        a = door.post(CHAT, body).refused(400, code="invalid_json", param=None)
        assert "byte" in a.error["message"], a.error
    if _name in ("utf16", "utf16le"):
        def _run(door, body=_body):
            door.post(CHAT, body).refused(400)
    case("H01_" + _name)(_run)

for _name, _body in {"array": b"[]", "string": b'"x"', "number": b"1", "null": b"null",
                     "true": b"true"}.items():
    def _run(door, body=_body):
        door.post(CHAT, body).refused(400)
        door.post(COMPLETIONS, body).refused(400)
    case("H01_not_an_object_" + _name)(_run)

LARGE = {
    "arrays_100k": (b"[" * 100000, "json_too_deep"),
    "objects_100k": (b'{"a":' * 100000, "json_too_deep"),
    "depth_65": (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "json_too_deep"),
    "keys_10k": (b"{" + b",".join(b'"k%d":1' % i for i in range(10000)) + b"}", "json_too_large"),
    "values_1100k": (b'{"a":[' + b"1," * 1100000 + b"1]}", "json_too_large"),
    "number_5MB": (b'{"n":' + b"1" * 5000000 + b"}", None),
    "duplicate": (b'{"n":1,"n":9999}', "duplicate_key"),
    "duplicate_inside": (b'{"messages":[{"role":"user","role":"system","content":"x"}]}',
                         "duplicate_key"),
}
for _name, (_body, _code) in LARGE.items():
    def _run(door, body=_body, code=_code):
        start = time.monotonic()
        a = door.post(CHAT, body).refused(400)
        if code:
            eq(a.error["code"], code)
        assert time.monotonic() - start < 1.0, "slow"
    case("H02_" + _name)(_run)


@case("H02_depth_64_is_fine")
def _(door):
    body = b'{"unknown":' + b"[" * 63 + b"]" * 63 + b"," + GOOD.encode()[1:]
    eq(door.post(CHAT, body).status, 200)


@case("H02_key_of_7MB")
def _(door):
    eq(door.post(CHAT, b'{"' + b"k" * 7000000 + b'":1,' + GOOD.encode()[1:]).status, 200)


MIB = 1 << 20


@case("H03_content_length_too_large")
def _(door):
    # Refused from the header alone: not a byte of the body is sent.
    data = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {8 * MIB + 1}\r\n\r\n").encode()
    answers, closed = door.raw(data, timeout=2)
    eq(len(answers), 1)
    answers[0].refused(413, code="request_too_large")
    assert closed


@case("H03_expect_continue")
def _(door):
    head = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Expect: 100-continue\r\nContent-Length: %d\r\n\r\n")
    answers, closed = door.raw((head % (9 * MIB)).encode(), timeout=2)
    eq([a.status for a in answers], [413])
    assert closed
    s = door.connect()
    s.sendall((head % len(GOOD)).encode())
    eq(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
    s.sendall(GOOD.encode())
    assert s.recv(100).startswith(b"HTTP/1.1 200 "), "no answer after 100"
    s.close()


@case("H03_sender_reads_the_413")
def _(door):
    # A caller that sends all of it before it reads must still find the answer.
    a = door.post(CHAT, b" " * (12 * MIB))
    assert a is not None, "the connection was reset under the answer"
    a.refused(413)


@case("H03_chunked_too_large")
def _(door):
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    data = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n").encode() + chunk * 140 + b"0\r\n\r\n"
    answers, closed = door.raw(data)
    eq([a.status for a in answers], [413])
    answers[0].refused(413, code="request_too_large")
    assert closed


@case("H03_just_below_the_limit")
def _(door):
    body = GOOD.encode()
    eq(door.post(CHAT, b" " * (8 * MIB - len(body)) + body).status, 200)


@case("H03_lying_content_length")
def _(door):
    head = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Content-Length: %d\r\n\r\n")
    # Too short: the rest is another (bad) request. Too long: nothing happens until the deadline.
    answers, closed = door.raw((head % (len(GOOD) - 5) + GOOD + "\r\n\r\n").encode(), timeout=2)
    answers[0].refused(400, code="invalid_json")
    answers, closed = door.raw((head % (len(GOOD) + 5) + GOOD).encode(), timeout=0.5)
    eq(answers, [])


BAD_UTF8 = {"lone_byte": b"\xff", "cut_off": b"\xe2\x82", "overlong": b"\xc0\xaf",
            "surrogate": b"\xed\xa0\x80", "too_high": b"\xf4\x90\x80\x80", "nul": b"\\u0000",
            "lone_high": b"\\ud800", "lone_low": b"\\udc00", "reversed": b"\\udc00\\ud800"}
for _name, _bytes in BAD_UTF8.items():
    def _run(door, b=_bytes):
        for body in (b'{"messages":[{"role":"user","content":"a%sb"}]}', b'{"model":"a%sb"}',
                     b'{"stop":["a%sb"]}', b'{"a%sb":1}'):
            a = door.post(CHAT, body % b).refused(400)
            assert a.error["code"] in ("invalid_utf8", "invalid_json"), a.error
    case("H04_" + _name)(_run)


@case("H04_valid_but_odd")
def _(door):
    for s in ("\u2028\u2029", "\ufffd\ufffe", "\U0010ffff", "\u202e", "\x7f", "e\u0301" * 100):
        a = door.chat(messages=[{"role": "user", "content": s}], max_tokens=1)
        eq(a.status, 200, repr(s))


for _name, _type, _status in [
        ("text", "text/plain", 415), ("form", "application/x-www-form-urlencoded", 415),
        ("multipart", "multipart/form-data; boundary=x", 415), ("missing", None, 415),
        ("latin1", "application/json; charset=latin1", 415), ("empty", "", 415),
        ("jsonp", "application/jsonp", 415), ("other_parameter", "application/json; x=y", 415),
        ("plain", "application/json", 200), ("utf8", "application/json; charset=utf-8", 200),
        ("upper", "Application/JSON;charset=UTF-8", 200),
        ("quoted", 'application/json; charset="utf-8"', 200)]:
    def _run(door, kind=_type, status=_status):
        for path in (CHAT, COMPLETIONS):
            body = GOOD[:-1] + ', "prompt": "x"}'
            a = door.request("POST", path, body.encode(), headers={"Content-Type": kind})
            eq(a.status, status, kind)
            if status == 415:
                a.refused(415)
    case("H14_" + _name)(_run)
