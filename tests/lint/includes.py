#!/usr/bin/env python3
"""Checks that includes go downwards only, and that each third-party header stays in its wrappers.

Run from the repository root; prints one line per violation and exits 1 if there is any."""
import pathlib
import re
import sys

# Room -> rooms it may include. A room may always include itself.
BASE = ["proto/base"]
MAY = {
    "proto/base": [],
    "proto/wire": BASE,
    "proto/link": BASE + ["proto/wire"],
    "kernels": BASE,
    "topology": BASE,
    "worker": BASE + ["proto/wire", "proto/link", "kernels", "topology"],
    "coordinator": BASE + ["proto/wire", "proto/link", "topology"],
    "deploy": BASE + ["proto/wire", "proto/link", "kernels", "topology", "worker", "coordinator"],
}
# Third-party header -> files (prefixes) that may include it.
WRAPPERS = {
    r"ucp/|uct/|ucs/": ["proto/link/link_ucx"],
    r"gnutls/": ["proto/link/link_tls", "proto/link/tls_", "proto/link/identity", "coordinator/door/"],
    r"jansson\.h": ["proto/base/json.c"],
    r"microhttpd\.h": ["coordinator/door/"],
    r"uv\.h": ["coordinator/"],
    r"protobuf-c|control\.pb-c\.h": ["proto/wire/"],
    r"pcre2\.h": ["coordinator/text/"],
    r"utf8proc\.h": ["coordinator/text/"],
    r"hwloc\.h": ["topology/probe"],
    r"cyaml": ["topology/cluster"],
    r"curl/": ["deploy/client"],
    r"nccl\.h|cuda": ["kernels/cuda/"],
    r"immintrin\.h|arm_neon\.h|nmmintrin\.h|x86intrin\.h|cpuid\.h": ["kernels/cpu/", "proto/wire/frame", "topology/sha256"],
}


def room_of(path):
    for room in sorted(MAY, key=len, reverse=True):
        if path.startswith(room + "/"):
            return room
    return None


def check(path):
    room = room_of(path)
    for number, line in enumerate(pathlib.Path(path).read_text().splitlines(), 1):
        m = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
        if not m:
            continue
        inc = m.group(1)
        target = room_of(inc)
        if target and target != room and target not in MAY[room]:
            yield f"{path}:{number}: {room} must not include {target} ({inc})"
        for pattern, allowed in WRAPPERS.items():
            if re.match(pattern, inc.split("/")[-1]) or re.match(pattern, inc):
                if not any(path.startswith(a) for a in allowed):
                    yield f"{path}:{number}: {inc} belongs to {', '.join(allowed)}"


def main():
    files = [str(p) for room in ("proto", "kernels", "topology", "worker", "coordinator", "deploy")
             for p in sorted(pathlib.Path(room).rglob("*.[ch]"))]
    problems = [text for f in files for text in check(f)]
    print("\n".join(problems) if problems else f"includes: {len(files)} files, all downwards")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
