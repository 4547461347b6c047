"""What the HTTP tests share: a door_mock process, raw sockets, a tiny HTTP client that hides
nothing, and the list of cases. Standard library only."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FIXTURES = os.path.join(ROOT, os.environ.get("TRIREME_FIXTURES", "../shared/fixtures"))
VOCAB = os.path.join(FIXTURES, "tokenizers/smollm2/vocab.gguf")
TEMPLATE = os.path.join(FIXTURES, "chat_templates/smollm2/template.jinja")
STRICT_TEMPLATE = os.path.join(FIXTURES, "chat_templates/gemma-2/template.jinja")

# mock_engine.h
TEXT = ("The quick brown fox jumps over the lazy dog. \u00dcn\u00efc\u00f6d\u00e9, "
        "\u65e5\u672c\u8a9e \U0001f642\U0001f680 \"quoted\" \\ done.\n")
ECHO, FAIL_FIRST, FAIL_LATER, BUSY, NO_CAPACITY = 1001, 1002, 1003, 1004, 1005
SLOW_PREFILL, NONFINITE, SLOW, NEVER = 1006, 1007, 1008, 1009

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]

program = None  # set by run.py
sanitized = False  # memory and time of such a build say nothing
cases = []


def case(name, *options):
    """Registers a case: name begins with the row of the catalogue it tests. Cases with equal
    options share one door_mock."""
    def add(f):
        cases.append((name, options, f))
        return f
    return add


def eq(got, want, what=""):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def within(seconds, what, f):
    """Waits until f() is true; says how long it took."""
    start = time.monotonic()
    while not f():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - start


def enter_venv(package, script, *more):
    """Runs the script again, with --inside, where these packages are installed; 77 if that cannot be."""
    venv = os.path.join(ROOT, "build", "venv")
    python = os.path.join(venv, "bin", "python")
    if not os.path.exists(python) and subprocess.run([sys.executable, "-m", "venv", venv]).returncode:
        print("SKIP: no virtual environment can be made here")
        sys.exit(77)
    packages = (package, *more)
    names = ",".join(p.replace("-", "_") for p in packages)
    if subprocess.run([python, "-c", "import " + names], capture_output=True).returncode:
        if subprocess.run([python, "-m", "pip", "install", "-q", *packages], timeout=240).returncode:
            print(f"SKIP: {names} cannot be installed")
            sys.exit(77)
    os.execv(python, [python, os.path.abspath(script), "--inside", *sys.argv[1:]])


def client_main(package, script, calling, connect, checks):
    """The main program of SCRIPT DOOR_MOCK, which tries the client of a package. connect(url) opens one;
    checks(client, strict, caller): strict has the wrong key; caller's mock, with the options `calling`,
    thinks, speaks and calls."""
    global program
    if len(sys.argv) < 2:
        sys.exit(f"usage: {os.path.basename(script)} DOOR_MOCK")
    if sys.argv[1] != "--inside":
        enter_venv(package, script)
    program = sys.argv[2]
    if not os.path.exists(VOCAB):
        print(f"SKIP: no fixtures at {FIXTURES} (set TRIREME_FIXTURES)")
        sys.exit(77)
    doors = [Door(), Door("--key", "sk-right"), Door(*calling)]
    clients = [connect(f"http://127.0.0.1:{d.port}") for d in doors]
    failed = 0
    for check in checks(*clients):
        try:
            check()
            print("ok  ", check.__name__)
        except Exception as e:
            failed += 1
            print("FAIL", check.__name__, repr(e))
    for each in (*clients, *doors):
        each.close()
    print(f"{package} {sys.modules[package].__version__}: {failed} failed")
    sys.exit(1 if failed else 0)


class Answer:
    def __init__(self, status, headers, body, rest=b""):
        self.status, self.headers, self.body, self.rest = status, headers, body, rest

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def refused(self, status, code=False, param=False):
        """Checks that this is a whole and well-formed error."""
        eq(self.status, status, self.body[:300])
        eq(self.headers.get("content-type"), "application/json", "content-type")
        e = self.error
        eq(sorted(set(e) - {"n_prompt_tokens", "n_ctx"}), ["code", "message", "param", "type"])
        assert isinstance(e["message"], str) and e["message"], e
        want = {403: "permission_error", 429: "rate_limit_error"}.get(
            status, "server_error" if status >= 500 else "invalid_request_error")
        eq(e["type"], want, "type")
        if code is not False:
            eq(e["code"], code, "code of " + e["message"])
        if param is not False:
            eq(e["param"], param, "param of " + e["message"])
        assert self.headers.get("x-request-id"), "no x-request-id"
        return self


def read_answer(f, head=False):
    """One answer from a binary file object; None at the end of the connection."""
    line = f.readline()
    if not line:
        return None
    m = re.fullmatch(rb"HTTP/1\.[01] (\d{3}) [^\r]*\r\n", line)
    assert m, f"not a status line: {line[:80]!r}"
    headers = {}
    while True:
        line = f.readline()
        assert line.endswith(b"\r\n"), f"header cut off: {line!r}"
        if line == b"\r\n":
            break
        name, value = line.decode("latin1").rstrip("\r\n").split(": ", 1)
        headers[name.lower()] = value
    status = int(m.group(1))
    if head or status in (100, 204):
        return Answer(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size = int(f.readline(), 16)
            part = f.read(size + 2)
            eq(len(part), size + 2, "chunk cut off")
            if size == 0:
                return Answer(status, headers, body)
            body += part[:-2]
    if "content-length" in headers:
        n = int(headers["content-length"])
        body = f.read(n)
        eq(len(body), n, "body cut off")
        return Answer(status, headers, body)
    return Answer(status, headers, f.read())


class Door:
    def __init__(self, *options):
        argv = [program, "--vocab", VOCAB]
        self.base = "--base" in options
        if not self.base and "--template" not in options:
            argv += ["--template", TEMPLATE]
        self.options = [o for o in options if o != "--base"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(argv + self.options, stdout=subprocess.PIPE,
                                        stderr=self.log)
        line = self.process.stdout.readline().split()
        if len(line) != 2:
            self.log.seek(0)
            raise AssertionError(f"door_mock did not start: {self.log.read().decode()}")
        self.port = int(line[1])
        self.key = options[options.index("--key") + 1].split()[0] if "--key" in options else None

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(90 if sanitized else 15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("door_mock did not end after SIGTERM")
        self.process.stdout.close()
        self.log.seek(0)
        text = self.log.read().decode("utf8", "replace")
        self.log.close()
        assert code == 0, f"door_mock ended with {code}: {text[-2000:]}"
        return text

    def connect(self, timeout=10, rcvbuf=0, source=None):
        s = socket.socket()
        if source:
            s.bind((source, 0))
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.settimeout(timeout)
        s.connect(("127.0.0.1", self.port))
        return s

    def raw(self, data, timeout=5, shut=False):
        """Sends bytes; returns all answers until the server closes, and whether it did."""
        s = self.connect(timeout)
        answers, closed = [], True
        try:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed early: the answer is there to be read
        f = s.makefile("rb")
        try:
            while True:
                a = read_answer(f)
                if a is None:
                    break
                answers.append(a)
        except (ConnectionResetError, BrokenPipeError):
            pass
        except TimeoutError:
            closed = False
        finally:
            f.close()
            s.close()
        return answers, closed

    def request(self, method, path, body=None, headers=None, timeout=20, source=None):
        h = {"Host": f"127.0.0.1:{self.port}"}
        if self.key:
            h["Authorization"] = "Bearer " + self.key
        if body is not None:
            if not isinstance(body, (bytes, bytearray)):
                body = json.dumps(body, ensure_ascii=False).encode()
            h["Content-Type"] = "application/json"
            h["Content-Length"] = str(len(body))
        h.update(headers or {})
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(
            f"{k}: {v}\r\n" for k, v in h.items() if v is not None) + "\r\n"
        s = self.connect(timeout, source=source)
        try:
            try:
                s.sendall(head.encode("latin1") + (body or b""))
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused early: the answer is there to be read
            with s.makefile("rb") as f:
                return read_answer(f, head=method == "HEAD")
        finally:
            s.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body, **more):
        return self.request("POST", path, body, **more)

    def chat(self, **fields):
        return self.post(CHAT, {"messages": USER, **fields})

    def complete(self, **fields):
        return self.post(COMPLETIONS, {"prompt": "hello", "max_tokens": 4, **fields})

    def stream(self, path=CHAT, **fields):
        body = {"stream": True, **fields}
        if path == CHAT:
            body.setdefault("messages", USER)
        a = self.post(path, body)
        eq(a.status, 200, a.body[:300])
        eq(a.headers["content-type"], "text/event-stream")
        return events(a.body)

    def metric(self, name):
        a = self.get("/metrics")
        eq(a.status, 200, "metrics")
        return float(re.search(rf"^{re.escape(name)} (\S+)$", a.body.decode(), re.M).group(1))

    def good(self):
        """A request that must succeed after whatever a case did."""
        a = self.complete(max_tokens=5) if self.base else self.chat(max_tokens=5)
        eq(a.status, 200, a.body[:200])
        if "--say" in self.options:
            return
        c = a.json["choices"][0]
        eq(c["text"] if self.base else c["message"]["content"], "The quick brown fox jumps")

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_s(self):
        """Seconds that its threads have computed: what it took, however busy the machine is."""
        total = 0
        for t in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{t}/schedstat") as f:
                total += int(f.read().split()[0])
        return total / 1e9

    def rss_kb(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def events(body):
    """Reads an event stream strictly: every line is 'data: ...', a comment with ': ', or blank.
    Returns the decoded events, with '[DONE]' as a string."""
    text = body.decode("utf8")
    assert text.endswith("\n\n"), f"stream cut off: {text[-80:]!r}"
    out = []
    for block in text[:-2].split("\n\n"):
        if block == ": keep-alive":
            continue
        assert block.startswith("data: ") and "\n" not in block, f"bad event {block[:80]!r}"
        data = block[len("data: "):]
        out.append(data if data == "[DONE]" else json.loads(data))
    return out


def text_of(evs, index=0):
    parts = []
    for e in evs:
        if e == "[DONE]":
            continue
        for c in e["choices"]:
            if c["index"] == index:
                parts.append(c["text"] if "text" in c else c["delta"].get("content", ""))
    return "".join(parts)
