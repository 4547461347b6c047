"""Memory, descriptors and threads are back at the baseline after 2,000 requests, some of them bad,
some given up half way."""
import json
import pathlib
import socket
import sys
import time

from cluster import SMOLLM2, Cluster, Stream, need, run

need(SMOLLM2)
N = int(sys.argv[1]) if len(sys.argv) > 1 else 2000


def usage(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    field = dict(line.split(":", 1) for line in status.splitlines())
    return (int(field["VmRSS"].split()[0]) * 1024, len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir())), int(field["Threads"]))


def settle(c, pids):
    deadline = time.time() + 10
    while c.status()["totals"]["running"] or c.status()["totals"]["waiting"]:
        assert time.time() < deadline, c.status()["totals"]
        time.sleep(0.05)
    time.sleep(1.5)
    return [usage(p) for p in pids]


def one(c, h, i):
    kind = i % 10
    if kind == 7:  # refused
        h.request("POST", "/v1/completions", '{"prompt": [1], "temperature": 9}', {"Content-Type": "application/json"})
        r = h.getresponse()
        assert r.status == 400, r.status
        r.read()
    elif kind == 8:  # the caller leaves
        s = socket.create_connection(("127.0.0.1", c.port))
        body = json.dumps({"prompt": [1 + i % 900] * 40, "max_tokens": 500, "stream": True, "ignore_eos": True})
        s.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                  f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        s.recv(10)
        s.close()
    elif kind == 9:
        s = Stream(c, {"prompt": [1 + i % 900] * 20, "max_tokens": 2, "temperature": 0, "ignore_eos": True})
        s.start()
        s.check()
    else:
        h.request("POST", "/v1/completions", json.dumps({"prompt": [1 + i % 900, 2, 3, 4], "max_tokens": 1}),
                  {"Content-Type": "application/json"})
        r = h.getresponse()
        assert r.status == 200, r.status
        r.read()


def test_soak():
    with Cluster(SMOLLM2, workers=["a", "b"]) as c:
        pids = [c.process.pid] + [w.process.pid for w in c.workers.values()]
        h = c.connect()
        for i in range(300):  # caches, pools and the prefix cache reach their steady size
            one(c, h, i)
        h.close()
        before = settle(c, pids)
        h = c.connect()
        for i in range(N):
            one(c, h, i)
        h.close()
        after = settle(c, pids)
        for b, a, who in zip(before, after, ["coordinator", "worker a", "worker b"]):
            grown = a[0] - b[0]
            assert grown <= max(16 << 20, 0.02 * b[0]), f"{who} grew by {grown >> 20} MiB"
            assert a[1] == b[1], f"{who}: {b[1]} descriptors before, {a[1]} after"
            assert a[2] == b[2], f"{who}: {b[2]} threads before, {a[2]} after"
        return f"{N} requests; growth " + ", ".join(f"{(a[0] - b[0]) >> 10} KiB" for a, b in zip(after, before))


run([test_soak])
