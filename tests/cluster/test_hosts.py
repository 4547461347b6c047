"""Two hosts: network namespaces joined by a wire. The second half of the model runs on the far host
over real TCP; then the wire is cut under load, and mended."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from cluster import PROGRAM, SMOLLM2, need, run, skip

need(SMOLLM2)
if os.geteuid() != 0 or not shutil.which("ip"):
    skip("network namespaces need root and iproute2")
TAG = f"trireme{os.getpid() % 10000}"
A, B = f"{TAG}-a", f"{TAG}-b"
DIR = pathlib.Path(tempfile.mkdtemp(prefix="trireme-hosts-"))
JOIN = "10.78.0.1:30001"
processes = []


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def hosts_up():
    made = subprocess.run(["ip", "netns", "add", A], capture_output=True, text=True, check=False)
    if made.returncode:
        skip(f"cannot make network namespaces: {made.stderr.strip()}")
    ip("netns", "add", B)
    ip("link", "add", "wire", "netns", A, "type", "veth", "peer", "name", "wire", "netns", B)
    for host, address in ((A, "10.78.0.1/24"), (B, "10.78.0.2/24")):
        ip("-n", host, "addr", "add", address, "dev", "wire")
        ip("-n", host, "link", "set", "wire", "up")
        ip("-n", host, "link", "set", "lo", "up")


def hosts_down():
    for p in processes:
        if p.poll() is None:
            p.terminate()
            try:
                p.wait(15)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
    for host in (A, B):
        subprocess.run(["ip", "netns", "del", host], check=False)


def start(host, log, *args):
    out = open(DIR / log, "ab")
    p = subprocess.Popen(["ip", "netns", "exec", host, PROGRAM, *map(str, args)], stdout=out, stderr=out,
                         stdin=subprocess.DEVNULL)
    processes.append(p)
    return p


def ask(path, body=None, timeout=60):
    """The HTTP answer of the coordinator, asked from its own host: (status, JSON)."""
    code = ("import http.client,sys\nh=http.client.HTTPConnection('127.0.0.1',30000,timeout=60)\n"
            "b=sys.stdin.read()\nh.request('POST' if b else 'GET',sys.argv[1],b or None,"
            "{'Content-Type':'application/json'})\nr=h.getresponse()\nprint(r.status)\nprint(r.read().decode())")
    r = subprocess.run(["ip", "netns", "exec", A, "python3", "-c", code, path], input=json.dumps(body) if body else "",
                       capture_output=True, text=True, timeout=timeout, check=False)
    if r.returncode:
        return 0, None
    status, text = r.stdout.split("\n", 1)
    return int(status), json.loads(text)


def wait_for(what, seconds, check):
    begin = time.time()
    while not check():
        assert time.time() - begin < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return time.time() - begin


def complete(n=24):
    status, body = ask("/v1/completions", {"prompt": "The sea is", "max_tokens": n, "temperature": 0,
                                           "ignore_eos": True, "logits_digest": True})
    assert status == 200, (status, body)
    return body["choices"][0]["logits_digest"]


def members():
    status, cluster = ask("/v1/cluster")
    return [s["worker"] for s in cluster["lanes"][0]["stages"]] if status == 200 else []


def test_two_hosts_and_a_cut_wire():
    start(A, "coordinator.log", "serve", SMOLLM2, "--workers", "1", "--expect", "2", "--threads", "1", "--join-listen",
          JOIN, "--devices", "wire", "--state", DIR / "state")
    wait_for("the state folder", 20, (DIR / "state" / "ca.pem").exists)
    subprocess.run([PROGRAM, "token", "new", "--state", DIR / "state", "--out", DIR / "token"], check=True)
    start(B, "far.log", "worker", "--join", JOIN, "--token-file", DIR / "token", "--model", SMOLLM2, "--name", "far",
          "--devices", "wire", "--state", DIR / "far", "--threads", "1", "--no-measure")
    wait_for("ready with two hosts", 60, lambda: len(members()) == 2 and ask("/readyz")[0] == 200)
    link = ask("/v1/cluster")[1]["links"][0]
    # They share /dev/shm, but nobody wakes a sleeper there across network namespaces.
    assert link["transport"] == "ucx tcp", link
    assert "shares no memory with us: self,tcp" in (DIR / "far.log").read_text()
    both = complete()
    # A long answer is on its way when the wire goes; it must come whole, from the host that is left.
    body = {"prompt": "The sea is", "max_tokens": 300, "temperature": 0, "ignore_eos": True, "logits_digest": True}
    code = subprocess.Popen(["ip", "netns", "exec", A, "curl", "-s", "-m", "120", "-H", "Content-Type: application/json",
                             "-d", json.dumps(body), "http://127.0.0.1:30000/v1/completions"], stdout=subprocess.PIPE, text=True)
    time.sleep(0.7)
    ip("-n", B, "link", "set", "wire", "down")
    seen = wait_for("detection of the cut", 8, lambda: "far" not in members())
    answer = json.loads(code.communicate(timeout=120)[0])["choices"][0]["logits_digest"]
    assert len(answer) == 300 and answer[:24] == both
    assert seen <= 4.5, f"a cut wire was seen after {seen:.1f} s (3 s, and the asking)"
    assert complete() == both
    ip("-n", B, "link", "set", "wire", "up")
    back = wait_for("the far host is back", 40, lambda: len(members()) == 2)
    assert complete() == both
    return f"{link['latency_us']:.0f} us; cut seen after {seen:.1f} s; back after {back:.1f} s"


try:
    hosts_up()
    run([test_two_hosts_and_a_cut_wire])
finally:
    hosts_down()
    for log in sorted(DIR.glob("*.log")):
        print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-12:]))
    shutil.rmtree(DIR)
