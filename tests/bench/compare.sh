#!/bin/sh
# The whole table of speed on CPUs, side by side with llama.cpp on the same files, threads and minute:
# alternating rounds, medians, CSV and Markdown. Without the path it prints our half.
#   tests/bench/compare.sh [LLAMA-BIN-DIR] [--only decode,prefill,..] [--rounds N] [--out DIR]
exec python3 "$(dirname "$0")/compare.py" "$@"
