#!/usr/bin/env python3
"""Predicted beside measured tokens/s: 1, 2, 3 worker processes as layers or groups, several batch sizes.

    predict.py MODEL [--split layers|tensor|experts] [--workers 1,2,3] [--batch 1,4,8,16] [--runs 3] [--csv FILE]

The prediction is `trireme bench MODEL --predict`: operations and steps of the model's own layers measured on this machine
while as many workers compute as shall, and the workers' link as the coordinator found it, then the planner's cost
model. The measurement is `trireme serve MODEL --workers N` answering streams over the real road. A virtual machine's
speed changes from second to second, so both are made by turns: operations are measured once, then steps and every row
--runs times, and steps once more; the median of the predictions stands beside the median of the runs. What is
disturbed, because others take over 5 % of the processors' time, is made once more, and marked with * if there is no
rest. All streams of a run share one small client.
"""
import argparse
import csv
import json
import os
import pathlib
import random
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("TRIREME_BUILD", ROOT / "build")) / "trireme"
SHORT, LONG, TOKENS, IDS = 32, 512, 64, 10000  # prompts where decoding is measured and where they are; tokens
TOKEN_IDS = re.compile(rb'"token_ids":\[([^\]]+)\]')


def predicted(model, split, workers, batches, prompt, link, kept=None):
    """By batch; what is measured now: operations and steps, or what is not kept."""
    out = subprocess.run([PROGRAM, "bench", model, "--predict", "--json", "--split", split, "--workers", str(workers),
                          "--batch", ",".join(map(str, batches)), "--prompt", str(prompt), "--tokens", str(TOKENS),
                          *(["--link", link] if link else []), *([kept] if kept else [])], check=True,
                         capture_output=True, text=True).stdout
    return {r["batch"]: r for r in json.loads(out)["rows"]}


class Server:
    """trireme serve with worker processes of its own."""

    def __init__(self, model, split, workers, threads, slots):
        self.dir = tempfile.TemporaryDirectory(prefix="trireme-predict-")
        self.log = pathlib.Path(self.dir.name) / "log"
        ctx = LONG + TOKENS + 64
        group = ["--split", split] if split != "layers" and workers > 1 else []
        with open(self.log, "w") as out:
            self.process = subprocess.Popen(
                [PROGRAM, "serve", model, "--listen", "127.0.0.1:0", "--workers", str(workers), "--threads",
                 str(threads), "--slots", str(slots), "--ctx", str(ctx), "--kv-tokens", str(ctx * slots), *group,
                 "--state", pathlib.Path(self.dir.name) / "state"], stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def is_ready(self):
        port = re.search(r"serving on port (\d+)", self.log.read_text(errors="replace"))
        if not port:
            return False
        self.port = int(port.group(1))
        with socket.create_connection(("127.0.0.1", self.port), 10) as s:
            s.sendall(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            return s.recv(64).startswith(b"HTTP/1.1 200")

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

    def link(self):
        """Latency and bandwidth of the slowest pair of workers; None if nothing was measured."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/cluster", timeout=10) as r:
            pairs = [p for p in json.load(r)["pairs"] if p["state"] == "measured"]
        if not pairs:
            return None
        return f"{max(p['latency_us'] for p in pairs)},{min(p['bytes_per_s'] for p in pairs)}"

    def send(self, prompt, tokens):
        body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
                           "stream": True, "return_token_ids": True}).encode()
        s = socket.create_connection(("127.0.0.1", self.port), 60)
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
                  b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        return s

    def streams(self, prompts, tokens):
        """The time of every token of every stream; one thread reads them all and parses next to nothing."""
        times = [[] for _ in prompts]
        with selectors.DefaultSelector() as ready:
            for i, p in enumerate(prompts):
                ready.register(self.send(p, tokens), selectors.EVENT_READ, i)
            while ready.get_map():
                for key, _ in ready.select(60):
                    data = key.fileobj.recv(1 << 16)
                    n = sum(1 + ids.count(b",") for ids in TOKEN_IDS.findall(data))
                    times[key.data] += [time.perf_counter()] * n
                    if not data:
                        ready.unregister(key.fileobj)
                        key.fileobj.close()
        if any(len(t) != tokens for t in times):
            raise SystemExit(f"error: streams of {[len(t) for t in times]} tokens, wanted {tokens}")
        return times


def ticks():
    """(what all processes used, what this one and its descendants did), in clock ticks."""
    with open("/proc/stat") as f:
        all_used = [int(x) for x in f.readline().split()[1:9]]
    mine, parents, used = {os.getpid()}, {}, {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[pid], used[pid] = int(rest[1]), sum(map(int, rest[11:15]))  # children that ended included
    while more := {p for p, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(all_used) - all_used[3] - all_used[4], sum(used.get(p, 0) for p in mine)


def watched(run):
    """What run() gives, and whether others left it alone."""
    all_before, mine_before, begin = *ticks(), time.perf_counter()
    value = run()
    all_after, mine_after, span = *ticks(), time.perf_counter() - begin
    others = (all_after - all_before - mine_after + mine_before) / os.sysconf("SC_CLK_TCK")
    return value, others < 0.05 * span * os.cpu_count() + 0.02


def undisturbed(run):
    """What run() gives when others leave it alone, for which it is tried once more, and whether they did."""
    value, is_quiet = watched(run)
    return (value, True) if is_quiet else watched(run)


def ids(rng, n):
    return [rng.randrange(100, IDS) for _ in range(n)]


def decode(server, batch, rng):
    """Tokens/s of all streams while all of them run."""
    times = server.streams([ids(rng, SHORT) for _ in range(batch)], TOKENS)
    begin, end = max(t[0] for t in times), min(t[-1] for t in times)
    return sum(sum(begin < x <= end for x in t) for t in times) / (end - begin)


def prompt(server, rng):
    begin = time.perf_counter()
    return LONG / (server.streams([ids(rng, LONG)], 1)[0][0] - begin)


def rounds(a, server, workers, batches, rng):
    """Rows of (what, predictions, measurements, whether all were left alone)."""
    rows = {what: ([], [], []) for what in [0, *batches]}  # 0: the prompt
    link = server.link()

    def predict(kept):
        guess, is_quiet = undisturbed(lambda: predicted(a.model, a.split, workers, batches, SHORT, link, kept))
        guess[0] = predicted(a.model, a.split, workers, [1], LONG, link, "--kept-rates")[1]
        for b, (guesses, _, quiet) in rows.items():
            guesses.append(guess[b]["decode_predicted" if b else "prompt_predicted"])
            quiet.append(is_quiet)

    predict(None)
    for _ in range(a.runs):
        for b, (_, reals, quiet) in rows.items():
            real, is_quiet = undisturbed(lambda n=b: decode(server, n, rng) if n else prompt(server, rng))
            reals.append(real)
            quiet.append(is_quiet)
        predict("--kept-operations")
    return [(f"{b} streams" if b else f"a prompt of {LONG}", guesses, reals, all(quiet))
            for b, (guesses, reals, quiet) in rows.items()]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--split", default="layers", choices=["layers", "tensor", "experts"])
    p.add_argument("--workers", default="1,2,3")
    p.add_argument("--batch", default="1,4,8,16")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--csv")
    a = p.parse_args()
    workers, batches = ([int(x) for x in v.split(",")] for v in (a.workers, a.batch))
    rng, cores, rows = random.Random(1), len(os.sched_getaffinity(0)), []
    head = ["split", "workers", "threads each", "what", "tok/s predicted", "measured", "error"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    for w in workers:
        threads = max(1, cores // w)
        with Server(a.model, a.split, w, threads, max(batches)) as server:
            decode(server, 1, rng)
            for what, guesses, reals, is_quiet in rounds(a, server, w, batches, rng):
                guess, real = statistics.median(guesses), statistics.median(reals)
                rows.append([a.split, w, threads, what, guess, real, guess / real - 1, "" if is_quiet else "*"])
                print("| {} | {} | {} | {} | {:.0f} | {:.0f} | {:+.0%}{} |".format(*rows[-1]), flush=True)
    if a.csv:
        with open(a.csv, "w", newline="") as f:
            csv.writer(f).writerows([[*head, "disturbed"], *rows])


if __name__ == "__main__":
    sys.exit(main())
