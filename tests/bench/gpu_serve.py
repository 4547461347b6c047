"""A server whose worker computes on a device, answering clients: one stream, many streams at once, and, if that
package is there, the openai client.

    gpu_serve.py PROGRAM [--tiny]

The model is made up (shape:), so prompts are ids and answers mean nothing.
"""
import http.client
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import load  # noqa: E402


def ids(seed, n):
    """A prompt of its own for each seed: made-up models know bytes."""
    return [(7919 * (seed + 1) + 31 * k * (seed % 7 + 1)) % 256 for k in range(n)]


class Server:
    """A process of `trireme serve` on a free port."""

    def __init__(self, program, model, extra, folder):
        self.log = open(pathlib.Path(folder) / "log", "w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen([program, "serve", model, "--listen", "127.0.0.1:0", "--device", "cuda", *extra],
                                        stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.port = None
        until = time.monotonic() + 100
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            if self.port is None:
                self.port = self.find_port()
            elif self.is_ready():
                return
            time.sleep(0.1)
        self.close()
        sys.exit("the server is not ready:\n" + self.text()[-1500:])

    def text(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(encoding="utf-8")

    def find_port(self):
        found = re.search(r"serving on port (\d+)", self.text())
        return int(found[1]) if found else None

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as r:
                return r.status == 200
        except OSError:
            return False

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def ask_openai(server):
    """False: the package is not there."""
    try:
        import openai
    except ImportError:
        return False
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    name = client.models.list().data[0].id
    answer = client.completions.create(model=name, prompt=ids(1, 8), max_tokens=4, temperature=0)
    assert answer.usage.completion_tokens >= 1, answer
    return True


def main(program, tiny):
    model, extra = "shape:llama-3.1-8b:Q4_0", ["--ctx", "4096", "--slots", "64"]
    prompt, tokens, many = 512, 128, (1, 8, 32, 64)
    if tiny:
        model, extra = "shape:smollm2-135m@layers=1:Q4_0", ["--ctx", "128", "--slots", "2", "--step-tokens", "16"]
        prompt, tokens, many = 4, 2, (1, 2)
    with tempfile.TemporaryDirectory(prefix="trireme-serve-") as folder:
        begin = time.monotonic()
        server = Server(program, model, extra, folder)
        try:
            print(f"ready_s,{time.monotonic() - begin:.1f}")
            load.together(server, [ids(99, prompt)], tokens)
            for n in many:
                rate, firsts = load.together(server, [ids(n * 100 + i, prompt) for i in range(n)], tokens)
                print(f"streams,{n},tok_per_s,{rate:.1f},first_token_s,{firsts[len(firsts) // 2]:.3f}", flush=True)
            print("openai_client," + ("answered" if ask_openai(server) else "is not on this machine"))
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v1/cluster", timeout=10) as r:
                worker = json.load(r)["workers"][0]
            print("device," + json.dumps(worker.get("device")))
        except BaseException:
            print(server.text()[-1500:], file=sys.stderr)
            raise
        finally:
            server.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], "--tiny" in sys.argv)
