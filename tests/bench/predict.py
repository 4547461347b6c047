#!/usr/bin/env python3
"""Predicted beside measured tokens/s: 1, 2, 3 worker processes, several batch sizes, over the real road.

    predict.py MODEL [--workers 1,2,3] [--batch 1,4,16] [--runs 3] [--csv FILE]

The prediction is `trireme bench MODEL --predict` (operations measured on this machine, then the planner's
cost model); the measurement is `trireme serve MODEL --workers N` answering streams. Medians.
"""
import argparse
import csv
import http.client
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("TRIREME_BUILD", ROOT / "build")) / "trireme"
PROMPT, TOKENS, IDS = 128, 64, 10000


def predicted(model, batches):
    out = subprocess.run([PROGRAM, "bench", model, "--predict", "--json", "--batch", ",".join(map(str, batches)),
                          "--prompt", str(PROMPT), "--tokens", str(TOKENS)], check=True, capture_output=True,
                         text=True).stdout
    return {(r["workers"], r["batch"]): r for r in json.loads(out)["rows"]}


class Server:
    """trireme serve with worker processes of its own."""

    def __init__(self, model, workers, threads, slots):
        self.dir = tempfile.TemporaryDirectory(prefix="trireme-predict-")
        self.log = pathlib.Path(self.dir.name) / "log"
        with open(self.log, "w") as out:
            self.process = subprocess.Popen(
                [PROGRAM, "serve", model, "--listen", "127.0.0.1:0", "--workers", str(workers), "--threads",
                 str(threads), "--slots", str(slots), "--ctx", "1024", "--kv-tokens", str(1024 * slots), "--state",
                 pathlib.Path(self.dir.name) / "state"], stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def is_ready(self):
        port = re.search(r"serving on port (\d+)", self.log.read_text(errors="replace"))
        if not port:
            return False
        self.port = int(port.group(1))
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        c.request("GET", "/readyz")
        return c.getresponse().status == 200

    def __enter__(self):
        end = time.time() + 120
        while time.time() < end and self.process.poll() is None:
            try:
                if self.is_ready():
                    return self
            except OSError:
                pass
            time.sleep(0.2)
        text = self.log.read_text(errors="replace")
        self.__exit__()
        raise SystemExit("the server did not get ready:\n" + text[-2000:])

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def stream(self, prompt, tokens, times):
        """Appends the time of every token."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        c.request("POST", "/v1/completions", json.dumps({
            "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
            "return_token_ids": True}), {"content-type": "application/json"})
        r = c.getresponse()
        if r.status != 200:
            raise SystemExit(f"{r.status}: {r.read()[:300]}")
        for line in r:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:]).get("choices", []):
                times += [time.perf_counter()] * len(choice.get("token_ids") or [])


def ids(rng, n):
    return [rng.randrange(100, IDS) for _ in range(n)]


def measure(server, batch, rng):
    """Tokens/s of all streams while all of them run; prompt tokens/s of one."""
    times = [[] for _ in range(batch)]
    threads = [threading.Thread(target=server.stream, args=(ids(rng, PROMPT), TOKENS, t)) for t in times]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    begin, end = max(t[0] for t in times), min(t[-1] for t in times)
    decode = sum(sum(begin < x <= end for x in t) for t in times) / (end - begin)
    one = []
    start = time.perf_counter()
    server.stream(ids(rng, PROMPT), 1, one)
    return decode, PROMPT / (one[0] - start)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--workers", default="1,2,3")
    p.add_argument("--batch", default="1,4,16")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--csv")
    a = p.parse_args()
    workers, batches = ([int(x) for x in v.split(",")] for v in (a.workers, a.batch))
    rng, cores, rows = random.Random(1), len(os.sched_getaffinity(0)), []
    guess = predicted(a.model, batches)
    for w in workers:
        with Server(a.model, w, max(1, cores // w), max(batches)) as server:
            measure(server, 1, rng)
            for b in batches:
                runs = [measure(server, b, rng) for _ in range(a.runs)]
                decode, prompt = (statistics.median(x) for x in zip(*runs))
                g = guess[w, b]
                rows.append([w, max(1, cores // w), b, g["decode_predicted"], decode,
                             g["decode_predicted"] / decode - 1, g["prompt_predicted"], prompt,
                             g["prompt_predicted"] / prompt - 1])
    head = ["workers", "threads each", "streams", "decode tok/s predicted", "measured", "error",
            "prompt tok/s predicted", "measured", "error"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for r in rows:
        print("| {} | {} | {} | {:.1f} | {:.1f} | {:+.0%} | {:.0f} | {:.0f} | {:+.0%} |".format(*r))
    if a.csv:
        with open(a.csv, "w", newline="") as f:
            csv.writer(f).writerows([head, *rows])


if __name__ == "__main__":
    sys.exit(main())
