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
# that every Debian has.
python3 - "$build/trireme" "$model" "$text" <<'PY' || bad=1
import json, subprocess, sys
program, model, text = sys.argv[1:]
ppl = {p: json.loads(subprocess.run([program, "bench", model, "--perplexity", text, "--windows", "6", "--json", "--threads", "1",
                                     "--precision", p], check=True, capture_output=True, text=True).stdout)["perplexity"]
       for p in ("exact", "fast")}
off = ppl["fast"] / ppl["exact"] - 1
print(f"perplexity exact {ppl['exact']:.4f}, fast {ppl['fast']:.4f}: {off:+.3%} (limit 0.5%)")
sys.exit(abs(off) > 0.005)
PY
exit $bad
