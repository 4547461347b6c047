#!/bin/sh
# Lints the tree: include direction, measures, recursive protobuf messages, formatting, and words
# that must not stand on outside paths. `tests/lint/lint.sh` from anywhere; exit 1 on any finding.
set -u
cd "$(dirname "$0")/../.."
bad=0
python3 tests/lint/includes.py || bad=1
python3 tests/lint/measures.py || bad=1
python3 tests/lint/proto_check.py || bad=1
# assert and abort have no place in the product: outside bytes must never reach them (BUG is for
# invariants of our own and lives in proto/base/err.c).
if grep -nE '(^|[^_a-z])(assert|abort)[[:space:]]*\(' -r --include='*.[ch]' proto kernels topology worker \
    coordinator deploy | grep -v '^proto/base/err\.c'; then
    echo "lint: assert or abort in the product"
    bad=1
fi
if command -v clang-format >/dev/null; then
    files=$(find proto kernels topology worker coordinator deploy tests -name '*.[ch]')
    # shellcheck disable=SC2086
    if ! clang-format --dry-run -Werror $files 2>/tmp/trireme-format.$$; then
        grep -m 10 'error' /tmp/trireme-format.$$
        echo "lint: run tests/lint/format.sh"
        bad=1
    fi
    rm -f /tmp/trireme-format.$$
else
    echo "lint: clang-format is not installed; formatting not checked"
fi
exit $bad
