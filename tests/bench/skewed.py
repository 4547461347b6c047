"""Tokens per second of two uneven workers: one has a core, the other only a part of one (a CPU quota
by control group; needs root). The layers divided by what the workers measured, against divided as if
they were alike, which is what a split by memory gives here. Alternating rounds, medians.

    skewed.py MODEL [--part 0.4] [--streams 8] [--tokens 32] [--rounds 3]
"""
import argparse
import os
import pathlib
import re
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
import cluster as kit  # noqa: E402
from splits import aggregate  # noqa: E402

PERIOD_US = 10000


class Quota:
    """A control group that leaves its processes a part of one core; version 1 or 2."""

    def __init__(self, part):
        self.part = part
        old, new = pathlib.Path("/sys/fs/cgroup/cpu"), pathlib.Path("/sys/fs/cgroup")
        self.dir = (old if (old / "cpu.shares").exists() or (old / "tasks").exists() else new) / f"trireme-{os.getpid()}"

    def __enter__(self):
        try:
            self.dir.mkdir()
            if (self.dir / "cpu.cfs_quota_us").exists():
                (self.dir / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self.dir / "cpu.cfs_quota_us").write_text(str(int(self.part * PERIOD_US)))
            else:
                (self.dir / "cpu.max").write_text(f"{int(self.part * PERIOD_US)} {PERIOD_US}")
        except OSError as e:
            kit.skip(f"no control group with a CPU quota: {e}")
        return self

    def prefix(self):
        return ["sh", "-c", f'echo $$ > {self.dir}/cgroup.procs && exec "$@"', "sh"]

    def __exit__(self, *_):
        self.dir.rmdir()


class Measuring(kit.Worker):
    measuring = ()


def open_pair(model, quota, kind):
    c = kit.Cluster(model, workers=["a", "b"])
    c.workers = {n: kind(c, n) for n in c.names}
    c.workers["b"].prefix = quota.prefix()
    return c


def cuts(c):
    found = re.findall(r"worker (\w) gets layers (\d+)-(\d+)", c.log.read_text())
    return ", ".join(f"{w}: {int(b) - int(a) + 1}" for w, a, b in found)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--part", type=float, default=0.4)
    p.add_argument("--streams", type=int, default=8)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--rounds", type=int, default=3)
    a = p.parse_args()
    got = {"as if alike": [], "by measured speed": []}
    with Quota(a.part) as quota:
        for _ in range(a.rounds):
            for name, kind in zip(got, (kit.Worker, Measuring)):
                with open_pair(a.model, quota, kind) as c:
                    aggregate(c, 2, 4)
                    got[name].append(aggregate(c, a.streams, a.tokens))
                    layers = cuts(c)
                print(f"{name}: {got[name][-1]:.1f} tok/s, layers {layers}", flush=True)
    alike, ours = (statistics.median(v) for v in got.values())
    print(f"as if alike {alike:.1f}, by measured speed {ours:.1f} tok/s: {ours / alike:.2f}")


if __name__ == "__main__":
    main()
