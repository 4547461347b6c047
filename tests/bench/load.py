"""Requests that both servers take (/v1/completions, streamed), and what they cost."""
import json
import threading
import time


def ids(seed, n):
    """A prompt of its own for each seed; small ids are words in every vocabulary."""
    return [300 + (7919 * (seed + 1) + 31 * k * (seed % 7 + 1)) % 20000 for k in range(n)]


def stream(server, prompt, max_tokens, out, **more):
    """Appends (seconds to the first token, seconds in all, tokens)."""
    h = server.connect()
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True}, **more}
    begin = time.monotonic()
    h.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    r = h.getresponse()
    if r.status != 200:
        raise SystemExit(f"error: {r.status} {r.read(300)}")
    first, n = None, 0
    for line in r:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            n = event["usage"]["completion_tokens"]
        if first is None and event.get("choices"):
            first = time.monotonic() - begin
    h.close()
    out.append((first, time.monotonic() - begin, n))


def together(server, prompts, max_tokens, **more):
    """(tokens per second in all, sorted times to the first token) of all prompts at once."""
    out = []
    threads = [threading.Thread(target=stream, args=(server, p, max_tokens, out), kwargs=more) for p in prompts]
    begin = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.monotonic() - begin
    if len(out) != len(prompts):
        raise SystemExit("error: a stream failed")
    return sum(n for _, _, n in out) / took, sorted(first for first, _, _ in out)
