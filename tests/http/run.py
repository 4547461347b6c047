#!/usr/bin/env python3
"""Runs the HTTP tests: run.py DOOR_MOCK [SUBSTRING]. Prints one line per case; after each, a good
request must succeed, no descriptor may be left open, and nothing may still run. Exit 0, 1, or 77
if the fixtures are not there."""
import importlib
import os
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import kit  # noqa: E402


def settled(door, base_fds):
    # Connections of a case end when the server notices; that takes up to a sweep.
    kit.within(3, f"descriptors back to {base_fds}", lambda: door.fds() <= base_fds)
    kit.within(2, "nothing running", lambda: door.metric("mock_running") == 0)


def run_group(options, cases):
    failed = 0
    door = kit.Door(*options)
    try:
        door.good()
        base = door.fds()
        for name, f in cases:
            start = time.monotonic()
            try:
                f(door)
                door.good()
                settled(door, base)
                print(f"ok   {name} ({time.monotonic() - start:.2f} s)", flush=True)
            except Exception:
                failed += 1
                print(f"FAIL {name}", flush=True)
                traceback.print_exc()
                if door.process.poll() is not None:
                    break
    finally:
        try:
            door.close()
        except AssertionError as e:
            failed += 1
            print(f"FAIL {e}")
    return failed


def main():
    kit.program = sys.argv[1]
    with open(kit.program, "rb") as f:
        kit.sanitized = b"__asan_init" in f.read()
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    if not os.path.exists(kit.VOCAB):
        print(f"SKIP: no fixtures at {kit.FIXTURES} (set TRIREME_FIXTURES)")
        return 77
    here = os.path.dirname(os.path.abspath(__file__))
    for file in sorted(os.listdir(here)):
        if file.startswith("test_") and file.endswith(".py"):
            importlib.import_module(file[:-3])
    groups = {}
    for name, options, f in kit.cases:
        if wanted in name:
            groups.setdefault(options, []).append((name, f))
    start = time.monotonic()
    failed = sum(run_group(options, cases) for options, cases in groups.items())
    total = sum(len(g) for g in groups.values())
    print(f"{total} cases, {failed} failed, {time.monotonic() - start:.1f} s")
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.exit(main())
