"""What a key may: so many requests at once, so many a minute, and administration."""
import hashlib
import json
import subprocess
import time

import kit
from kit import CHAT, NEVER, SLOW, USER, case, eq, within

HASHED = hashlib.sha256(b"sk-hashed").hexdigest()
KEYS = ("--key", "sk-root name=root admin", "--key", "sk-two name=two concurrency=2",
        "--key", "sk-slow name=slow rate=3/min", "--key", f"sha256:{HASHED} name=hashed",
        "--key", "sk-fast rate=6000/min")
MESSAGES = "/v1/messages"


def as_key(key):
    return {"Authorization": None, "x-api-key": key}


def limited(door, name):
    return door.metric(f'trireme_http_limited_total{{key="{name}"}}')


def running(door, key, **fields):
    body = json.dumps({"messages": USER, "ignore_eos": True, **fields}).encode()
    s = door.connect()
    s.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              f"x-api-key: {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return s


@case("C1_12_administration_needs_an_admin_key", *KEYS)
def _(door):
    for path in ("/metrics", "/v1/cluster"):
        eq(door.get(path, headers=as_key("sk-root")).status, 200)
        for key in ("sk-two", "sk-hashed"):
            door.get(path, headers=as_key(key)).refused(403, code="forbidden")
    drain = {"name": "anna"}
    door.post("/v1/cluster/drain", drain, headers=as_key("sk-two")).refused(403)
    eq(door.get("/v1/models", headers=as_key("sk-two")).status, 200)
    eq(door.get("/health", headers=as_key("sk-two")).status, 200)


@case("C1_11_hashed_key", *KEYS)
def _(door):
    body = {"messages": USER, "max_tokens": 1}
    eq(door.post(CHAT, body, headers=as_key("sk-hashed")).status, 200)
    door.post(CHAT, body, headers=as_key(HASHED)).refused(401)
    door.post(CHAT, body, headers=as_key("sha256:" + HASHED)).refused(401)


@case("C2_13_429_too_many_at_once", *KEYS)
def _(door):
    before = limited(door, "two")
    two = as_key("sk-two")
    body = {"messages": USER, "max_tokens": 1}
    held = [running(door, "sk-two", seed=NEVER, stream=True), running(door, "sk-two", seed=NEVER)]
    within(2, "both running", lambda: door.metric("mock_running") == 2)
    a = door.post(CHAT, body, headers=two).refused(429, code="rate_limit_exceeded")
    eq(a.headers["retry-after"], "1")
    a = door.post(MESSAGES, body, headers=two)
    eq((a.status, a.json["type"], a.json["error"]["type"], a.headers["retry-after"]),
       (429, "error", "rate_limit_error", "1"))
    eq(limited(door, "two") - before, 2)
    # Others, and paths that are no work, go on.
    eq(door.post(CHAT, body, headers=as_key("sk-hashed")).status, 200)
    for path in ("/health", "/livez", "/ping", "/v1/models"):
        eq(door.get(path, headers=two).status, 200, path)
    held[1].close()
    within(2, "one gone", lambda: door.metric("mock_running") == 1)
    within(2, "let in", lambda: door.post(CHAT, body, headers=two).status == 200)
    held[0].close()
    within(2, "gone", lambda: door.metric("mock_running") == 0)


@case("C2_13_429_places_come_back", "--key", "sk-root name=root admin", "--key", "k name=one concurrency=1")
def _(door):
    # One after the other never collides, however each ends.
    one = as_key("k")
    for i in range(40):
        for body in ({"max_tokens": 2}, {"max_tokens": 2, "stream": True}, {"max_tokens": "x"},
                     {"seed": kit.FAIL_LATER}, {"seed": kit.FAIL_FIRST, "stream": True},
                     {"seed": kit.BUSY}):
            a = door.post(CHAT, {"messages": USER, **body}, headers=one)
            assert a.status != 429 or body.get("seed") == kit.BUSY, (i, body, a.body)
    eq(door.post("/tokenize", {"prompt": "x"}, headers=one).status, 200)
    door.post(CHAT, b"{", headers=one).refused(400)
    door.post(CHAT, {"messages": USER}, headers={**one, "Content-Type": "text/plain"}).refused(415)
    door.post(CHAT, b"x" * 9000000, headers=one).refused(413)
    for seed in (NEVER, SLOW):
        s = running(door, "k", seed=seed, stream=True)
        within(2, "running", lambda: door.metric("mock_running") == 1)
        s.close()
        within(2, "gone", lambda: door.metric("mock_running") == 0)
    s = door.connect()  # leaves before its body is whole
    s.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              "x-api-key: k\r\nContent-Length: 100\r\n\r\n{".encode())
    time.sleep(0.05)
    door.post(CHAT, {"messages": USER}, headers=one).refused(429)
    s.close()
    within(2, "let in", lambda: door.post(CHAT, {"messages": USER}, headers=one).status == 200)
    eq(limited(door, "root"), 0)


@case("C2_13_429_too_many_a_minute", *KEYS)
def _(door):
    slow = as_key("sk-slow")
    body = {"messages": USER, "max_tokens": 1}
    for _ in range(20):  # count nothing
        eq(door.get("/health", headers=slow).status, 200)
        eq(door.get("/v1/models", headers=slow).status, 200)
    door.post("/v1/chat/nothing", body, headers=slow).refused(404)
    door.get(CHAT, headers=slow).refused(405)
    for _ in range(3):
        eq(door.post(CHAT, body, headers=slow).status, 200)
    for _ in range(3):
        a = door.post(CHAT, body, headers=slow).refused(429, code="rate_limit_exceeded")
        assert 10 <= int(a.headers["retry-after"]) <= 20, a.headers
    eq(limited(door, "slow"), 3)
    eq(limited(door, "key-5"), 0)
    eq(door.get("/health", headers=slow).status, 200)


@case("C2_13_429_advice_holds", "--key", "sk-root name=root admin", "--key", "sk-fast name=fast rate=120/min")
def _(door):
    body = {"messages": USER, "max_tokens": 1}

    def ask():
        return door.post(CHAT, body, headers=as_key("sk-fast"))
    refused = None
    for _ in range(1000):
        a = ask()
        if a.status == 429:
            refused = a
            break
    eq(refused.headers["retry-after"], "1")
    time.sleep(1)
    eq(ask().status, 200)


@case("S01_keys_never_in_errors")
def _(door):
    for line in ("sk-secret nmae=x", "sk-secret rate=5", "sha256:12secret", "sk-secret concurrency=0"):
        p = subprocess.run([kit.program, "--vocab", kit.VOCAB, "--key", line], capture_output=True,
                           timeout=10)
        text = p.stderr.decode()
        eq(p.returncode, 78, text)
        assert "API key number 1" in text and "secret" not in text, text
