#!/bin/sh
# A real model against the tokens and logits of an independent float32 implementation (exact), and
# the default kernels against exact (fast): tests/golden/real.sh NAME
set -u
fixtures=${TRIREME_FIXTURES:-../shared/fixtures}
build=${TRIREME_BUILD:-build}
model=build/models/$1.gguf
text=/usr/share/common-licenses/GPL-3
for f in "$fixtures/real/$1.json" "$model"; do
    if [ ! -f "$f" ]; then
        echo "SKIPPED: $f is not there"
        exit 77
    fi
done
bad=0
for precision in exact fast; do # one thread: tests with deadlines run on the other core
    "$build/tests/golden" --precision $precision --threads 1 "$model" --real "$fixtures/real/$1.json" || bad=1
done
# Perplexity of the default kernels within 0.5 % of the exact ones', on the first windows of a text
# that every Debian has. The exact figures are recorded (perplexity.json): they cost a minute, and
# are computed again only by run.sh --all.
python3 - "$build/trireme" "$model" "$text" tests/golden/perplexity.json <<'PY' || bad=1
import json, os, pathlib, subprocess, sys
program, model, text, record = sys.argv[1:]
def measure(precision):
    run = subprocess.run([program, "bench", model, "--perplexity", text, "--windows", "6", "--json", "--threads", "1",
                          "--precision", precision], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)["perplexity"]
exact = json.load(open(record))[pathlib.Path(model).stem]
if os.environ.get("TRIREME_TEST_ALL"):
    again = measure("exact")
    print(f"perplexity exact {again:.4f}, recorded {exact:.4f}")
    if abs(again / exact - 1) > 1e-4:
        sys.exit(1)
fast = measure("fast")
off = fast / exact - 1
print(f"perplexity exact {exact:.4f}, fast {fast:.4f}: {off:+.3%} (limit 0.5%)")
sys.exit(abs(off) > 0.005)
PY
exit $bad
