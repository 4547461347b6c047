"""A worker behind 50 ms of delay each way joins by token, is a lane of its own, takes only what the near lane
cannot take at once, and leaves when it is drained."""
import queue
import re
import socket
import subprocess
import threading
import time

from cluster import PROGRAM, SMOLLM2, Cluster, Stream, Worker, need, run, skip

need(SMOLLM2)
DELAY_S = 0.05
N = 60
PROMPTS = [[1, 2, 3, 10 + i] for i in range(4)]


def own_address():
    """One that is not loopback: what comes from there is not taken for near before it was measured."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("192.0.2.1", 9))  # sends nothing
        return s.getsockname()[0]
    except OSError:
        return skip("this machine has no address but loopback")
    finally:
        s.close()


class SlowRoad:
    """Takes connections and passes on what they say, both ways, DELAY_S later."""

    def __init__(self, to):
        self.to = to
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
                far = socket.create_connection(self.to)
            except OSError:
                return
            for a, b in ((near, far), (far, near)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pieces = queue.Queue()
                threading.Thread(target=self.hear, args=(a, pieces), daemon=True).start()
                threading.Thread(target=self.say, args=(b, pieces), daemon=True).start()

    @staticmethod
    def hear(s, pieces):
        data = b"?"
        while data:
            try:
                data = s.recv(1 << 16)
            except OSError:
                data = b""
            pieces.put((time.monotonic() + DELAY_S, data))

    @staticmethod
    def say(s, pieces):
        data = b"?"
        try:
            while data:
                at, data = pieces.get()
                time.sleep(max(0, at - time.monotonic()))
                s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            s.close()


class Far(Worker):
    def joins(self):
        return f"127.0.0.1:{self.road.port}"


def wait_for(what, seconds, check):
    begin = time.time()
    while not check():
        assert time.time() - begin < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def lanes(c):
    return {lane["name"]: lane for lane in c.status()["lanes"]}


def ask(c, prompt):
    s = Stream(c, {"prompt": prompt, "max_tokens": N, "temperature": 0, "ignore_eos": True, "logits_digest": True})
    s.start()
    return s


def test_far_lane():
    address = own_address()
    with Cluster(SMOLLM2, workers=["near"], serve=["--slots", "2", "--join-listen", "0.0.0.0:0"]) as c:
        alone = [c.digest(p, N)[1] for p in PROMPTS]
        far = Far(c, "far")
        far.road = SlowRoad((address, c.join_port))
        c.workers["far"] = far.start()
        wait_for("the far lane", 60, lambda: lanes(c).get("far", {}).get("state") == "ready")
        assert lanes(c)["far"]["far"] and not lanes(c)["lane-0"]["far"]
        trip = next(w["trip_ms"] for w in c.status()["workers"] if w["name"] == "far")
        assert trip >= 2000 * DELAY_S * 0.9, trip
        begun = lanes(c)["far"]["steps"]
        streams = [ask(c, p) for p in PROMPTS[:2]]
        wait_for("two in the near lane", 20, lambda: lanes(c)["lane-0"]["running"] == 2)
        assert lanes(c)["far"]["steps"] == begun, "it was given work that the near lane could take"
        streams += [ask(c, p) for p in PROMPTS[2:]]
        wait_for("the far lane takes the rest", 20, lambda: lanes(c)["far"]["running"] > 0)
        for s, digests in zip(streams, alone):
            s.check()
            assert s.digests == digests
        drained = subprocess.run([PROGRAM, "drain", "far", "--url", f"http://127.0.0.1:{c.port}"], check=False)
        assert drained.returncode == 0
        assert far.process.wait(30) == 0
        wait_for("the lane is gone", 20, lambda: list(lanes(c)) == ["lane-0"])
        assert c.digest(PROMPTS[0], N)[1] == alone[0]
        assert re.search(r"trireme_workers_drained_total\{[^}]*\} 1\n", c.get("/metrics")[2].decode())
        return f"round trip {trip:.0f} ms"


run([test_far_lane])
