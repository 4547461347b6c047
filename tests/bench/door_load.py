#!/usr/bin/env python3
"""The front door under load: door_load.py DOOR_MOCK [STREAMS [ROUNDS]]. A mock engine speaks as fast as it is asked, so what
is measured is the door: HTTP, tokens to text, event streams. STREAMS (256) at once, ROUNDS (4) times, all of them checked to the
last byte; prints the server's CPU time per streamed token and per request (which has the reading of a short chat in it). Then, where
wrk is installed, requests per second of short chats over connections that are kept open."""
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../http"))
import kit  # noqa: E402

TOKENS = 512


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as f:
        user, system = f.read().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def stream(port, max_tokens):
    """One streamed chat; the number of its pieces of text."""
    body = json.dumps({"messages": kit.USER, "stream": True, "max_tokens": max_tokens, "ignore_eos": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    data = await reader.read(-1)
    writer.close()
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    events = rest.count(b"data: ")
    assert rest.count(b"data: [DONE]") == 1 and rest.count(b'"finish_reason":"length"') == 1, data[-300:]
    return events


async def load(port, streams, rounds, max_tokens):
    n = 0
    for _ in range(rounds):
        n += sum(await asyncio.gather(*[stream(port, max_tokens) for _ in range(streams)]))
    return n


def measure(door, streams, rounds, max_tokens):
    begin, cpu = time.monotonic(), cpu_s(door.process.pid)
    events = asyncio.run(load(door.port, streams, rounds, max_tokens))
    return time.monotonic() - begin, cpu_s(door.process.pid) - cpu, events


WRK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '%s'
""" % json.dumps({"messages": kit.USER, "max_tokens": 1, "ignore_eos": True})


def requests_per_s(port, connections):
    """Short chats, one after the other on each of the connections: a line of figures."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK)
        script.flush()
        text = subprocess.run(["wrk", "-t1", f"-c{connections}", "-d5", "--latency", "-s", script.name,
                               f"http://127.0.0.1:{port}/v1/chat/completions"],
                              capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text and "Socket errors" not in text, text
    p50, p99, rate = (re.search(rf"{name}:? +(\S+)", text)[1] for name in ("50%", "99%", "Requests/sec"))
    return f"{connections} connections: {float(rate):.0f} requests/s, p50 {p50}, p99 {p99}"


def main():
    kit.program = sys.argv[1]
    streams, rounds = (int(a) for a in (sys.argv[2:] + ["256", "4"][len(sys.argv[2:]):]))
    door = kit.Door("--max-connections", str(streams + 8), "--max-per-address", str(streams + 8), "--step-us", "1000")
    try:
        n = streams * rounds
        measure(door, streams, 1, 1)
        _, short, _ = measure(door, streams, rounds, 1)
        seconds, long, events = measure(door, streams, rounds, TOKENS)
        each = (long - short) / (n * (TOKENS - 1))
        print(f"{streams} streams at once, {n} requests of {TOKENS} tokens, no error: {n * TOKENS / seconds:.0f} tokens/s, "
              f"{events} events; CPU {each * 1e6:.1f} us per streamed token, {(short / n - each) * 1e6:.0f} us per request")
    finally:
        door.close()
    if not shutil.which("wrk"):
        return print("wrk is not installed: requests per second are not measured")
    door = kit.Door("--max-connections", "80", "--max-per-address", "80")
    try:
        for connections in (1, 4, 64):
            print(requests_per_s(door.port, connections))
    finally:
        door.close()


if __name__ == "__main__":
    main()
