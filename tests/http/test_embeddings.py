"""C.5.40: embeddings: shapes of the input, formats, dimensions, pooling; many at once."""
import base64
import json
import math
import struct

from kit import BUSY, NEVER, case, eq, within

PATH = "/v1/embeddings"
DIM = 300  # of the mock
LAST, MEAN, CLS = 1, 2, 3


def ids_of(door, text):
    return door.post("/tokenize", {"prompt": text}).json["tokens"]


def want(ids, pooling=LAST, n=DIM):
    """What the mock says (mock_engine.h), brought to length 1."""
    v = [ids[k % len(ids)] % 97 + k + pooling for k in range(n)]
    length = math.sqrt(sum(x * x for x in v))
    return [x / length for x in v]


def near(got, v):
    eq(len(got), len(v), "numbers")
    assert max(abs(a - b) for a, b in zip(got, v)) < 1e-6, (got[:3], v[:3])


def embed(door, value, **more):
    a = door.post(PATH, {"input": value, **more})
    eq(a.status, 200, a.body[:300])
    r = a.json
    eq((r["object"], r["model"], sorted(r)), ("list", "mock/tiny-1", ["data", "model", "object", "usage"]))
    eq([(d["object"], d["index"], sorted(d)) for d in r["data"]],
       [("embedding", i, ["embedding", "index", "object"]) for i in range(len(r["data"]))])
    return r


@case("C5_40_embeddings_of_every_shape")
def _(door):
    texts = ["hello world", "a", "\u65e5\u672c\u8a9e"]
    lists = [ids_of(door, t) for t in texts]
    for value, each in ((texts[0], lists[:1]), (texts, lists), (lists[0], lists[:1]), (lists, lists), ([texts[1]], lists[1:2])):
        r = embed(door, value)
        n = sum(len(ids) for ids in each)
        eq(r["usage"], {"prompt_tokens": n, "total_tokens": n})
        eq(len(r["data"]), len(each))
        for d, ids in zip(r["data"], each):
            near(d["embedding"], want(ids))


@case("C5_40_embeddings_formats")
def _(door):
    ids = ids_of(door, "hello")
    floats = embed(door, "hello", encoding_format="float")["data"][0]["embedding"]
    for n in (1, 2, 3, 191, 192, 193, DIM):
        coded = embed(door, "hello", encoding_format="base64", dimensions=n)["data"][0]["embedding"]
        raw = base64.b64decode(coded, validate=True)
        eq(len(raw), 4 * n)
        v = list(struct.unpack(f"<{n}f", raw))
        near(v, want(ids, n=n))
        plain = embed(door, "hello", dimensions=n)["data"][0]["embedding"]
        eq([struct.pack("<f", x) for x in plain], [raw[i:i + 4] for i in range(0, 4 * n, 4)])  # to the bit
    eq(floats, plain)
    for word, number in (("last", LAST), ("mean", MEAN), ("cls", CLS)):
        near(embed(door, "hello", pooling=word)["data"][0]["embedding"], want(ids, number))


@case("C5_40_embeddings_refusals", "--alias", "text-embedding-3-small", "--ctx", "64")
def _(door):
    a = door.post(PATH, {"input": "x", "model": "text-embedding-3-small", "user": "u", "task": "ignored"})
    eq((a.status, a.json["model"]), (200, "text-embedding-3-small"))
    bad = ({}, "input"), ({"input": []}, "input"), ({"input": ""}, "input"), ({"input": ["a", ""]}, "input"), \
        ({"input": 5}, "input"), ({"input": ["a", 1]}, "input[1]"), ({"input": [[1], "a"]}, "input[1]"), \
        ({"input": [True]}, "input[0]"), ({"input": [1, "a"]}, "input"), ({"input": [-1]}, "input"), \
        ({"input": [10**6]}, "input"), ({"input": [[1], [2.5]]}, "input"), ({"input": ["a"] * 2049}, "input"), \
        ({"input": "a", "dimensions": 0}, "dimensions"), ({"input": "a", "dimensions": DIM + 1}, "dimensions"), \
        ({"input": "a", "dimensions": "3"}, "dimensions"), ({"input": "a", "encoding_format": "int8"}, "encoding_format"), \
        ({"input": "a", "pooling": "max"}, "pooling"), ({"input": "a", "pooling": 1}, "pooling")
    for body, param in bad:
        e = door.post(PATH, body).refused(400, param=param).error["message"]
        assert "\n" not in e and len(e) < 300, e
    door.post(PATH, {"input": "a", "model": "y"}).refused(404, code="model_not_found", param="model")
    eq(door.post(PATH, {"input": list(range(1, 65))}).status, 200)  # all of the context
    for value in (list(range(1, 66)), [[1], list(range(1, 66))]):
        e = door.post(PATH, {"input": value}).refused(400, code="context_length_exceeded").error
        assert "maximum context length is 64" in e["message"], e
    door.get(PATH).refused(405)


@case("C5_40_embeddings_need_a_key", "--key", "sk-e")
def _(door):
    eq(door.post(PATH, {"input": "a"}).status, 200)
    door.post(PATH, {"input": "a"}, headers={"Authorization": None}).refused(401, code="invalid_api_key")


@case("C5_40_embeddings_of_a_base_model", "--base")
def _(door):
    embed(door, "no template is needed")


@case("C5_40_more_embeddings_than_the_queue_holds", "--queue-max", "3", "--alias", "x")
def _(door):
    texts = [f"text number {i}" for i in range(2048)]
    before = door.metric("mock_requests_total")
    r = embed(door, texts, dimensions=2)
    eq(len(r["data"]), 2048)
    eq(door.metric("mock_requests_total"), before + 2048)
    for i in (0, 1, 3, 127, 128, 129, 2047):
        near(r["data"][i]["embedding"], want(ids_of(door, texts[i]), n=2))
    s = [door.connect() for _ in range(3)]  # others fill the queue
    for each in s:
        body = json.dumps({"prompt": "a", "seed": NEVER, "stream": True}).encode()
        each.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)
    within(3, "a full queue", lambda: door.metric("mock_running") == 3)
    a = door.post(PATH, {"input": texts[:5]}).refused(429, code="rate_limit_exceeded")
    eq(a.headers["retry-after"], "7")
    for each in s:
        each.close()
    within(3, "an empty queue", lambda: door.metric("mock_running") == 0)


@case("C5_39_more_prompts_than_the_queue_holds", "--queue-max", "3", "--alias", "x")
def _(door):
    a = door.complete(prompt=["a", "b", "c", "d", "e", "f", "g"], max_tokens=3)
    eq(a.status, 200, a.body[:200])
    eq([c["index"] for c in a.json["choices"]], list(range(7)))
    door.complete(prompt=["a", "b"], seed=BUSY).refused(429)


@case("C5_40_a_caller_who_leaves_takes_all_inputs_along", "--step-us", "20000", "--queue-max", "5")
def _(door):
    body = json.dumps({"input": ["a"] * 2048}).encode()
    before = door.metric("mock_requests_total")
    s = door.connect()
    s.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              b"Content-Length: %d\r\n\r\n" % len(body) + body)
    within(3, "some run", lambda: door.metric("mock_running") == 5)
    s.close()
    within(3, "none runs", lambda: door.metric("mock_running") == 0)
    begun = door.metric("mock_requests_total") - before
    assert begun < 1000, begun
