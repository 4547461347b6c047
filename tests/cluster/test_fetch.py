"""Workers without the model's file copy what their stage needs from the coordinator, and no more; copies
go on after a kill, are refused before a disk is full, and a damaged one is noticed."""
import json
import os
import re
import subprocess
import time

from cluster import PROGRAM, SMOLLM2, Cluster, Worker, need, run

need(SMOLLM2)
PROMPT = list(range(100, 140))
SIZE = SMOLLM2.stat().st_size


class Guest(Worker):
    """A worker without --model, with a store of its own."""

    def store(self):
        return self.cluster.dir / f"store-{self.name}"

    def reads(self):
        return ["--store", self.store(), "--store-reserve", "1M"]


class Guests(Cluster):
    def __init__(self, *args, guests=(), **more):
        super().__init__(*args, **more)
        for n in guests:
            self.workers[n] = Guest(self, n, self.worker_options)


def held_bytes(store):
    """Bytes on the disk, of files that are sparse."""
    return sum(f.stat().st_blocks * 512 for f in store.rglob("*") if f.is_file())


def copies(store):
    return sorted(p.name for p in store.iterdir() if p.is_dir())


def stage_of(c, name):
    return next(s for s in c.status()["lanes"][0]["stages"] if s["worker"] == name)


def wait_for(what, seconds, check):
    begin = time.time()
    while not check():
        assert time.time() - begin < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.01)


def expected():
    with Cluster(SMOLLM2, local=1) as c:
        return c.digest(PROMPT, 12)


def fetched_mib(c, name):
    log = (c.dir / f"worker-{name}.log").read_text()
    return [float(x) for x in re.findall(r"fetched ([0-9.]+) MiB in", log)]


def test_only_its_ranges():
    want = expected()
    with Guests(SMOLLM2, workers=["a", "b"], guests=["b"]) as c:
        assert c.digest(PROMPT, 12) == want
        store = c.workers["b"].store()
        held = held_bytes(store)
        assert [p[-5:] for p in copies(store)] == [".part"], copies(store)
        # Besides its layers come 64 samples of a unit each.
        assert held < 0.9 * SIZE, f"{held} of {SIZE} bytes for {stage_of(c, 'b')}"
        assert fetched_mib(c, "a") == []  # the file with the right hash is read where it is
        assert len(fetched_mib(c, "b")) == 1 and fetched_mib(c, "b")[0] * 2**20 < 1.01 * held
        return f"{held / 2**20:.1f} of {SIZE / 2**20:.1f} MiB"


def test_goes_on_after_a_kill():
    want = expected()
    with Guests(SMOLLM2, workers=["a"], serve=["--stages", "2"]) as c:
        assert c.digest(PROMPT, 12) == want
        b = c.workers["b"] = Guest(c, "b")
        c.names.append("b")
        b.start()
        wait_for("some bytes on the disk", 60, lambda: list(b.store().rglob(".map")))
        b.kill()
        held = held_bytes(b.store())
        wait_for("the loss is seen", 20, lambda: len(c.status()["lanes"][0]["stages"]) == 1)
        b.start()
        wait_for("two stages", 60, lambda: len(c.status()["lanes"][0]["stages"]) == 2)
        c.wait_ready()
        assert c.digest(PROMPT, 12) == want
        again, all_bytes = sum(fetched_mib(c, "b")) * 2**20, held_bytes(b.store())
        assert again <= all_bytes - 2**20, f"{again:.0f} of {all_bytes} bytes were fetched again"
        return f"{held / 2**20:.1f} MiB before the kill, {again / 2**20:.1f} after"


def test_no_room():
    with Guests(SMOLLM2, workers=["a"], serve=["--stages", "2"]) as c:
        b = c.workers["b"] = Guest(c, "b")
        b.store().mkdir()
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "trireme-test", b.store()]).returncode:
            return "SKIPPED: cannot mount a small volume"
        try:
            b.start()
            log = c.dir / "worker-b.log"
            wait_for("the refusal", 60, lambda: log.exists() and "no room for a copy" in log.read_text())
            said = re.search(r"no room for a copy: .*", log.read_text()).group(0)
            assert re.search(r"[0-9.]+ MiB are to be fetched .* [0-9.]+ MiB are free", said), said
            assert held_bytes(b.store()) < 20 * 2**20
            c.wait_ready()
            c.digest(PROMPT, 4)  # the other one serves
        finally:
            b.stop()
            subprocess.run(["umount", b.store()], check=True)
        return said


class Limited(Guest):
    def reads(self):
        return [*super().reads(), "--store-limit", "100M"]


def test_the_oldest_copy_makes_room():
    """Of two copies that nobody uses only the one used longest ago has to go."""
    with Guests(SMOLLM2, workers=["a"], serve=["--stages", "2"]) as c:
        b = c.workers["b"] = Limited(c, "b")
        c.names.append("b")
        for i, mib in enumerate((60, 8)):
            folder = b.store() / (f"{i}f" * 32)
            folder.mkdir(parents=True)
            (folder / "old.gguf").write_bytes(bytes(range(256)) * 4096 * mib)
            os.utime(folder, (1000 + i, 1000 + i))
        b.start()
        wait_for("two stages", 60, lambda: len(c.status()["lanes"][0]["stages"]) == 2)
        c.wait_ready()
        assert [p[:2] for p in copies(b.store())] == sorted(["1f", c.status()["model"]["hash"][:2]]), copies(b.store())
        listed = subprocess.run([PROGRAM, "store", "--store", b.store(), "--json"], capture_output=True, text=True,
                                check=True)
        listed = json.loads(listed.stdout)["copies"]
        assert len(listed) == 2 and listed[0]["hash"].startswith("1f") and not listed[1]["whole"], listed
        assert sum(x["disk_bytes"] for x in listed) <= 100 * 2**20
        busy = subprocess.run([PROGRAM, "store", "--store", b.store(), "--remove", "1f"], capture_output=True,
                              text=True, check=False)
        assert busy.returncode and "another worker's" in busy.stderr, busy
        b.stop()
        subprocess.run([PROGRAM, "store", "--store", b.store(), "--remove", "1f"], check=True, capture_output=True)
        assert len(copies(b.store())) == 1
        return f"{listed[1]['disk_bytes'] / 2**20:.1f} MiB of {listed[1]['model_bytes'] / 2**20:.1f}"


if __name__ == "__main__":
    run([test_only_its_ranges, test_goes_on_after_a_kill, test_no_room, test_the_oldest_copy_makes_room])
