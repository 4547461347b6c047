"""A real cluster for tests: the program's own coordinator and workers as processes on loopback.

    with Cluster(model, workers=["a", "b"]) as c:
        c.complete([1, 2, 3], max_tokens=8)

Every process is ended by its pid when the block is left; logs stay in the scratch folder on failure.
"""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TRIREME_BUILD", ROOT / "build"))
PROGRAM = BUILD / "trireme"
MODELS = ROOT / "build" / "models"
FIXTURES = pathlib.Path(os.environ.get("TRIREME_FIXTURES", ROOT.parent / "shared" / "fixtures"))
SMOLLM2 = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = MODELS / "gemma-3-270m-q4_k_m.gguf"
SKIP = 77


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(SKIP)


def need(*paths):
    for p in paths:
        if not p.exists():
            skip(f"{p} is not there")


def tiny_moe(scratch):
    """A tiny mixture of experts, with a tokenizer made up here: each byte a token, in byte-level spelling."""
    fixture = FIXTURES / "arch" / "qwen3_moe"
    need(fixture)
    folder = scratch / "moe"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(fixture / name, folder / name)
    n_vocab = json.load(open(fixture / "config.json"))["vocab_size"]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    spelling = [chr(b) if b in plain else chr(next(others)) for b in range(256)]
    vocab = {spelling[i] if i < 256 else f"{spelling[65]}{i}": i for i in range(n_vocab)}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}))
    return folder


class Worker:
    """One worker process; `extra` are further options, `prefix` a command that starts it elsewhere."""

    prefix = ()
    measuring = ("--no-measure",)  # benches leave it out

    def __init__(self, cluster, name, extra=()):
        self.cluster, self.name, self.extra = cluster, name, list(extra)
        self.process = None

    def reads(self):
        return ["--model", self.cluster.model]

    def joins(self):
        return f"{self.cluster.address}:{self.cluster.join_port}"

    def start(self):
        c = self.cluster
        state = c.dir / f"worker-{self.name}"
        token = c.dir / f"token-{self.name}"
        if not (state / "worker.pem").exists():
            subprocess.run([PROGRAM, "token", "new", "--state", c.dir / "state", "--out", token], check=True)
        log = open(c.dir / f"worker-{self.name}.log", "ab")
        self.process = subprocess.Popen(
            [*self.prefix, PROGRAM, "worker", "--join", self.joins(), "--token-file", token, "--name", self.name,
             "--state", state, *self.reads(), "--threads", "1", *self.measuring, *self.extra],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return self

    def signal(self, sig):
        self.process.send_signal(sig)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"worker {self.name} did not end on SIGTERM")


class Cluster:
    """A coordinator with `workers` processes, or with its own (`local` threads in its process)."""

    address = "127.0.0.1"  # where workers join

    def __init__(self, model, workers=(), local=0, serve=(), worker=(), expect=None):
        self.model, self.serve, self.local = model, list(serve), local
        self.worker_options = list(worker)
        self.names = list(workers)
        self.expect = expect or len(self.names)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="trireme-test-"))
        self.workers = {n: Worker(self, n, self.worker_options) for n in self.names}
        self.port = self.join_port = None
        self.process = None

    def __enter__(self):
        self.start_coordinator()
        for w in self.workers.values():
            w.start()
        self.wait_ready()
        return self

    def __exit__(self, kind, value, trace):
        problems = []
        for w in self.workers.values():
            try:
                w.stop()
            except AssertionError as e:
                problems.append(e)
        self.stop_coordinator()
        failed = problems or (kind and not (kind is SystemExit and not value.code))
        if not failed:
            shutil.rmtree(self.dir)
        else:
            print(f"logs are in {self.dir}")
            for log in sorted(self.dir.glob("*.log")):
                print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:]))
        if problems and kind is None:
            raise problems[0]

    def start_coordinator(self):
        self.log = self.dir / "coordinator.log"
        offset = self.log.stat().st_size if self.log.exists() else 0
        out = open(self.log, "ab")
        args = [PROGRAM, "serve", self.model, "--listen", f"127.0.0.1:{self.port or 0}"]
        if self.names:
            args += ["--workers", "0", "--expect", str(self.expect), "--state", self.dir / "state",
                     "--join-listen", f"{self.address}:{self.join_port or 0}"]
        elif self.local:
            args += ["--local", str(self.local)]
        self.process = subprocess.Popen([*args, *self.serve], stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        deadline = time.time() + 20
        while True:
            text = self.log.read_bytes()[offset:].decode(errors="replace")
            http_port = re.search(r"serving on port (\d+)", text)
            join_port = re.search(r"workers join on port (\d+)", text)
            if http_port and (join_port or not self.names):
                break
            assert self.process.poll() is None, f"the coordinator ended:\n{text}"
            assert time.time() < deadline, f"no port in the log:\n{text}"
            time.sleep(0.02)
        self.port = int(http_port.group(1))
        self.join_port = int(join_port.group(1)) if join_port else None

    def stop_coordinator(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def wait_ready(self, seconds=60):
        deadline = time.time() + seconds
        while True:
            try:
                status, _, _ = self.get("/readyz")
                if status == 200:
                    return
            except OSError:
                pass
            assert self.process.poll() is None, "the coordinator ended:\n" + self.log.read_text()[-3000:]
            assert time.time() < deadline, "not ready:\n" + self.log.read_text()[-3000:]
            time.sleep(0.02)

    # -- HTTP --
    def connect(self, timeout=120):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path):
        h = self.connect(10)
        h.request("GET", path)
        r = h.getresponse()
        body = r.read()
        h.close()
        return r.status, dict(r.getheaders()), body

    def status(self):
        return json.loads(self.get("/v1/cluster")[2])

    def post(self, path, body, timeout=120):
        h = self.connect(timeout)
        h.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        r = h.getresponse()
        data = r.read()
        h.close()
        return r.status, dict(r.getheaders()), json.loads(data)

    def complete(self, prompt_ids, **fields):
        status, _, body = self.post("/v1/completions", {"prompt": prompt_ids, "temperature": 0, **fields})
        assert status == 200, (status, body)
        return body

    def digest(self, prompt_ids, max_tokens, **fields):
        """(text, digests of the logits of every step) of a greedy continuation."""
        body = self.complete(prompt_ids, max_tokens=max_tokens, logits_digest=True, ignore_eos=True, **fields)
        c = body["choices"][0]
        assert len(c["logits_digest"]) == max_tokens, c
        return c["text"], c["logits_digest"]


class Stream(threading.Thread):
    """One streamed completion on a thread: collects pieces and checks the event stream's form."""

    def __init__(self, cluster, body, path="/v1/completions"):
        super().__init__(daemon=True)
        self.cluster, self.body, self.path = cluster, {**body, "stream": True}, path
        self.text, self.finishes, self.dones, self.error, self.status = "", [], 0, None, None
        self.digests, self.times = [], []
        self.failure = None

    def run(self):
        try:
            self.read()
        except Exception as e:  # the test looks at it
            self.failure = e

    def read(self):
        h = self.cluster.connect(180)
        h.request("POST", self.path, json.dumps(self.body), {"Content-Type": "application/json"})
        r = h.getresponse()
        self.status = r.status
        if r.status != 200:
            self.error = json.loads(r.read())
            return
        for raw in r:
            line = raw.decode().rstrip("\n").rstrip("\r")
            if not line or line.startswith(": "):
                continue
            assert line.startswith("data: "), line
            if line == "data: [DONE]":
                self.dones += 1
                continue
            assert not self.dones, "data after [DONE]"
            event = json.loads(line[6:])
            if "error" in event:
                self.error = event
                continue
            for c in event["choices"]:
                piece = c.get("text") or c.get("delta", {}).get("content") or ""
                self.text += piece
                self.digests += c.get("logits_digest") or []
                if piece:
                    self.times.append(time.time())
                if c.get("finish_reason"):
                    self.finishes.append(c["finish_reason"])
        h.close()

    def check(self):
        """No token lost or doubled is checked by the caller's comparison; here: exactly one end."""
        self.join(180)
        assert not self.is_alive(), "the stream did not end"
        if self.failure:
            raise self.failure
        assert self.error is None, self.error
        assert self.dones == 1 and len(self.finishes) == 1, (self.dones, self.finishes)
        return self


def run(tests):
    """Runs the functions, prints a line each; the process's exit code tells."""
    bad = 0
    for t in tests:
        begin = time.time()
        try:
            note = t()
            print(f"ok   {t.__name__} {time.time() - begin:.1f}s {note or ''}", flush=True)
        except Exception as e:
            bad += 1
            import traceback
            traceback.print_exc(file=sys.stdout)
            print(f"FAIL {t.__name__}: {e!r}", flush=True)
    sys.exit(1 if bad else 0)
