"""See compare.sh. A row is something measured by ours and by theirs in turn; its figure is the ratio of the
medians. Models are made or fetched under build/models; nothing is measured by a test."""
import argparse
import contextlib
import csv
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cluster"))
import cluster as kit  # noqa: E402
import load  # noqa: E402
import made_gguf  # noqa: E402
import peer  # noqa: E402

MADE = kit.MODELS / "made"
KINDS = ["Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q5_0"]
MOE = dict(dim=576, layers=30, heads=9, kv=3, ffn=1536, experts=16, used=2)     # SmolLM2's layers, 16 experts
A3B = dict(dim=2048, layers=4, heads=32, kv=4, ffn=768, experts=128, used=8)    # Qwen3-30B-A3B's, 4 layers


def made(name, kind, **shape):
    MADE.mkdir(parents=True, exist_ok=True)
    path = MADE / f"{name}.gguf"
    if not path.exists():
        made_gguf.write(path.with_suffix(".part"), kit.SMOLLM2, kind, **shape)
        path.with_suffix(".part").rename(path)
    return path


def ours(model, threads, prompt=16, tokens=1, depth=0, kv="f16"):
    out = subprocess.run([kit.PROGRAM, "bench", model, "--json", "--batch", "1", "--threads", str(threads), "--prompt",
                          str(prompt), "--tokens", str(tokens), "--depth", str(depth), "--kv", kv],
                         check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)


class Row:
    """What, under which conditions; two functions that give one reading each (theirs may be None)."""

    def __init__(self, group, name, unit, mine, theirs, goal, less=False, share=None):
        self.group, self.name, self.unit, self.goal, self.less = group, name, unit, goal, less
        self.mine, self.theirs, self.share = mine, theirs, share
        self.got, self.other, self.shares = [], [], []

    def measure(self, rounds):
        for _ in range(rounds):
            v = self.mine()
            if isinstance(v, tuple):
                v, share = v
                self.shares.append(share)
            self.got.append(v)
            if self.theirs:
                self.other.append(self.theirs())

    def ratio(self):
        return statistics.median(self.got) / statistics.median(self.other) if self.other else None

    def line(self):
        mid, r = statistics.median(self.got), self.ratio()
        cells = [self.group, self.name, f"{mid:.4g} {self.unit}"]
        cells += [f"{statistics.median(self.other):.4g}", f"{r:.2f}"] if r else ["", ""]
        cells += [("<= " if self.less else ">= ") + f"{self.goal:g}" if self.goal else ""]
        cells += [f"{100 * statistics.median(self.shares):.0f} % {self.share}" if self.shares else ""]
        return "| " + " | ".join(cells) + " |"


# -- kernels: trireme bench beside llama-bench --

def real_models():
    return {"SmolLM2 Q4_1": kit.SMOLLM2, "Gemma 3 Q4_K_M": kit.GEMMA3}


def decode_rows(llama):
    models = real_models() | {f"360M {k}": made(f"360m-{k}", k) for k in ("Q4_0", "Q4_K", "Q8_0", "Q6_K")}
    for name, path in models.items():
        for t in (1, 2):
            def mine(path=path, t=t):
                r = ours(path, t, tokens=64)["rows"][0]
                return r["decode_tok_s"], r["decode_share"]
            theirs = llama and (lambda path=path, t=t: llama.bench(path, t, tokens=64))
            yield Row("decode", f"{name}, {t} threads", "tok/s", mine, theirs, 1.25, share="of read bandwidth")


def prefill_rows(llama):
    goals = {"Q4_0": 1.3, "Q4_K": 1.3, "Q8_0": 1.4, "Q5_0": 1.4}
    for k in KINDS:
        path = made(f"360m-{k}", k)
        for n in (512, 2048):
            def mine(path=path, n=n):
                r = ours(path, 2, prompt=n)["rows"][0]
                return r["prompt_tok_s"], r["prompt_share"]
            theirs = llama and (lambda path=path, n=n: llama.bench(path, 2, prompt=n))
            yield Row("prefill", f"{k}, {n} tokens", "tok/s", mine, theirs, goals.get(k, 2), share="of int8 peak")


def depth_rows(llama):
    path = made("360m-Q4_K", "Q4_K")
    for kv, peer_kv, goal in (("f16", "f16", 1.3), ("q8", "q8_0", 2)):
        def mine(kv=kv):
            return ours(path, 2, prompt=256, depth=4096, kv=kv)["rows"][0]["prompt_tok_s"]
        theirs = llama and (lambda kv=peer_kv: llama.bench(path, 2, prompt=256, depth=4096, kv=kv))
        yield Row("depth", f"prefill behind 4096 tokens, KV {kv}", "tok/s", mine, theirs, goal)


def moe_rows(llama):
    models = {"SmolLM2 with 16 experts, Q4_0": made("moe16-Q4_0", "Q4_0", **MOE),
              "Qwen3-30B-A3B's shape, 4 layers, Q4_K": made("a3b-Q4_K", "Q4_K", **A3B)}
    for name, path in models.items():
        def prompt(path=path):
            return ours(path, 2, prompt=512)["rows"][0]["prompt_tok_s"]

        def decode(path=path):
            return ours(path, 2, tokens=48)["rows"][0]["decode_tok_s"]
        yield Row("moe", f"{name}, prefill 512", "tok/s", prompt,
                  llama and (lambda path=path: llama.bench(path, 2, prompt=512)), 2)
        yield Row("moe", f"{name}, decode", "tok/s", decode,
                  llama and (lambda path=path: llama.bench(path, 2, tokens=48)), 1.25)


# -- servers, each with its client on the same cores --

class Turns:
    """Two servers that are never at work at once; opened when they are needed first, closed at the end."""

    def __init__(self, stack):
        self.stack, self.opened = stack, {}

    def get(self, name, make):
        if name not in self.opened:
            s = make()
            if hasattr(s, "__enter__"):
                self.stack.enter_context(s)
            else:
                self.stack.callback(s.close)
            self.opened[name] = s
        return self.opened[name]


def fresh(counter=[0]):
    """A number never used before: no prompt is in any cache."""
    counter[0] += 1
    return counter[0] * 131 + time.time_ns() % 97


def one_process(*serve):
    return kit.Cluster(kit.SMOLLM2, local=1, serve=["--threads", "2", "--slots", "32", *serve])


def server_rows(llama, turns, kind):
    def mine():
        return turns.get("one process", one_process)

    def theirs(slots):
        return turns.get(f"llama-server {slots}", lambda: llama.server(kit.SMOLLM2, 2, slots, slots * 2048))
    if kind == "streams":
        for n, goal in ((1, 1.25), (4, 2), (8, 2.5), (16, 3)):
            def run(server, n=n):
                return load.together(server, [load.ids(fresh(), 16) for _ in range(n)], 64)[0]
            yield Row("streams", f"{n} at once, all tokens", "tok/s", lambda run=run: run(mine()),
                      llama and (lambda run=run, n=n: run(theirs(n))), goal)
    else:
        for at, name in ((0.5, "p50"), (0.99, "p99")):
            def run(server, at=at):
                first = load.together(server, [load.ids(fresh(), 1000) for _ in range(8)], 4)[1]
                return first[min(len(first) - 1, int(at * len(first)))]
            yield Row("first", f"8 clients, 1000 tokens each, {name}", "s", lambda run=run: run(mine()),
                      llama and (lambda run=run: run(theirs(8))), 0.5, less=True)


def split_rows(llama, turns):
    """Against ourselves in one process of two threads. Stages are balanced for requests as long as the context
    allows: it is as long as these need."""
    def cluster(name, *serve):
        return turns.get(name, lambda: kit.Cluster(kit.SMOLLM2, workers=["a", "b"],
                                                   serve=["--slots", "32", "--ctx", "512", *serve]))

    def run(server, n):
        return load.together(server, [load.ids(fresh(), 16) for _ in range(n)], 64)[0]

    def whole(n):
        return lambda: run(turns.get("one process", one_process), n)
    yield Row("split", "layers over 2 workers against one process, 8 streams", "tok/s",
              lambda: run(cluster("layers"), 8), whole(8), 0.97)
    yield Row("split", "tensor over 2 workers against one process, 1 stream", "tok/s",
              lambda: run(cluster("tensor", "--split", "tensor"), 1), whole(1), 0.85)
    if not llama:
        return

    def rpc():
        workers = [(port, llama.rpc(port, 1)) for port in (peer.free_port(), peer.free_port())]
        time.sleep(1)
        for _, p in workers:
            turns.stack.callback(p.wait)
            turns.stack.callback(p.terminate)
        list_ = ",".join(f"127.0.0.1:{port}" for port, _ in workers)
        return llama.server(kit.SMOLLM2, 1, 8, 8 * 2048, ["--rpc", list_, "-ngl", "99"])
    for n, goal in ((1, 1.5), (8, 2.5)):
        yield Row("split", f"layers over 2 workers against llama.cpp RPC, {n} streams", "tok/s",
                  lambda n=n: run(cluster("layers"), n), lambda n=n: run(turns.get("rpc", rpc), n), goal)


def spinner_rows(llama):
    """Two threads while another process spins on one core, against the same without it."""
    def decode():
        return ours(kit.SMOLLM2, 2, tokens=48)["rows"][0]["decode_tok_s"]

    def disturbed(measure):
        p = subprocess.Popen([sys.executable, "-c", "import os\nos.sched_setaffinity(0, {0})\nwhile True: pass"])
        try:
            return measure()
        finally:
            p.kill()
            p.wait()
    yield Row("spinner", "ours with against without a spinning process", "tok/s", lambda: disturbed(decode), decode,
              0.45)
    if llama:
        def theirs():
            return llama.bench(kit.SMOLLM2, 2, tokens=48)
        yield Row("spinner", "llama.cpp with against without", "tok/s", lambda: disturbed(theirs), theirs, None)


def replay_rows(turns):
    """An agent's conversation: each turn sends everything before again. Cache on against off."""
    def on():
        return turns.get("one process", one_process)

    def off():
        return turns.get("no cache", lambda: one_process("--no-prefix-cache"))

    def talk(server):
        seed, times = fresh(), []
        for turn in range(8):
            out = []
            load.stream(server, load.ids(seed, 1000 + 64 * turn), 8, out)
            times.append(out[0][0])
        return statistics.median(times[1:])

    def new(server):  # a small difference: of several
        return statistics.median(load.together(server, [load.ids(fresh(), 600)], 8)[1][0] for _ in range(5))
    yield Row("replay", "time to first token, 94 % repeated, cache on against off", "s", lambda: talk(on()),
              lambda: talk(off()), 0.1, less=True)
    yield Row("replay", "the same with nothing repeated", "s", lambda: new(on()), lambda: new(off()), 1.01, less=True)


# -- the whole --

GROUPS = ["decode", "prefill", "depth", "moe", "streams", "first", "split", "spinner", "replay"]


def rows_of(group, llama, turns):
    return {
        "decode": lambda: decode_rows(llama), "prefill": lambda: prefill_rows(llama),
        "depth": lambda: depth_rows(llama), "moe": lambda: moe_rows(llama),
        "streams": lambda: server_rows(llama, turns, "streams"), "first": lambda: server_rows(llama, turns, "first"),
        "split": lambda: split_rows(llama, turns), "spinner": lambda: spinner_rows(llama),
        "replay": lambda: replay_rows(turns),
    }[group]()


def commit():
    r = subprocess.run(["git", "-C", kit.ROOT, "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL)
    return r.stdout.decode().strip() or "unknown"


def machine():
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{os.cpu_count()} cores, {name}"


HEAD = ["group", "what", "unit", "goal", "ratio", "ours", "theirs", "line", "about"]


class Table:
    """compare.csv and compare.md of a folder: whole after each row. What is measured again takes the
    place of what was there; other groups stay, each row with its own run's date, machine and commits."""

    def __init__(self, folder):
        self.csv, self.md = folder / "compare.csv", folder / "compare.md"
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = list(csv.DictReader(open(self.csv, newline=""))) if self.csv.exists() else []

    def put(self, r, about):
        values = [r.group, r.name, r.unit, r.goal, r.ratio() and f"{r.ratio():.3f}", " ".join(f"{v:.5g}" for v in r.got),
                  " ".join(f"{v:.5g}" for v in r.other), r.line(), about]
        others = [x for x in self.rows if (x["group"], x["what"]) != (r.group, r.name)]
        self.rows = [*others, dict(zip(HEAD, values))]
        self.rows.sort(key=lambda x: GROUPS.index(x["group"]))
        self.write()

    def write(self):
        with open(self.csv, "w", newline="") as f:
            w = csv.DictWriter(f, HEAD)
            w.writeheader()
            w.writerows(self.rows)
        by_run = {}
        for r in self.rows:
            by_run.setdefault(r["about"], []).append(r["line"])
        self.md.write_text("\n".join(f"{about}\n\n" + "\n".join([*TITLE, *lines]) + "\n" for about, lines in by_run.items()))


TITLE = ["| group | what | ours | theirs | ratio | goal | share |", "|---|---|---|---|---|---|---|"]


def main():
    p = argparse.ArgumentParser(description="Speed beside llama.cpp")
    p.add_argument("llama", nargs="?", help="folder with llama-bench, llama-server, ggml-rpc-server")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", default=",".join(GROUPS), help="of " + ",".join(GROUPS))
    p.add_argument("--out", help="folder for compare.csv and compare.md; rows that are there and not measured now stay")
    a = p.parse_args()
    unknown = set(a.only.split(",")) - set(GROUPS)
    if unknown:
        p.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    kit.need(kit.PROGRAM, kit.SMOLLM2, kit.GEMMA3)
    table = Table(pathlib.Path(a.out)) if a.out else None
    llama = peer.Llama(a.llama) if a.llama else None
    roof = ours(kit.SMOLLM2, 2, tokens=4)
    if llama:
        llama.bench(kit.SMOLLM2, 2, tokens=4)  # tells its commit
    about = (f"{time.strftime('%Y-%m-%d')}, {machine()}; read {roof['read_bytes_per_s'] / 1e9:.1f} GB/s, int8 "
             f"{roof['int8_ops_per_s'] / 1e9:.0f} GOP/s (2 threads, measured in this run); trireme {commit()}, "
             f"llama.cpp {llama.commit if llama else 'not measured'}; medians of {a.rounds} alternating rounds")
    print("\n".join([about, "", *TITLE]), flush=True)
    for group in a.only.split(","):
        with contextlib.ExitStack() as stack:
            for row in rows_of(group, llama, Turns(stack)):
                row.measure(a.rounds)
                print(row.line(), flush=True)
                if table:
                    table.put(row, about)


main()
