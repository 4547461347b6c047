#!/bin/sh
# The newcomer's command, on a port of its own, with everything already built.
set -eu
if [ ! -f build/models/SmolLM2-135M-Instruct.Q4_1.gguf ]; then
    echo "SKIPPED: the model is not there"
    exit 77
fi
PORT=${PORT:-30917} ./deploy/quickstart.sh --once >build/quickstart.out 2>&1 || { cat build/quickstart.out; exit 1; }
cat build/quickstart.out
grep -q "lane 0: ready, 2 of 2 stages, road ucx" build/quickstart.out
grep -q "The capital of Japan is Tokyo" build/quickstart.out
