"""Several lanes: conversations stick to theirs, spill over when it is full, survive its death; a member of a
group dies in the middle of streams; a worker is drained and its process ends."""
import re
import signal
import subprocess
import time

from cluster import PROGRAM, SMOLLM2, Cluster, Stream, need, run

need(SMOLLM2)
N = 60
PROMPTS = [[1, 2, 3, 10 + i] for i in range(6)]


def body(prompt, n=N, **more):
    return {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, "logits_digest": True, **more}


def wait_for(what, seconds, check):
    begin = time.time()
    while not check():
        assert time.time() - begin < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return time.time() - begin


def lanes(c):
    return {lane["name"]: lane for lane in c.status()["lanes"]}


def all_ready(c, n):
    wait_for(f"{n} lanes", 60, lambda: [v["state"] for v in lanes(c).values()] == ["ready"] * n)


def start_all(c, bodies):
    streams = [Stream(c, b) for b in bodies]
    for s in streams:
        s.start()
    return streams


def check_all(streams, wanted):
    for s, w in zip(streams, wanted):
        s.check()
        assert s.digests == w, "the stream's logits are not those of a quiet cluster"


def test_two_lanes():
    with Cluster(SMOLLM2, workers=["a", "b"], serve=["--lanes", "2", "--slots", "2"]) as c:
        all_ready(c, 2)
        alone = [c.digest(p, N)[1] for p in PROMPTS]
        where = {w["name"]: w["lane"] for w in c.status()["workers"]}
        # A conversation stays where it was; two more of it find that lane full and go to the other.
        first = start_all(c, [body(PROMPTS[0], user="anna")])
        wait_for("the first tokens", 20, lambda: first[0].digests)
        home = next(k for k, v in lanes(c).items() if v["running"])
        more = start_all(c, [body(PROMPTS[1], user="anna")])
        wait_for("two at home", 20, lambda: lanes(c)[home]["running"] == 2)
        spilled = start_all(c, [body(PROMPTS[2], user="anna"), body(PROMPTS[3], user="anna")])
        wait_for("two spilled over", 20, lambda: {v["running"] for v in lanes(c).values()} == {2})
        # The lane dies: what ran there goes on in the other, where it waits for its turn.
        dead = next(k for k, v in where.items() if v == home)
        c.workers[dead].kill()
        check_all(first + more + spilled, alone)
        assert c.get("/readyz")[0] == 200
        c.workers[dead].start()
        all_ready(c, 2)
        check_all(start_all(c, [body(p) for p in PROMPTS]), alone)
        metrics = c.get("/metrics")[2].decode()
        moved = int(re.search(r"trireme_requests_moved_total\{[^}]*\} (\d+)", metrics)[1])
        assert moved >= 1, "nothing was moved"
        assert set(re.findall(r'trireme_stage_bubble_ratio\{[^}]*lane="([^"]+)"', metrics)) == {"lane-0", "lane-1"}


def test_a_member_of_a_group_dies():
    with Cluster(SMOLLM2, workers=["a", "b", "c"], serve=["--split", "tensor"]) as c:
        wait_for("the group", 60, lambda: len(lanes(c)["lane-0"]["stages"][0]["members"]) == 3)
        alone = [c.digest(p, N)[1] for p in PROMPTS]
        streams = start_all(c, [body(p) for p in PROMPTS])
        wait_for("tokens", 20, lambda: all(len(s.digests) > 5 for s in streams))
        victim = lanes(c)["lane-0"]["stages"][0]["members"][1]["worker"]
        c.workers[victim].kill()
        check_all(streams, alone)
        streams = start_all(c, [body(p) for p in PROMPTS])
        wait_for("tokens", 20, lambda: all(len(s.digests) > 5 for s in streams))
        frozen = lanes(c)["lane-0"]["stages"][0]["members"][1]["worker"]
        c.workers[frozen].signal(signal.SIGSTOP)
        check_all(streams, alone)
        assert c.status()["totals"]["worker_deaths"] == 2


def test_drain():
    with Cluster(SMOLLM2, workers=["a", "b"], serve=["--lanes", "2"]) as c:
        all_ready(c, 2)
        alone = c.digest(PROMPTS[0], N)[1]
        streams = start_all(c, [body(PROMPTS[0]), body(PROMPTS[0])])
        wait_for("tokens", 20, lambda: all(s.digests for s in streams))

        def drain(name, *more):
            return subprocess.run([PROGRAM, "drain", name, "--url", f"http://127.0.0.1:{c.port}", *more],
                                  capture_output=True, text=True, check=False)

        assert "nobody" in drain("nobody").stderr
        assert drain("a").returncode == 0
        status = subprocess.run([PROGRAM, "status", "--url", f"http://127.0.0.1:{c.port}"], capture_output=True,
                                text=True, check=True).stdout
        assert "draining" in status, status
        check_all(streams, [alone, alone])
        assert c.workers["a"].process.wait(30) == 0
        wait_for("one worker", 10, lambda: [w["name"] for w in c.status()["workers"]] == ["b"])
        assert c.digest(PROMPTS[0], N)[1] == alone
        assert c.status()["totals"]["worker_deaths"] == 0
        # The last one: it ends what it does, and nobody is let in any more.
        last = start_all(c, [body(PROMPTS[0])])
        wait_for("tokens", 20, lambda: last[0].digests)
        assert drain("lane-1" if lanes(c)["lane-1"]["stages"] else "lane-0").returncode == 0
        answer = c.post("/v1/completions", body(PROMPTS[1], 4))
        assert answer[0] == 503 and "drained" in answer[2]["error"]["message"], answer
        check_all(last, [alone])
        assert c.workers["b"].process.wait(30) == 0


run([test_two_lanes, test_a_member_of_a_group_dies, test_drain])
