"""The goals of specs/performance.md (G1 to G9) from what the parts of gpu.sh left in a folder: summary.md there.

    gpu_summary.py FOLDER
"""
import json
import pathlib
import sys


def lines_of(folder, name):
    path = folder / f"{name}.txt"
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def bench_of(folder, name):
    """The JSON of a bench, rows by batch; {}: it did not run."""
    try:
        b = json.loads("\n".join(lines_of(folder, f"bench-{name}")))
    except ValueError:
        return {}
    return {**b, "rows": {r["batch"]: r for r in b["rows"]}}


def row(bench, batch, what):
    return bench.get("rows", {}).get(batch, {}).get(what)


def products_of(folder):
    """(type, rows, cols, n_tok): (microseconds, share of the copy, tflops)"""
    out = {}
    for line in lines_of(folder, "products"):
        f = line.split(",")
        if len(f) == 8 and f[1].isdigit():
            out[f[0], int(f[1]), int(f[2]), int(f[3])] = float(f[4]), float(f[6]), float(f[7])
    return out


def torch_of(folder):
    """(type, rows, cols, n_tok): (microseconds, tflops)"""
    out = {}
    for line in lines_of(folder, "torch"):
        f = line.split(",")
        if len(f) == 7 and f[1].isdigit():
            out[f[0], int(f[1]), int(f[2]), int(f[3])] = float(f[4]), float(f[5])
    return out


def mean(values):
    values = [v for v in values if v is not None]
    if not values:
        return None
    product = 1.0
    for v in values:
        product *= v
    return product ** (1 / len(values))


SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336))


def against(ours, theirs, n_tok, our_type, their_type):
    """Their time over ours, geometric mean over the shapes."""
    pairs = [(theirs.get((their_type, r, c, n_tok)), ours.get((our_type, r, c, n_tok))) for r, c in SHAPES]
    return mean([t[0] / o[0] for t, o in pairs if t and o and o[0] > 0])


def attention_of(folder, length):
    """Share of the bandwidth of decoding at this depth, the best batch of each shape, the mean of them."""
    best = {}
    for line in lines_of(folder, "attn"):
        f = line.split(",")
        if len(f) >= 8 and f[0] == "decode" and f[2] in ("F16", "BF16") and f[3] == str(length):
            best[f[1]] = max(best.get(f[1], 0), float(f[7]))
    return mean(best.values())


def prompts_of(folder):
    """Best TFLOP/s of attention to prompts."""
    rates = [float(f[6]) for f in (line.split(",") for line in lines_of(folder, "attn"))
             if len(f) >= 7 and f[0] == "prefill"]
    return max(rates, default=None)


def decoding(bench):
    """Share of the read bandwidth of one stream, and that limit and what was reached in tokens per second."""
    share, speed = row(bench, 1, "decode_share"), row(bench, 1, "decode_tok_s")
    if not share or not speed:
        return share, "", ""
    return share, f"{speed / share:.0f} tok/s", f"{speed:.0f} tok/s"


def goals_of(folder):
    """(number, what, goal, measured share or None, more is better, the limit it is a share of, what was reached)"""
    int4, q4k, bf16 = (bench_of(folder, n) for n in ("8b-int4", "8b-q4k", "8b-bf16"))
    one, small, eager, moe = (bench_of(folder, n) for n in ("1b", "small", "small-eager", "moe"))
    ours, theirs = products_of(folder), torch_of(folder)
    fast, slow, busy = row(small, 1, "decode_tok_s"), row(eager, 1, "decode_tok_s"), row(small, 64, "decode_busy")
    blas = max([t[1] for k, t in theirs.items() if k[0] == "bfloat16"], default=0)
    attention = prompts_of(folder)
    copy = [line.split(" ")[2] for line in lines_of(folder, "attn") if line.startswith("# copy ")]
    rates = f"{blas:.0f} TFLOP/s" if blas else ""

    def read(number, what, goal, bench):
        share, limit, reached = decoding(bench)
        return number, what, goal, share, True, limit, reached

    def product(number, what, goal, n_tok, ours_of, theirs_of):
        times = [theirs.get((theirs_of, r, c, n_tok)) for r, c in SHAPES]
        limit = "library: " + ", ".join(f"{t[0]:.0f}" for t in times) + " us" if all(times) else ""
        return number, what, goal, against(ours, theirs, n_tok, ours_of, theirs_of), True, limit, ""

    return [
        read("G1", "decode 8B Q4_0, share of read bandwidth", 0.70, int4),
        read("G1", "decode 8B Q4_K, share of read bandwidth", 0.70, q4k),
        read("G1", "decode 8B BF16, share of read bandwidth", 0.78, bf16),
        read("G2", "decode 1.2B BF16, share of read bandwidth", 0.55, one),
        read("G2", "decode 0.6B BF16, share of read bandwidth", 0.55, small),
        product("G3", "W4A16 M=16 (Q4_0) over FP16 of the library", 2.8, 16, "Q4_0", "float16"),
        product("G3", "W4A16 M=16 (INT4) over FP16 of the library", 2.8, 16, "INT4", "float16"),
        read("G4", "decode of 128 experts, 8 used, share of read bandwidth", 0.45, moe),
        ("G5", "paged attention at 32k, share of bandwidth", 0.80, attention_of(folder, 32768), True,
         f"{copy[0]} GB/s" if copy else "", ""),
        product("G6", "products of 512 rows, Q4_0, over BF16 of the library", 0.90, 512, "Q4_0", "bfloat16"),
        product("G6", "products of 512 rows, BF16, over BF16 of the library", 0.90, 512, "BF16", "bfloat16"),
        ("G6", "attention to prompts, share of the library's peak", 0.45, attention / blas if attention and blas else None, True,
         rates, f"{attention:.0f} TFLOP/s" if attention else ""),
        ("G7", "recorded steps over single operations, 0.6B", 1.8, fast / slow if fast and slow else None, True,
         f"{slow:.0f} tok/s" if slow else "", f"{fast:.0f} tok/s" if fast else ""),
        ("G8", "device idle, 0.6B, batch 64", 0.05, 1 - busy if busy else None, False, "", ""),
        ("G9", "the same GGUF over llama.cpp on the device (by hand: it is not built here)", 1.1, None, True, "", ""),
    ]


def parts_of(folder):
    for path in sorted(folder.glob("*.part")):
        yield path.read_text(encoding="utf-8").strip().split("\t")


def memory_of(folder):
    """Memory of each bench as planned and taken."""
    for path in sorted(folder.glob("bench-*.txt")):
        b = bench_of(folder, path.stem.removeprefix("bench-"))
        if b.get("taken_bytes"):
            yield (path.stem.removeprefix("bench-"), b["planned_bytes"], b["taken_bytes"], b["weight_bytes"], b["load_s"])


def main(folder):
    text = [f"# {folder.name}", ""]
    device = lines_of(folder, "device")
    text += [" ".join(line.split()) for line in device if line.strip().startswith(("Product Name", "Driver Version", "CUDA Version"))]
    text += ["", "| goal | what | limit | reached | share | wanted | |", "|---|---|---|---|---|---|---|"]
    for number, what, goal, got, more, limit, reached in goals_of(folder):
        verdict = "not measured" if got is None else "pass" if (got >= goal if more else got <= goal) else "MISS"
        text.append(f"| {number} | {what} | {limit} | {reached} | {'-' if got is None else f'{got:.3f}'} | "
                    f"{'>=' if more else '<='} {goal:g} | {verdict} |")
    text += ["", "| memory and loading | planned MiB | taken MiB | off | made and packed, GB/s |", "|---|---|---|---|---|"]
    for name, planned, taken, weights, seconds in memory_of(folder):
        text.append(f"| {name} | {planned / 2**20:.0f} | {taken / 2**20:.0f} | {100 * (planned / taken - 1):+.1f} % | "
                    f"{weights / max(seconds, 1e-9) / 1e9:.1f} |")
    for name in ("load", "serve"):
        if lines_of(folder, name):
            text += ["", f"{name}:", "```", *lines_of(folder, name), "```"]
    text += ["", "| part | | seconds |", "|---|---|---|"]
    text += [f"| {' | '.join(p)} |" for p in parts_of(folder)]
    (folder / "summary.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
