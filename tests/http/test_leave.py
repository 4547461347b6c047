"""H20: callers that leave. The engine must have nothing of theirs within a second; the mock's
gauges tell."""
import json
import socket
import struct
import time

import kit
from kit import CHAT, NEVER, SLOW, SLOW_PREFILL, USER, case, eq, within


def send(door, rcvbuf=0, **fields):
    body = json.dumps({"messages": USER, **fields}).encode()
    s = door.connect(rcvbuf=rcvbuf)
    s.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return s


def close(s):
    s.close()


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def half_close(s):
    s.shutdown(socket.SHUT_WR)


HOW = {"close": close, "reset": reset, "half_close": half_close}
WHEN = {"waiting": {"seed": NEVER}, "waiting_stream": {"seed": NEVER, "stream": True},
        "prefill": {"seed": SLOW_PREFILL, "stream": True},
        "prefill_whole": {"seed": SLOW_PREFILL}, "decode_whole": {"seed": SLOW, "ignore_eos": True},
        "mid_stream": {"seed": SLOW, "ignore_eos": True, "stream": True},
        "several_choices": {"seed": SLOW, "ignore_eos": True, "stream": True, "n": 4}}

for _when, _fields in WHEN.items():
    for _how, _leave in HOW.items():
        def _run(door, fields=_fields, leave=_leave):
            other = send(door, seed=SLOW, stream=True, ignore_eos=True)
            s = send(door, **fields)
            within(1, "both running", lambda: door.metric("mock_running") == 2)
            time.sleep(0.05)
            leave(s)
            took = within(1, "gone", lambda: door.metric("mock_running") == 1)
            assert took < 0.5, f"took {took:.2f} s"
            # The other one goes on.
            before = door.metric("mock_generated_total")
            time.sleep(0.1)
            assert door.metric("mock_generated_total") > before, "the other stream stands still"
            s.close()
            other.close()
            within(1, "gone", lambda: door.metric("mock_kv_used") == 0)
        case(f"C0_8_H20_{_when}_{_how}")(_run)


@case("H20_before_the_body")
def _(door):
    for part in (b"", b"POST", f"POST {CHAT} HTTP/1.1\r\nHost: lo".encode(),
                 f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 "Content-Length: 100\r\n\r\n{\"mess".encode()):
        for leave in (close, reset, half_close):
            s = door.connect()
            s.sendall(part)
            time.sleep(0.02)
            leave(s)
            s.close()


@case("H20_during_tokenising")
def _(door):
    text = "hello there, general " * 300000
    for _ in range(3):
        s = send(door, messages=[{"role": "user", "content": text}])
        time.sleep(0.01)
        s.close()
    time.sleep(0.3)


@case("H20_never_reads", "--ctx", "200000", "--write-ms", "1500")
def _(door):
    # The door holds a bounded amount for it, and lets go.
    base = door.rss_kb()
    s = send(door, rcvbuf=4096, stream=True, ignore_eos=True, logprobs=True, top_logprobs=20)
    within(1, "running", lambda: door.metric("mock_requests_total") >= 2)
    within(5, "let go", lambda: door.metric("mock_running") == 0)
    assert kit.sanitized or door.rss_kb() - base < 24 << 10, door.rss_kb() - base
    within(3, "closed", lambda: door.metric("trireme_http_connections") <= 1)
    s.close()


@case("H20_never_reads_slow_tokens", "--ctx", "200000", "--write-ms", "1500", "--per-turn", "16",
      "--step-us", "20000")
def _(door):
    # Less than the buffer's limit, but nothing of it is taken: the write deadline.
    s = send(door, rcvbuf=4096, stream=True, ignore_eos=True, logprobs=True, top_logprobs=2)
    within(1, "running", lambda: door.metric("mock_running") == 1)
    within(20, "let go", lambda: door.metric("mock_running") == 0)
    assert door.metric("trireme_http_too_slow_total") == 1, "for another reason"
    s.close()


@case("H20_whole_answer_never_read", "--ctx", "200000", "--write-ms", "1000")
def _(door):
    s = send(door, rcvbuf=4096, ignore_eos=True, logprobs=True, top_logprobs=20, max_tokens=20000)
    within(8, "ended", lambda: door.metric("trireme_http_too_slow_total") >= 1)
    within(2, "closed", lambda: door.metric("trireme_http_connections") <= 1)
    s.close()


@case("H20_slow_but_reading", "--ctx", "200000", "--write-ms", "1000")
def _(door):
    # 3 MB at the pace of the reader: the whole of it arrives, however long the writing takes.
    s = send(door, rcvbuf=65536, ignore_eos=True, stream=True, max_tokens=3000)
    size, tail = 0, b""
    while part := s.recv(65536):
        size += len(part)
        tail = (tail + part)[-100:]
        time.sleep(0.01)
        if b"data: [DONE]" in tail:
            break
    assert size > 500000, size
    s.close()


@case("H20_many_leave_at_once")
def _(door):
    socks = [send(door, seed=SLOW, stream=True, ignore_eos=True) for _ in range(50)]
    within(2, "running", lambda: door.metric("mock_running") == 50)
    for s in socks:
        s.close()
    within(1, "gone", lambda: door.metric("mock_running") == 0)
    eq(door.metric("mock_kv_used"), 0)
