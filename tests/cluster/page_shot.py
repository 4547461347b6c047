#!/usr/bin/env python3
"""The status page in headless Chromium, over a real cluster of two workers under load:
page_shot.py [FOLDER]. Checks that nothing is refused or thrown, that every width fits, what is
shown, what Tab reaches, that the page tells when the server is gone and comes back by itself, that
it asks for a key, and that names which are markup stay text; with FOLDER it leaves screenshots
there to be looked at. 77 if there is no Chromium."""
import base64
import http.server
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import cluster
from cluster import SMOLLM2, Cluster, Stream, need, skip

WIDTHS, SCHEMES = (1280, 360), ("light", "dark")


class Browser:
    """Chromium on the two pipes of --remote-debugging-pipe: JSON messages that end with NUL."""

    def __init__(self, program):
        self.profile = tempfile.mkdtemp(prefix="trireme-page-")
        theirs_in, self.to = os.pipe()
        self.from_, theirs_out = os.pipe()

        def pipes():  # they are to be 3 and 4, which may be one of ours
            a, b = os.dup(theirs_in), os.dup(theirs_out)
            high = os.dup2(a, 60), os.dup2(b, 61)
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.pending, self.number, self.session, self.complaints = b"", 0, None, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(domain + ".enable")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.to)
        os.close(self.from_)
        shutil.rmtree(self.profile, ignore_errors=True)

    def message(self, deadline):
        while b"\0" not in self.pending:
            ready, _, _ = select.select([self.from_], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self.from_, 1 << 20)
            assert data, "Chromium ended"
            self.pending += data
        one, self.pending = self.pending.split(b"\0", 1)
        return json.loads(one)

    def ask(self, method, **params):
        self.number += 1
        call = {"id": self.number, "method": method, "params": params}
        if self.session:
            call["sessionId"] = self.session
        os.write(self.to, json.dumps(call).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            m = self.message(deadline)
            if m.get("id") == self.number:
                assert "error" not in m, (method, m["error"])
                return m["result"]
            entry = m.get("params", {}).get("entry", {})
            if m.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(m["params"])[:600])
            elif entry.get("level") == "error" and entry.get("source") != "network":
                self.complaints.append(entry["text"])

    def value(self, expression):
        r = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in r, r
        return r["result"].get("value")

    def until(self, what, expression, seconds=60):
        deadline = time.monotonic() + seconds
        while not self.value(f"(() => {{ try {{ return Boolean({expression}); }} catch (e) {{ return false; }} }})()"):
            assert time.monotonic() < deadline, f"{what}:\n{self.value('document.body.innerText')}"
            time.sleep(0.1)

    def look(self, width, scheme):
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)

    def shot(self, path):
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
        picture = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    def press(self, key, code, **more):
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def tab(self):
        self.press("Tab", 9)
        return self.value("document.activeElement.id || document.activeElement.tagName")


def check_widths(b, folder):
    for width in WIDTHS:
        for scheme in SCHEMES:
            b.look(width, scheme)
            time.sleep(1.2)
            wide = b.value("document.documentElement.scrollWidth")
            assert wide <= width, f"{width} px: the page is {wide} px wide"
            if folder:
                b.shot(folder / f"page-{width}-{scheme}.png")


def check_shown(b):
    b.until("requests decode", "/decode/.test(document.querySelector('#request-rows').innerText)")
    b.until("a rate", "Number(document.querySelector('#rate').textContent) > 0")
    shown = b.value("document.querySelector('main').innerText")
    for word in ("lane-0", "Stage 1", "Stage 2", "anna", "bert", "serving", "busy", "bubble"):
        assert word in shown, (word, shown)
    b.until("a line", "document.querySelector('#chart-rate .line').getAttribute('d').length > 20")
    b.value("document.querySelector('#pairs').open = true")
    b.until("pairs", "document.querySelectorAll('#pair-rows tr').length == 2")
    reached = [b.tab() for _ in range(4)]
    assert "requests" in reached and "SUMMARY" in reached, reached


def check_gone(b, c, folder):
    c.stop_coordinator()
    b.until("the page tells", "/Still trying/.test(document.querySelector('#notice').innerText)")
    if folder:
        b.look(360, "light")
        b.shot(folder / "page-gone.png")
    c.start_coordinator()
    b.until("the page comes back", "document.querySelector('#live').textContent == 'live'")


MARKUP = '<img src=x onerror="document.title=1">'
KEY = "a key"


class Guarded(http.server.BaseHTTPRequestHandler):
    """The page as the coordinator serves it, with figures that want a key; names in them are markup."""

    page = figures = None

    def do_GET(self):
        status, headers, body = self.page
        if self.path == "/v1/cluster":
            headers = {"Content-Type": "application/json"}
            status, body = 200, self.figures
            if self.headers.get("Authorization") != "Bearer " + KEY:
                status, body = 401, b'{"error":{"message":"no such key"}}'
        self.send_response(status)
        for name in ("Content-Type", "Content-Security-Policy"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def named(j):
    """Every name of the figures becomes markup."""
    if isinstance(j, dict):
        return {k: MARKUP + v if isinstance(v, str) and k not in ("phase", "state") else named(v) for k, v in j.items()}
    return [named(v) for v in j] if isinstance(j, list) else j


def check_locked(b, c, folder):
    h = c.connect()
    h.request("GET", "/", headers={"Accept": "text/html"})
    r = h.getresponse()
    Guarded.page = r.status, dict(r.getheaders()), r.read()
    h.close()
    Guarded.figures = json.dumps(named(c.status())).encode()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        b.ask("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/")
        b.until("it asks for a key", "document.activeElement.id == 'key'")
        for key, then in (("wrong", "/no such key/.test(document.querySelector('#lock-why').innerText)"),
                          (KEY, "!document.querySelector('#main').hidden")):
            b.ask("Input.insertText", text=key)
            b.press("Enter", 13, text="\r")
            b.until(f"'{key}' is answered", then)
        b.until("names are shown", f"document.querySelector('#lanes').innerText.includes({json.dumps(MARKUP)})")
        assert b.value("document.images.length") == 0 and b.value("document.title") != "1"
        assert b.value("Object.values(sessionStorage)") == [KEY] and b.value("localStorage.length") == 0
        if folder:
            b.shot(folder / "page-markup.png")
        b.value("document.querySelector('#forget').click()")
        b.until("the key is forgotten", "!document.querySelector('#lock').hidden && sessionStorage.length == 0")
    finally:
        server.shutdown()
        server.server_close()


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        skip("no Chromium")
    need(cluster.PROGRAM, SMOLLM2)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with Cluster(SMOLLM2, workers=["anna", "bert"]) as c:
        b = Browser(program)
        try:
            b.look(1280, "light")
            streams = [Stream(c, {"prompt": list(range(100 + i, 300 + 90 * i)), "max_tokens": 500, "ignore_eos": True})
                       for i in range(5)]
            for s in streams:
                s.start()
            b.ask("Page.navigate", url=f"http://127.0.0.1:{c.port}/")
            check_shown(b)
            check_widths(b, folder)
            check_locked(b, c, folder)
            b.ask("Page.navigate", url=f"http://127.0.0.1:{c.port}/")
            b.until("it is live", "document.querySelector('#live').textContent == 'live'")
            check_gone(b, c, folder)
            assert not b.complaints, b.complaints
        finally:
            b.close()
    print("ok   page")


if __name__ == "__main__":
    main()
