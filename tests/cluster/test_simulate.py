"""trireme simulate: what it says of clusters that do not exist. Needs no model file."""
import json
import pathlib
import subprocess
import tempfile

from cluster import PROGRAM, ROOT, run

ONE = ROOT / "deploy/clusters/one-gb10.yaml"
TWO = ROOT / "deploy/clusters/two-gb10-cx7.yaml"
FAR = ROOT / "deploy/clusters/spark-and-h100.yaml"
MODEL = "shape:llama-3.1-8b"


def trireme(*args):
    return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, check=False)


def simulate(*args, cluster=ONE, model=MODEL):
    r = trireme("simulate", "--model", model, "--cluster", cluster, "--json", *args)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def trace(d, *requests):
    path = pathlib.Path(d) / "trace.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in requests))
    return path


def test_the_same_every_time():
    a, b = (simulate("--trace", "agents:8,5") for _ in range(2))
    assert a == b and a["requests"] == 40 and a["refused"] == 0
    assert 0.5 < a["cached_tokens"] / a["prompt_tokens"] < 1


def test_one_stream_is_as_the_plan_says():
    with tempfile.TemporaryDirectory() as d:
        t = trace(d, {"at": 0, "prompt": 4096, "output": 64})
        got = simulate("--trace", t, "--slots", 1, "--ctx", 8192)
    plan = json.loads(trireme("plan", MODEL, "--cluster", ONE, "--json", "--ctx", 8192).stdout)
    step_s = plan["plans"][0]["decode_us"] / 1e6
    assert abs(got["itl_s"]["p50"] / step_s - 1) < 0.05, (got["itl_s"], step_s)
    assert got["output_tokens"] == 64 and got["prompt_tokens"] == 4096


def test_conversations_reuse_their_prefix():
    with tempfile.TemporaryDirectory() as d:
        t = trace(d, {"at": 0, "prompt": 2048, "output": 32, "session": "a", "common": 1024},
                  {"at": 60, "prompt": 2112, "output": 32, "session": "a", "common": 1024},
                  {"at": 120, "prompt": 2048, "output": 32, "session": "b", "common": 1024})
        got = simulate("--trace", t)
    # all of the first with its answer but for the last page, and what is common to both
    assert 2048 + 1024 - 64 <= got["cached_tokens"] <= 2080 + 1024, got
    assert got["ttft_s"]["p50"] < got["ttft_s"]["max"] / 1.5


UNEVEN = """devices:
""" + "".join(f"""  - name: {name}
    host: {name}
    kind: cpu
    threads: 8
    mem_bytes: 34359738368
    read_bytes_per_s: {f * 20e9}
    f32_flops_per_s: {f * 200e9}
    int8_ops_per_s: {f * 400e9}
""" for name, f in (("slow", 1), ("fast", 3))) + """links:
  - from: slow
    to: fast
    latency_us: 9000
    bytes_per_s: 1e8
"""


def test_requests_go_where_they_end_first():
    """Two lanes of which one is three times as fast: it gets about three times the requests."""
    with tempfile.TemporaryDirectory() as d:
        cluster = pathlib.Path(d) / "uneven.yaml"
        cluster.write_text(UNEVEN)
        t = trace(d, *({"at": 0.2 * i, "prompt": 64, "output": 128} for i in range(96)))
        got = simulate("--trace", t, "--slots", 4, "--ctx", 2048, cluster=cluster, model="shape:qwen3-0.6b")
    n = sorted(lane["requests"] for lane in got["lanes"])
    assert len(n) == 2 and sum(n) == 96 and got["refused"] == 0, got
    assert n[0] and 2 <= n[1] / n[0] <= 4.5, n
    return f"{n[0]} and {n[1]} requests"


def test_more_lanes_serve_more():
    many = ("--trace", "agents:64,2", "--slots", 4)
    one = simulate(*many)
    ten = simulate(*many, "--copies", 10)
    assert len(ten["lanes"]) == 10 * len(one["lanes"])
    assert ten["end_to_end_s"]["p99"] < one["end_to_end_s"]["p99"] / 2
    assert sum(lane["requests"] for lane in ten["lanes"]) == 128


def test_a_far_lane_takes_what_the_near_one_cannot():
    calm = simulate("--trace", "agents:2,4", cluster=FAR)
    busy = simulate("--trace", "agents:200,2", "--slots", 4, cluster=FAR)
    assert len(calm["lanes"]) == 2 and calm["lanes"][1]["requests"] == 0, calm["lanes"]
    assert all(lane["requests"] for lane in busy["lanes"]), busy["lanes"]


def test_stages_keep_each_other_busy():
    got = simulate("--trace", "agents:64,2", "--slots", 16, "--split", "layers", cluster=TWO,
                   model="shape:llama-3.3-70b-int4")
    for lane in got["lanes"]:
        assert all(0 <= b < 0.5 for b in lane["bubble"]), got["lanes"]


def test_bad_traces_get_one_line():
    for line, words in (("{", "trace.jsonl:1"), ('{"at":-1,"prompt":1,"output":1}', "'at'"),
                        ('{"prompt":0,"output":1}', "'prompt'"), ("[]", "object"),
                        ('{"prompt":1,"output":1e9}', "'output'"),
                        ('{"prompt":1,"output":1,"session":3}', "'session'")):
        with tempfile.TemporaryDirectory() as d:
            path = pathlib.Path(d) / "trace.jsonl"
            path.write_text(line + "\n")
            r = trireme("simulate", "--model", MODEL, "--cluster", ONE, "--trace", path)
        errors = [x for x in r.stderr.splitlines() if x.startswith("error: ")]
        assert r.returncode and len(errors) == 1 and words in errors[0], (line, r)
    r = trireme("simulate", "--model", "shape:llama-3.3-70b-int4", "--cluster",
                ROOT / "deploy/clusters/laptop-5080.yaml", "--kv-tokens", "1G")
    assert r.returncode == 69 or "error: " in r.stderr, r


if __name__ == "__main__":
    run([f for name, f in list(globals().items()) if name.startswith("test_")])
