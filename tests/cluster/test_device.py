"""A server whose worker computes with the CUDA backend, run on the host: greedy text is that of the CPU in exact
precision; devices are told by name; a device that is not there is refused."""
import os
import pathlib
import subprocess
import tempfile

from cluster import BUILD, PROGRAM, Cluster, need, run, tiny_moe

MODULE = BUILD / "libtrireme-cuda-host.so"
need(MODULE)
os.environ["TRIREME_CUDA"] = str(MODULE)
SCRATCH = tempfile.TemporaryDirectory(prefix="trireme-device-")
MODEL = tiny_moe(pathlib.Path(SCRATCH.name))
SMALL = ("--precision", "exact", "--kv", "f32", "--ctx", "128", "--slots", "2", "--step-tokens", "64")
PROMPTS = [[(i * 37 + k * k * 11) % 250 for k in range(9 + 40 * i)] for i in range(2)]


def greedy(*serve):
    with Cluster(MODEL, serve=[*SMALL, *serve]) as c:
        return c.status()["workers"][0]["device"], [c.complete(p, max_tokens=8, ignore_eos=True)["choices"][0]["text"] for p in PROMPTS]


def test_a_device_says_what_the_cpu_says():
    cpu, want = greedy("--threads", "1")
    gpu, got = greedy("--device", "cuda", "--threads", "1")
    assert cpu["kind"] == "cpu" and gpu["kind"] == "cuda", (cpu, gpu)
    assert "cuda" in gpu["name"].lower() or "cuda" in gpu["isa"].lower(), gpu
    assert got == want, (got, want)


def test_groups_of_devices():
    """The same text from device to device as over the host's port; which way it was is told."""
    _, want = greedy("--threads", "1")
    for n, split, way, told in ((2, "tensor", "auto", "nccl, peers"), (3, "tensor", "peers", "peers"),
                                (2, "experts", "auto", "nccl"), (2, "experts", "port", "")):
        with Cluster(MODEL, serve=[*SMALL, "--device", "cuda", "--threads", "1", "--workers", str(n), "--split", split,
                                   "--parts", ",".join("1" * n), "--group", way]) as c:
            got = [c.complete(p, max_tokens=8, ignore_eos=True)["choices"][0]["text"] for p in PROMPTS]
            roads = [w["road"].split("; ")[-1] for w in c.status()["workers"]]
        assert got == want, (n, split, way, got, want)
        assert all(r == told if told else r.startswith("ucx") for r in roads), (n, split, way, roads)


def test_stages_on_devices():
    """Activations stay on devices between stages, of groups too; where that is not wanted they take the host's road."""
    _, want = greedy("--threads", "1")
    for n, more, way, told in ((2, (), "auto", "peers"), (3, (), "nccl", "nccl"), (2, (), "port", "ucx"),
                               (4, ("--split", "tensor", "--stages", "2"), "auto", "peers; nccl, peers")):
        with Cluster(MODEL, serve=[*SMALL, "--device", "cuda", "--threads", "1", "--workers", str(n), *more, "--group", way]) as c:
            got = [c.complete(p, max_tokens=8, ignore_eos=True)["choices"][0]["text"] for p in PROMPTS]
            roads = [w["road"] for w in c.status()["workers"]]
        assert got == want, (n, more, way, got, want)
        assert any(r.startswith(told) for r in roads), (n, more, way, roads)


def test_a_device_that_is_not_there():
    for device, word in (("cuda:9", "no device 9"), ("abacus", "abacus")):
        r = subprocess.run([PROGRAM, "serve", MODEL, "--listen", "127.0.0.1:0", "--device", device],
                           capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
        assert r.returncode and word in r.stderr, (device, r.stderr)


run([test_a_device_says_what_the_cpu_says, test_groups_of_devices, test_stages_on_devices, test_a_device_that_is_not_there])
