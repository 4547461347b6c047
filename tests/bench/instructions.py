"""Instructions per token of a tiny model, counted by valgrind and compared with the recorded figures: what
wall clocks on a busy machine cannot tell. Only what runs inside a step is counted, with one thread and the
AVX2 kernels, so the same build gives the same number every time.

    instructions.py [--record]     exit 1: a figure is off by more than 5 % (better ones too: record them)
"""
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cluster"))
import cluster as kit  # noqa: E402
import made_gguf  # noqa: E402

RECORD = HERE / "instructions.json"
TINY = dict(dim=256, layers=4, heads=4, kv=2, ffn=768, vocab=2048)
KINDS = ["Q4_0", "Q4_K", "Q8_0"]
PHASES = {"decode": (8, 8), "prompt": (64, 1)}  # tokens of the prompt, decoded
ROOM = 0.05


def count(model, prompt, tokens):
    """Instructions of all steps; those of the first pass, which warms up, are in it every time."""
    r = subprocess.run(
        ["valgrind", "--tool=callgrind", "--toggle-collect=stage_run", "--callgrind-out-file=/dev/null", kit.PROGRAM,
         "bench", model, "--device", "avx2", "--no-limits", "--threads", "1", "--batch", "1", "--prompt", str(prompt), "--tokens",
         str(tokens)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r"Collected : (\d+)", r.stdout)
    if r.returncode or not found:
        raise SystemExit(f"valgrind: exit {r.returncode}\n{r.stdout[-2000:]}")
    return int(found.group(1)) / (prompt + tokens)


def main():
    kit.need(kit.PROGRAM)
    if subprocess.run(["which", "valgrind"], stdout=subprocess.DEVNULL).returncode:
        kit.skip("valgrind is not installed")
    if "avx2" not in pathlib.Path("/proc/cpuinfo").read_text():
        kit.skip("this machine has no AVX2")
    recorded = {} if "--record" in sys.argv else json.loads(RECORD.read_text())
    got, bad = {}, 0
    for kind in KINDS:
        path = kit.BUILD / f"tiny-{kind}.gguf"
        made_gguf.write(path, None, kind, **TINY)
        for phase, (prompt, tokens) in PHASES.items():
            name = f"{kind} {phase}"
            got[name] = round(count(path, prompt, tokens))
            off = got[name] / recorded[name] - 1 if recorded else 0
            bad += abs(off) > ROOM
            print(f"{'FAIL' if abs(off) > ROOM else 'ok  '} {name}: {got[name]} instructions a token, {off:+.1%}",
                  flush=True)
        path.unlink()
    if not recorded:
        RECORD.write_text(json.dumps(got, indent=4) + "\n")
    return bad > 0


sys.exit(main())
