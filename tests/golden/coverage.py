#!/usr/bin/env python3
"""The coverage table of README.md, from what the golden tests wrote.

    coverage.py build/tests/coverage.tsv README.md            says whether the table is the tests'
    coverage.py --write build/tests/coverage.tsv README.md    puts it there

One line per architecture; a type stands there if a checkpoint of it passed.
"""
import sys

# GGUF's names for the same architecture. Its "llama" is mistral and mixtral too, its "deepseek2" both.
SAME = {
    "qwen3moe": "qwen3_moe", "qwen3next": "qwen3_next", "qwen35": "qwen3_5", "qwen35moe": "qwen3_5_moe",
    "mistral3": "ministral3", "gpt-oss": "gpt_oss", "glm4moe": "glm4_moe", "minimax-m2": "minimax_m2",
}
BEGIN, END = "<!-- coverage: written by tests/golden/coverage.py -->", "<!-- end of coverage -->"


def table(path):
    rows = {}
    for line in open(path, encoding="utf-8"):
        arch, container, quant, verdict = line.rstrip("\n").split("\t")
        cell = rows.setdefault(SAME.get(arch, arch), {}).setdefault(container, {})
        cell[quant] = cell.get(quant, True) and verdict == "ok"
    out = ["| architecture | Hugging Face | GGUF |", "|---|---|---|"]
    for arch in sorted(rows):
        cells = []
        for container in ("Hugging Face", "GGUF"):
            quants = rows[arch].get(container, {})
            cells.append(", ".join(q if good else f"~~{q}~~" for q, good in sorted(quants.items())))
        out.append(f"| {arch} | {cells[0]} | {cells[1]} |")
    return "\n".join(out)


def main(argv):
    write = argv[:1] == ["--write"]
    tsv, readme = argv[write:]
    text = open(readme, encoding="utf-8").read()
    before, rest = text.split(BEGIN)
    found, after = rest.split(END)
    wanted = f"\n{table(tsv)}\n"
    if write:
        open(readme, "w", encoding="utf-8").write(before + BEGIN + wanted + END + after)
    elif found != wanted:
        sys.exit(f"{readme}: the coverage table is not what the tests found; run {sys.argv[0]} --write {tsv} {readme}")


main(sys.argv[1:])
