"""C.5.41, C.5.42, C.8: models, health, metrics; H30: many requests; H31: long prompts; draining."""
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import kit
from kit import CHAT, SLOW, USER, case, eq, events, text_of, within


@case("C5_41_models", "--alias", "claude-mock", "--alias", "org/with/slashes")
def _(door):
    j = door.get("/v1/models?limit=1000").json
    eq(j["object"], "list")
    eq([m["id"] for m in j["data"]], ["mock/tiny-1", "claude-mock", "org/with/slashes"])
    eq((j["has_more"], j["first_id"], j["last_id"]), (False, "mock/tiny-1", "org/with/slashes"))
    for m in j["data"]:
        eq((m["object"], m["type"], m["parent"]), ("model", "model", None))
        eq((m["max_model_len"], m["context_length"]), (4096, 4096))
        eq(m["status"], {"value": "loaded"})
        eq(m["root"], "mock/tiny-1")
        eq(m["display_name"], m["id"])
        assert isinstance(m["created"], int) and isinstance(m["owned_by"], str)
        eq(m["architecture"]["input_modalities"], ["text"])
        eq(door.get("/v1/models/" + m["id"]).json, m)
        eq(door.get("/v1/models/" + m["id"].replace("/", "%2F")).json, m)
    for name in ("x", "", "mock", "mock/tiny-1/", "/mock/tiny-1", "%00x"[3:] + "%20"):
        door.get("/v1/models/" + name).refused(404, code="model_not_found")


@case("C0_6_root")
def _(door):
    eq(door.get("/").status, 200)
    a = door.request("HEAD", "/")
    eq((a.status, a.body), (200, b""))


@case("C8_62_health_tells_the_truth")
def _(door):
    for path in ("/livez", "/readyz", "/health", "/ping", "/version"):
        eq(door.get(path).status, 200, path)
    door.process.send_signal(signal.SIGUSR1)
    within(1, "loading", lambda: door.get("/health").status == 503)
    for path in ("/readyz", "/health"):
        a = door.get(path)
        eq((a.status, a.json["status"]), (503, "loading"))
        assert a.json["reason"] and a.headers["retry-after"]
    eq(door.get("/livez").status, 200)
    a = door.chat().refused(503, code="model_loading")
    assert int(a.headers["retry-after"]) > 0
    eq(door.get("/v1/models").json["data"], [])
    door.process.send_signal(signal.SIGUSR2)
    within(1, "ready", lambda: door.get("/health").status == 200)


@case("C8_65_metrics")
def _(door):
    a = door.get("/metrics")
    eq(a.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
    for line in a.body.decode().splitlines():
        assert re.fullmatch(r"# .*|[a-z_:]+(\{[^}]*\})? [0-9.e+-]+", line), line
    eq(door.get("/v1/cluster").json, {"workers": []})


@case("drain_of_a_worker")
def _(door):
    path = "/v1/cluster/drain"
    eq(door.post(path, {"name": "anna"}).json, {"status": "draining"})
    eq(door.post(path, {"name": "anna", "grace_s": 5}).status, 200)
    assert "nobody" in door.post(path, {"name": "nobody"}).refused(404, code="not_found").error["message"]
    door.post(path, {}).refused(400, param="name")
    door.post(path, {"name": 5}).refused(400, param="name")
    for grace in (-1, 1e9):
        door.post(path, {"name": "anna", "grace_s": grace}).refused(400, param="grace_s")
    door.post(path, b"{").refused(400)
    door.get(path).refused(405)


@case("C8_64_drain")
def _(door):
    d = kit.Door()
    body = json.dumps({"messages": USER, "stream": True, "seed": SLOW, "max_tokens": 30}).encode()
    head = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    s, kept = d.connect(), d.connect()
    f = kept.makefile("rb")
    kept.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    eq(kit.read_answer(f).status, 200)
    s.sendall(head + body)
    time.sleep(0.1)
    d.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    # No new connections; on a kept one, readiness is denied and so is work; the stream ends well.
    try:
        socket.create_connection(("127.0.0.1", d.port), 0.5).close()
        raise AssertionError("still accepting")
    except OSError:
        pass
    kept.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    a = kit.read_answer(f)
    eq((a.status, a.json["status"]), (503, "draining"))
    eq(kit.read_answer(f), None)
    with s.makefile("rb") as g:
        evs = events(kit.read_answer(g).body)
    eq(evs[-1], "[DONE]")
    eq(evs[-2]["choices"][0]["finish_reason"], "length")
    eq(d.process.wait(5), 0)
    s.close()
    kept.close()
    d.process.stdout.close()


@case("C8_64_drain_takes_too_long")
def _(door):
    # What does not end in time is cut off, and the process still ends well.
    d = kit.Door()
    s = d.connect()
    body = json.dumps({"messages": USER, "stream": True, "seed": 1009}).encode()
    s.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    time.sleep(0.1)
    d.process.send_signal(signal.SIGTERM)
    eq(d.process.wait(8), 0)
    s.close()
    d.process.stdout.close()


def pipelined(n, path=b"/livez"):
    return b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path * n


@case("H30_pipelined")
def _(door):
    body = json.dumps({"messages": USER, "max_tokens": 2}).encode()
    post = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    stream = post.replace(b'"max_tokens"', b'"stream":1,"max_tokens"')
    end = b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answers, closed = door.raw(pipelined(2) + post + pipelined(1, b"/nothing") + post + end)
    eq([a.status for a in answers], [200, 200, 200, 404, 200, 200])
    assert "version" in answers[-1].json and closed
    assert stream != post


@case("H30_10000_on_one_connection")
def _(door):
    s = door.connect()
    f = s.makefile("rb")
    rss = 0
    for i in range(100):
        s.sendall(pipelined(100))
        for _ in range(100):
            eq(kit.read_answer(f).status, 200)
        if i == 10:
            rss = door.rss_kb()
    assert kit.sanitized or door.rss_kb() - rss < 2048, door.rss_kb() - rss
    f.close()
    s.close()


@case("P5_2000_requests_leave_nothing")
def _(door):
    def mixed(n):
        for i in range(n):
            if i % 4 == 0:
                door.stream(max_tokens=5, logprobs=True)
            elif i % 4 == 1:
                door.chat(max_tokens=5, n=2)
            elif i % 4 == 2:
                door.chat(max_tokens=0)
            else:
                door.complete(prompt=["a", "b"], echo=True)
    mixed(400)
    rss, fds = door.rss_kb(), door.fds()
    threads = len(os.listdir(f"/proc/{door.process.pid}/task"))
    mixed(2000)
    grown = door.rss_kb() - rss
    assert kit.sanitized or grown < max(2048, rss * 0.02), f"RSS grew by {grown} kB"
    within(2, "descriptors", lambda: door.fds() <= fds)
    eq(len(os.listdir(f"/proc/{door.process.pid}/task")), threads)


@case("H30_64_streams_at_once")
def _(door):
    out = []

    def one():
        out.append(text_of(door.stream(max_tokens=60)))
    threads = [threading.Thread(target=one) for _ in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    eq(len(out), 64)
    eq(len(set(out)), 1)


HOSTILE = {"one_char": "a", "emoji": "\U0001f642", "quotes": "'  '", "long_s": "\u017f",
           "spaces": " ", "newlines": "\n", "digits": "1", "zwj": "\u200d", "mixed": "a\u0301 1'"}
for _name, _unit in HOSTILE.items():
    def _run(door, unit=_unit):
        def timed(n):
            text = unit * (n // len(unit.encode()))
            start = door.cpu_s()
            door.chat(messages=[{"role": "user", "content": text}]).refused(
                400, code="context_length_exceeded")
            return door.cpu_s() - start

        def ratio():
            half = timed(1 << 20)
            return (timed(2 << 20) - 0.05) / half

        # Twice as much takes at most 2.5 times as long; caches are shared with other work.
        assert kit.sanitized or any(ratio() <= 2.5 for _ in range(4)), "not linear"
        assert timed(3 << 20) < (20 if kit.sanitized else 2), "3 MiB took more than 2 s"
    case("H31_" + _name)(_run)


@case("H31_others_go_on_meanwhile")
def _(door):
    text = "hello there, general kenobi " * 250000
    big = threading.Thread(target=lambda: door.chat(
        messages=[{"role": "user", "content": text}]).refused(400))
    big.start()
    worst = 0
    while big.is_alive():
        start = time.monotonic()
        door.get("/livez")
        worst = max(worst, time.monotonic() - start)
    big.join()
    assert worst < 0.2, f"the loop stood still for {worst:.3f} s"


@case("C9_public_bind_is_refused")
def _(door):
    for options, words in ((("--listen", "0.0.0.0:0"), ("API key", "TLS")),
                           (("--listen", "0.0.0.0:0", "--key", "k"), ("TLS",)),
                           (("--listen", "[::]:0"), ("API key",)),
                           (("--listen", "nonsense"), ("HOST:PORT",)),
                           (("--listen", "127.0.0.1:99999"), ("HOST:PORT",)),
                           (("--listen", f"127.0.0.1:{door.port}"), ("in use",))):
        p = subprocess.run([kit.program, "--vocab", kit.VOCAB, *options], capture_output=True,
                           timeout=10)
        assert p.returncode in (78, 71), (options, p.returncode)
        line = p.stderr.decode().splitlines()[-1]
        assert line.startswith("error: ") and all(w in line for w in words), line


@case("TLS_serves_and_streams")
def _(door):
    with tempfile.TemporaryDirectory() as folder:
        cert, key = folder + "/c.pem", folder + "/k.pem"
        try:
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                            "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert,
                            "-days", "2", "-subj", "/CN=localhost", "-addext",
                            "subjectAltName=DNS:localhost"], check=True, capture_output=True)
        except FileNotFoundError:
            print("SKIP: no openssl to make a certificate with")
            return
        d = kit.Door("--cert", cert, "--cert-key", key, "--key", "sk-tls", "--listen", "0.0.0.0:0")
        context = ssl.create_default_context(cafile=cert)

        def send(data):
            with socket.create_connection(("127.0.0.1", d.port), 5) as raw:
                with context.wrap_socket(raw, server_hostname="localhost") as s:
                    s.sendall(data)
                    with s.makefile("rb") as f:
                        return kit.read_answer(f)
        body = json.dumps({"messages": USER, "max_tokens": 40, "stream": True}).encode()
        post = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"x-api-key: sk-tls\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
        for _ in range(5):
            evs = events(send(post).body)
            eq(evs[-1], "[DONE]")
            assert kit.TEXT.startswith(text_of(evs)[:30])
        send(post.replace(b"sk-tls", b"sk-bad")).refused(401)
        send(post.replace(b"Host: localhost", b"Host: localhost\r\nHost: x")).refused(400)
        eq(send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").status, 200)
        # A caller without TLS, one that leaves during the handshake, one that leaves mid-stream.
        with socket.create_connection(("127.0.0.1", d.port), 5) as s:
            s.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not s.recv(100).startswith(b"HTTP/"), "spoke in the clear"
        socket.create_connection(("127.0.0.1", d.port), 5).close()
        slow = json.dumps({"messages": USER, "seed": SLOW, "ignore_eos": True,
                           "stream": True}).encode()
        raw = socket.create_connection(("127.0.0.1", d.port), 5)
        s = context.wrap_socket(raw, server_hostname="localhost")
        s.sendall(post.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % len(slow))
                  .replace(body, slow))
        assert s.recv(100).startswith(b"HTTP/1.1 200")
        s.close()
        metrics = post.split(b"\r\n")[1:]
        get = (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nx-api-key: sk-tls\r\n\r\n")
        within(1, "gone", lambda: b"mock_running 0" in send(get).body)
        assert metrics
        d.close()
