#!/bin/sh
# Formats every C file in place.
cd "$(dirname "$0")/../.." && find proto kernels topology worker coordinator deploy tests -name '*.[ch]' \
    -exec clang-format -i {} +
