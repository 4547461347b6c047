"""Tokens per second of the same two cores, divided in several ways: one process of two threads, or
two workers of one thread that share the layers, the inside of each layer, or the experts. Alternating
rounds, medians; real processes over UCX.

    splits.py MODEL [--rounds N] [--tokens N] [--streams 1,4,16] [--ways layers,experts] [--csv FILE]
                                  --ways: only these, beside the one process
    splits.py MODEL --far "ssh other" --address A --devices eth0
                                  two stages, the second worker started by that command; A: our address
"""
import argparse
import csv
import os
import pathlib
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
import cluster as kit  # noqa: E402


def aggregate(c, n_stream, n_tok):
    """Tokens per second of n_stream completions at once, each with a prompt of its own."""
    made = []

    def one(i):
        prompt = [1 + (7919 * (i + 1) + 31 * k + time.time_ns() % 1000) % 250 for k in range(16)]
        r = c.complete(prompt, max_tokens=n_tok, ignore_eos=True)
        made.append(r["usage"]["completion_tokens"])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n_stream)]
    begin = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.monotonic() - begin
    assert sum(made) == n_stream * n_tok, made
    return sum(made) / took


def has_experts(model):
    text = pathlib.Path(model, "config.json").read_text() if os.path.isdir(model) else model
    return "expert" in text or "moe" in text or "a3b" in text


def local_ways(model, wanted, n_tok):
    # Stages are balanced for requests as long as the context allows: so it is as long as these need.
    ctx = ["--ctx", str(max(256, 8 * n_tok))]
    two = {"workers": ["a", "b"], "serve": ctx}
    ways = {
        "layers": dict(two),
        "tensor": dict(two, serve=[*ctx, "--split", "tensor"]),
    }
    if has_experts(str(model)):
        ways["experts"] = dict(two, serve=[*ctx, "--split", "experts"])
    return {"one process, 2 threads": dict(local=1, serve=[*ctx, "--threads", "2"])} | {
        f"two workers, {name}": ways[name] for name in ways if not wanted or name in wanted.split(",")}


def far_ways(a):
    """Two stages, the second one elsewhere: on this host if no --far is given."""
    options = ["--devices", a.devices, "--transports", "tcp,self"]
    return {"two stages": dict(workers=["a", "b"], serve=["--far", "0", "--slots", "32"], worker=options)}


def open_cluster(a, how):
    c = kit.Cluster(a.model, **how)
    if a.far:
        c.address = a.address
        c.workers["b"].prefix = a.far.split()
    return c


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--streams", default="1,4,16")
    p.add_argument("--ways")
    p.add_argument("--csv")
    p.add_argument("--far")
    p.add_argument("--address", default="127.0.0.1")
    p.add_argument("--devices", default="lo")
    a = p.parse_args()
    kit.Worker.measuring = ()  # the planner goes by what they measure
    streams = [int(s) for s in a.streams.split(",")]
    ways = far_ways(a) if a.far else local_ways(a.model, a.ways, a.tokens)
    clusters = {name: open_cluster(a, how) for name, how in ways.items()}
    got = {name: {n: [] for n in streams} for name in clusters}
    opened = []
    try:
        for c in clusters.values():
            opened.append(c.__enter__())
        for c in clusters.values():
            aggregate(c, 2, 8)
        for _ in range(a.rounds):
            for n in streams:
                for name, c in clusters.items():
                    got[name][n].append(aggregate(c, n, a.tokens))
    finally:
        for c in opened:
            c.__exit__(None, None, None)
    first = next(iter(got))
    rows = []
    for name, by_n in got.items():
        line = [name]
        for n in streams:
            v, base = statistics.median(by_n[n]), statistics.median(got[first][n])
            line.append(f"{v:.0f} ({v / base:.2f})")
            rows.append([name, n, f"{v:.1f}", f"{v / base:.3f}", *(f"{x:.1f}" for x in by_n[n])])
        print("| " + " | ".join(line) + " |", flush=True)
    if a.csv:
        with open(a.csv, "w", newline="") as f:
            w = csv.writer(f)
            w.writerow(["split", "streams", "tok_s", "ratio", *(f"round_{i + 1}" for i in range(a.rounds))])
            w.writerows(rows)


if __name__ == "__main__":
    main()
