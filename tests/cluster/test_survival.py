"""Workers are killed and frozen in mid-stream; no request is lost and no token lost or doubled."""
import json
import re
import signal
import time

from cluster import SMOLLM2, Cluster, Stream, need, run

need(SMOLLM2)
PROMPTS = [f"{w} is a word. Here is a long story about {w}:" for w in
           ("Sun", "Moon", "River", "Stone", "Bread", "Horse", "Glass", "Winter")]
N_TOKENS = 120
UNDISTURBED = {}


def body(prompt, **fields):
    return {"prompt": prompt, "max_tokens": N_TOKENS, "temperature": 0, "ignore_eos": True,
            "logits_digest": True, **fields}


def start_streams(c, **fields):
    streams = [Stream(c, body(p, **fields)) for p in PROMPTS]
    for s in streams:
        s.start()
    deadline = time.time() + 60
    while not all(len(s.times) > 8 for s in streams):
        assert time.time() < deadline and all(not s.failure for s in streams), [s.failure for s in streams]
        time.sleep(0.01)
    return streams


def check_streams(streams):
    for p, s in zip(PROMPTS, streams):
        s.check()
        text, digests = UNDISTURBED[p]
        assert s.digests == digests, "a token was lost, doubled or changed"
        assert s.text == text


def learn(c):
    if not UNDISTURBED:
        for p in PROMPTS:
            s = Stream(c, body(p))
            s.start()
            s.check()
            assert len(s.digests) == N_TOKENS
            UNDISTURBED[p] = (s.text, s.digests)


def wait_for(what, seconds, check):
    begin = time.time()
    while not check():
        assert time.time() - begin < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return time.time() - begin


def epoch(c):
    return c.status()["epoch"]


def members(c):
    return [s["worker"] for s in c.status()["lanes"][0]["stages"]]


def test_kill_one_of_three():
    with Cluster(SMOLLM2, workers=["a", "b", "c"]) as c:
        pairs = c.status()["pairs"]  # measured before the first plan
        assert len(pairs) == 6 and all(p["state"] == "measured" and p["bytes_per_s"] > 1e6 for p in pairs), pairs
        learn(c)
        for victim in members(c):  # first, middle and last stage in turn
            before = epoch(c)
            streams = start_streams(c)
            t = time.time()
            c.workers[victim].kill()
            seen = wait_for("detection", 2, lambda: epoch(c) != before or victim not in members(c))
            assert seen <= 0.5, f"a crash was seen after {seen:.2f} s"
            check_streams(streams)
            print(f"     killed {victim}: seen after {seen * 1000:.0f} ms; "
                  f"pause {max(b - a for s in streams for a, b in zip(s.times, s.times[1:])):.2f} s")
            assert re.search(rf"worker {victim}\b.*", c.log.read_text()), "no line about the death"
            c.workers[victim].start()
            wait_for("rejoin", 20, lambda: len(members(c)) == 3)
            del t


def test_kill_with_seeded_sampling():
    fields = {"temperature": 0.9, "top_p": 0.95, "seed": 7, "frequency_penalty": 0.4}
    with Cluster(SMOLLM2, workers=["a", "b"]) as c:
        calm = [Stream(c, body(p, **fields)) for p in PROMPTS]
        for s in calm:
            s.start()
        for s in calm:
            s.check()
        streams = start_streams(c, **fields)
        c.workers["b"].kill()
        for s, u in zip(streams, calm):
            s.check()
            assert s.digests == u.digests and s.text == u.text, "seeded output changed by the recovery"


def test_freeze():
    with Cluster(SMOLLM2, workers=["a", "b"]) as c:
        learn(c)
        before = epoch(c)
        streams = start_streams(c)
        c.workers["b"].signal(signal.SIGSTOP)
        time.sleep(1)
        c.workers["b"].signal(signal.SIGCONT)
        check_streams(streams)
        assert epoch(c) == before, "a pause of one second must not cost the placement"

        streams = start_streams(c)
        c.workers["b"].signal(signal.SIGSTOP)
        seen = wait_for("detection of the hang", 6, lambda: epoch(c) != before)
        assert seen <= 3, f"a hang was seen after {seen:.2f} s"
        check_streams(streams)
        assert members(c) == ["a"]
        c.workers["b"].signal(signal.SIGCONT)  # the zombie's old epoch is ignored; it rejoins by itself
        wait_for("rejoin", 20, lambda: len(members(c)) == 2)
        check_streams(start_streams(c))
        return f"hang seen after {seen:.2f} s"


def test_no_placement_left():
    with Cluster(SMOLLM2, workers=["a", "b"], serve=["--grace", "1500"]) as c:
        learn(c)
        streams = start_streams(c)
        c.workers["a"].kill()
        c.workers["b"].kill()
        wait_for("503", 3, lambda: c.get("/readyz")[0] == 503)
        status, headers, answer = c.post("/v1/completions", body(PROMPTS[0]))
        assert status == 503 and int(headers["Retry-After"]) >= 1, (status, headers)
        assert answer["error"]["type"] == "server_error", answer
        t = time.time()
        for s in streams:
            s.join(20)
            assert s.error and s.dones == 0, "a stream that cannot go on ends with an error event"
        assert time.time() - t < 6
        c.workers["a"].start()
        c.wait_ready(20)
        s = Stream(c, body(PROMPTS[0]))
        s.start()
        s.check()
        assert s.digests == UNDISTURBED[PROMPTS[0]][1]


def test_restarted_worker_holds_the_layers_again():
    """All workers are lost and one comes back within the grace time: the streams go on."""
    with Cluster(SMOLLM2, workers=["a"], serve=["--grace", "20000"]) as c:
        learn(c)
        streams = start_streams(c)
        c.workers["a"].kill()
        c.workers["a"].start()
        check_streams(streams)


def test_coordinator_restart():
    with Cluster(SMOLLM2, workers=["a", "b"]) as c:
        learn(c)
        loads = {n: (c.dir / f"worker-{n}.log").read_text().count("loaded") for n in c.workers}
        pids = {n: w.process.pid for n, w in c.workers.items()}
        c.process.kill()
        c.process.wait()
        time.sleep(0.3)
        t = time.time()
        c.start_coordinator()
        c.wait_ready(20)
        took = time.time() - t
        assert took <= 6, f"ready again after {took:.1f} s"
        assert pids == {n: w.process.pid for n, w in c.workers.items()}
        for n in c.workers:
            assert c.workers[n].process.poll() is None
            assert (c.dir / f"worker-{n}.log").read_text().count("loaded") == loads[n], "weights were reloaded"
        check_streams(start_streams(c))
        return f"ready after {took:.2f} s"


def test_hang_up_frees_everything():
    with Cluster(SMOLLM2, local=1, serve=["--slots", "4"]) as c:
        words = " ".join(str(i) for i in range(1200))
        hung = []
        for _ in range(10):  # some run, some wait, some are in prefill
            h = c.connect()
            h.request("POST", "/v1/completions", json.dumps({**body(words), "stream": True, "max_tokens": 2000}),
                      {"Content-Type": "application/json"})
            hung.append(h)
        time.sleep(0.5)
        assert c.status()["totals"]["running"] > 0
        for h in hung:
            h.sock.close()
            h.close()
        took = wait_for("slots and pages free", 2,
                        lambda: c.status()["totals"]["running"] == 0 and c.status()["totals"]["waiting"] == 0)
        assert c.status()["kv"]["pages_used"] == 0, c.status()["kv"]
        return f"free after {took:.2f} s"


run([test_kill_one_of_three, test_kill_with_seeded_sampling, test_freeze, test_no_placement_left,
     test_restarted_worker_holds_the_layers_again, test_coordinator_restart, test_hang_up_frees_everything])
