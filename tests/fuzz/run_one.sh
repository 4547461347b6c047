#!/bin/sh
# Runs one libFuzzer binary for FUZZ_SECONDS (default 10) on a copy of its seeds, and prints how many
# inputs it ran. ROOM_NAME_fuzz has its seeds in tests/fuzz/corpus/NAME. Leaves nothing behind but,
# when it finds something, the input, whose path it prints.
#
# The random numbers begin with FUZZ_SEED (default 1), so that a run can be had again; 0: others each
# time. The long run, before a release: every target until all have run 10 million inputs together,
#   for f in build/san/tests/*_fuzz; do FUZZ_SEED=0 FUZZ_SECONDS=600 tests/fuzz/run_one.sh $f; done
set -eu
program=${1:?usage: run_one.sh PROGRAM}
here=$(cd "$(dirname "$0")" && pwd)
name=$(basename "$program" _fuzz)
seeds=$here/corpus/${name#*_}
work=$(mktemp -d)
keep=$(mktemp -d)
trap 'rm -rf "$work"; rmdir "$keep" 2>/dev/null || echo "kept: $keep"' EXIT
mkdir "$work/corpus"
if [ -d "$seeds" ]; then cp -r "$seeds/." "$work/corpus/"; fi
status=0
"$program" -seed="${FUZZ_SEED:-1}" -max_total_time="${FUZZ_SECONDS:-10}" -timeout=5 \
    -rss_limit_mb=512 -print_final_stats=1 -artifact_prefix="$keep/" -verbosity=1 "$work/corpus" >"$work/log" 2>&1 || status=$?
if [ $status -ne 0 ]; then tail -n 60 "$work/log"; fi
n=$(sed -n "s/^stat::number_of_executed_units: *//p" "$work/log" | tail -n 1)
echo "$(basename "$program"): ${n:-0} inputs in ${FUZZ_SECONDS:-10} s, exit $status"
if [ "${n:-0}" -eq 0 ]; then status=1; fi
exit $status
