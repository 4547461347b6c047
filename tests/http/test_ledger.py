"""The ledger: every request that the engine took ends in exactly one record, whatever ended it."""
import contextlib
import json
import os
import re
import tempfile
import time

import kit
from kit import (BUSY, CHAT, COMPLETIONS, FAIL_FIRST, FAIL_LATER, NEVER, NO_CAPACITY, NONFINITE, SLOW,
                 SLOW_PREFILL, USER, case, eq, within)

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
FIELDS = ["time", "id", "request_id", "key", "path", "model", "finish", "reason", "streamed",
          "prompt_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "queue_ms", "ttft_ms",
          "total_ms"]
FINISHES = ["stop", "length", "tool_calls", "cancelled", "failed"]
QWEN = ("--template", os.path.join(kit.FIXTURES, "chat_templates/qwen3/template.jinja"), "--say",
        '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]


class Book:
    def __init__(self, door, path):
        self.door, self.path, self.n = door, path, 0

    def records(self):
        with open(self.path, encoding="utf8") as f:
            return [json.loads(line) for line in f]

    def one(self, finish, reason=None, **want):
        """The one record that came since the last call."""
        within(2, "a record", lambda: len(self.records()) > self.n)
        time.sleep(0.05)  # a second one would have come
        new = self.records()[self.n:]
        eq(len(new), 1, f"records: {new}")
        self.n += 1
        r = new[0]
        eq(list(r), FIELDS)
        eq((r["finish"], r["reason"]), (finish, reason))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", r["time"]), r
        assert r["request_id"].startswith("req_"), r
        for name, value in want.items():
            eq(r[name], value, f"{name} of {r}")
        if r["ttft_ms"] is not None:
            assert 0 <= r["queue_ms"] <= r["total_ms"] and 0 < r["ttft_ms"] <= r["total_ms"], r
        return r

    def none(self):
        time.sleep(0.05)
        eq(len(self.records()), self.n, "records")


@contextlib.contextmanager
def book(*options):
    """A door of its own with a ledger; in the end the metrics must agree with the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/ledger"
        door = kit.Door("--ledger", path, *options)
        b = Book(door, path)
        try:
            yield door, b
            eq(os.stat(path).st_mode & 0o777, 0o600)
            for f in FINISHES:
                eq(door.metric(f'trireme_requests_total{{finish="{f}"}}'),
                   sum(r["finish"] == f for r in b.records()), f)
            eq(door.metric("trireme_ledger_lost_total"), 0)
        finally:
            door.close()


def leave(door, path=CHAT, seconds=0.1, **fields):
    body = json.dumps({"messages": USER, **fields}).encode()
    s = door.connect()
    s.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    within(2, "running", lambda: door.metric("mock_running") > 0)
    time.sleep(seconds)
    s.close()


@case("ledger_done")
def _(door):
    with book() as (d, b):
        for stream in (False, True):
            a = d.chat(stream=stream)
            r = b.one("stop", path=CHAT, model="mock/tiny-1", key=None, streamed=stream,
                      request_id=a.headers["x-request-id"], reasoning_tokens=0)
            assert r["id"].startswith("chatcmpl-"), r
            if not stream:
                u = a.json["usage"]
                eq((r["id"], r["prompt_tokens"], r["output_tokens"], r["cached_tokens"]),
                   (a.json["id"], u["prompt_tokens"], u["completion_tokens"],
                    u["prompt_tokens_details"]["cached_tokens"]))
            d.chat(stream=stream, stop="jumps")
            b.one("stop", streamed=stream)
            d.chat(stream=stream, max_tokens=3)
            b.one("length", output_tokens=3, streamed=stream)
            d.post(MESSAGES, {"messages": USER, "max_tokens": 3, "stream": stream})
            b.one("length", path=MESSAGES, output_tokens=3, streamed=stream)
            d.post(RESPONSES, {"input": "hi", "max_output_tokens": 4, "stream": stream})
            b.one("length", path=RESPONSES, output_tokens=4, streamed=stream)
            d.complete(stream=stream)
            b.one("length", path=COMPLETIONS, output_tokens=4, streamed=stream)
            d.chat(stream=stream, n=2, max_tokens=5)
            b.one("length", output_tokens=10, streamed=stream)
            d.complete(stream=stream, prompt=["a", "b", "c"], n=2)
            b.one("length", output_tokens=24, streamed=stream)


@case("ledger_calls")
def _(door):
    with book(*QWEN) as (d, b):
        for stream in (False, True):
            d.chat(tools=TOOLS, stream=stream)
            r = b.one("tool_calls", streamed=stream)
            assert 0 < r["reasoning_tokens"] < r["output_tokens"], r


@case("ledger_not_taken")
def _(door):
    with book() as (d, b):
        d.chat(seed=BUSY).refused(429)
        d.chat(seed=NO_CAPACITY, stream=True).refused(503)
        d.chat(messages=5).refused(400)
        d.post(MESSAGES + "/count_tokens", {"messages": USER})
        d.post("/tokenize", {"prompt": "x"})
        d.get("/v1/models")
        b.none()


@case("ledger_left")
def _(door):
    with book() as (d, b):
        for stream in (False, True):
            for seed, n in ((NEVER, 1), (SLOW_PREFILL, 1), (SLOW, 1), (SLOW, 2)):
                leave(d, seed=seed, n=n, stream=stream, ignore_eos=True)
                r = b.one("cancelled", streamed=stream)
                eq((r["output_tokens"] > 0, r["ttft_ms"] is not None), (seed == SLOW,) * 2, str(r))
                assert r["total_ms"] >= 50 and r["prompt_tokens"] > 0, r
            leave(d, MESSAGES, seed=SLOW, stream=stream, max_tokens=1000)
            b.one("cancelled", path=MESSAGES, streamed=stream)


@case("ledger_failed")
def _(door):
    with book() as (d, b):
        for stream in (False, True):
            for n in (1, 2):
                d.chat(seed=FAIL_FIRST, stream=stream, n=n)
                b.one("failed", "worker_lost", output_tokens=0, ttft_ms=None, streamed=stream)
                d.chat(seed=FAIL_LATER, stream=stream, n=n)
                r = b.one("failed", "worker_lost", streamed=stream)
                assert r["output_tokens"] > 0 and r["ttft_ms"] is not None, r
                d.chat(seed=NONFINITE, stream=stream, n=n)
                b.one("failed", "internal_error", streamed=stream)
            d.complete(prompt=["a", "b"], seed=FAIL_LATER, stream=stream)
            b.one("failed", "worker_lost", path=COMPLETIONS, streamed=stream)


@case("ledger_shut_down")
def _(door):
    # What does not end in the time that draining has is recorded too.
    with tempfile.TemporaryDirectory() as folder:
        d = kit.Door("--ledger", folder + "/ledger")
        b = Book(d, folder + "/ledger")
        body = json.dumps({"messages": USER, "stream": True, "seed": NEVER}).encode()
        s = d.connect()
        s.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                  f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        within(2, "running", lambda: d.metric("mock_running") > 0)
        d.close()
        s.close()
        b.one("cancelled")


@case("ledger_holds_no_text")
def _(door):
    with book("--key", "sk-secret name=anna") as (d, b):
        d.chat(messages=[{"role": "user", "content": "wombat"}], user="wombat", max_tokens=6)
        d.stream(messages=[{"role": "user", "content": "wombat"}])
        d.chat(messages=[{"role": "user", "content": "wombat"}], seed=FAIL_LATER)
        with open(b.path) as f:
            text = f.read()
        assert '"key":"anna"' in text
        for word in ("wombat", "secret", "fox", "quick"):
            assert word not in text, word


@case("ledger_moved_away")
def _(door):
    with book() as (d, b):
        d.chat(max_tokens=1)
        b.one("length")
        os.rename(b.path, b.path + ".1")
        d.chat(max_tokens=1)
        b.n = 0
        b.one("length")
        # Counts of the file that was moved are not in the new one.
        with open(b.path + ".1") as old, open(b.path, "a") as new:
            new.write(old.read())


@case("ledger_many_at_once")
def _(door):
    import threading
    with book() as (d, b):
        def one(i):
            kind = i % 5
            if kind == 4:
                leave(d, seed=SLOW, stream=True, ignore_eos=True, seconds=0.02)
            else:
                d.chat(stream=kind > 1, n=1 + kind % 2, max_tokens=5 + i)
        threads = [threading.Thread(target=one, args=(i,)) for i in range(60)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        within(3, "60 records", lambda: len(b.records()) >= 60)
        time.sleep(0.2)
        eq(sorted(r["finish"] for r in b.records()), ["cancelled"] * 12 + ["length"] * 48)
        eq(len({r["request_id"] for r in b.records()}), 60)
