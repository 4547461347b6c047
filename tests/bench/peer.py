"""llama.cpp's programs, built elsewhere, for measuring beside ours."""
import http.client
import json
import pathlib
import socket
import subprocess
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Llama:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        if not (self.folder / "llama-bench").exists():
            raise SystemExit(f"error: {folder} has no llama-bench")
        self.commit = None

    def bench(self, model, threads, prompt=0, tokens=0, depth=0, kv="f16", extra=()):
        """Tokens per second of a prompt or of decoding."""
        args = [self.folder / "llama-bench", "-m", model, "-t", str(threads), "-p", str(prompt), "-n", str(tokens),
                "-d", str(depth), "-ctk", kv, "-ctv", kv, "-r", "1", "-o", "json", *extra]
        if kv != "f16":
            args += ["-fa", "1"]
        out = subprocess.run(args, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        row = json.loads(out)[0]
        self.commit = row["build_commit"]
        return row["avg_ts"]

    def server(self, model, threads, slots, ctx, extra=()):
        return Server([self.folder / "llama-server", "-m", str(model), "-t", str(threads), "-np", str(slots), "-c",
                       str(ctx), *extra])

    def rpc(self, port, threads):
        """One worker of llama.cpp's cluster."""
        return subprocess.Popen([self.folder / "ggml-rpc-server", "-p", str(port), "-t", str(threads)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Server:
    """llama-server, ready; the same calls as cluster.Cluster where both are measured."""

    def __init__(self, args):
        self.port = free_port()
        self.process = subprocess.Popen([*args, "--host", "127.0.0.1", "--port", str(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 120
        while True:
            try:
                if self.get("/health") == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.time() > deadline:
                raise SystemExit("error: llama-server does not answer")
            time.sleep(0.1)

    def connect(self, timeout=600):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path):
        h = self.connect(10)
        h.request("GET", path)
        return h.getresponse().status

    def close(self):
        self.process.terminate()
        self.process.wait(30)
