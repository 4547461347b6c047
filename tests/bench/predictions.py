#!/usr/bin/env python3
"""Predicted figures for the cluster files and some models, as a Markdown table and a CSV file.

    predictions.py [OUT.csv]

Every figure is a limit by the data sheets in deploy/clusters: bandwidth and peak arithmetic, nothing
lost. What others published for the same machine and model stands beside it, where something is known.
"""
import csv
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("TRIREME_BUILD", ROOT / "build")) / "trireme"

# cluster file, model, what was published (tokens/s of one stream; of a batch) and by whom:
# llmgarage.ai/gpt-oss-120b-dual-3090 (January 2026; the experts of 26 of 36 layers in 64 GB of DDR4);
# TensorRT-LLM 0.5, docs/source/performance.md (H100, FP8, tensor over four, 128 tokens in, 128 to 2048 out). Of a
# model of 119B on two 3090s no measurement was found.
CASES = [
    ("one-gb10", "shape:gpt-oss-120b", "58.7; 353 at batch 32 (llama.cpp)"),
    ("one-gb10", "shape:qwen3.6-35b-a3b-int4", "69.2 (with speculation)"),
    ("two-gb10-cx7", "shape:gpt-oss-120b", ""),
    ("two-3090-nvlink", "shape:llama-3.3-70b-int4", "25-30"),
    ("two-3090-nvlink", "shape:mistral-small-4-119b-nvfp4", "none found"),
    ("two-3090-nvlink", "shape:gpt-oss-120b", "10-17 (llama.cpp)"),
    ("two-4090", "shape:llama-3.3-70b-int4", ""),
    ("four-h100", "shape:llama-3.3-70b-int4", "2616-3317 at batch 64 (TensorRT-LLM, FP8)"),
    ("four-h100", "shape:mistral-small-4-119b-nvfp4", ""),
    ("laptop-5080", "shape:gpt-oss-20b", ""),
    ("laptop-5080", "shape:qwen3.6-35b-a3b-int4", ""),
    ("spark-and-h100", "shape:qwen3.6-35b-a3b-int4", ""),
    ("two-cpu-boxes", "shape:qwen3.6-35b-a3b-int4", ""),
]
BATCH = 32


def plan(cluster, model, *options):
    r = subprocess.run([PROGRAM, "plan", model, "--cluster", ROOT / f"deploy/clusters/{cluster}.yaml", "--json",
                        *options], capture_output=True, text=True)
    if r.returncode:
        return None, r.stderr.strip().removeprefix("error: ")
    return json.loads(r.stdout), None


def layout(option):
    """gpu0+gpu1 (tensor), cpu; lanes are kept apart by a bar"""
    def stage(s):
        names = "+".join(m["device"] for m in s["members"])
        return f"{names} ({s['split']})" if len(s["members"]) > 1 else names
    return " / ".join(", ".join(stage(s) for s in lane["stages"]) for lane in option["lanes"])


def row(cluster, model, published):
    one, why = plan(cluster, model, "--goal", "latency", "--batch", "1")
    many, _ = plan(cluster, model, "--goal", "throughput", "--batch", str(BATCH))
    if not one:
        return [cluster, model.removeprefix("shape:"), f"none: {why}", "", "", "", "", published]
    best = one["plans"][0]
    alone = next((p for p in one["plans"] if p["kind"] == "one device" and p["lanes"]), None)
    most = many["plans"][0] if many else None
    return [cluster, model.removeprefix("shape:"), f"{best['kind']}: {layout(best)}", f"{best['stream_tok_s']:.1f}",
            f"{alone['stream_tok_s']:.1f}" if alone else "-", f"{best['prefill_tok_s']:.0f}",
            f"{most['total_tok_s']:.0f} ({most['kind']})" if most else "-", published or "-"]


HEAD = ["cluster file", "model", "best plan for one stream", "tok/s", "one device alone", "prefill tok/s",
        f"in all, batch {BATCH}", "published"]


def main():
    rows = [row(*c) for c in CASES]
    print("Predicted, not measured: limits by data sheet, 8192 tokens of context, depth 4096.\n")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for r in rows:
        print("| " + " | ".join(r) + " |")
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", newline="") as f:
            csv.writer(f).writerows([HEAD, *rows])


main()
