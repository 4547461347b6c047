"""llama.cpp's own endpoints: what its clients send and read, after the behaviour that its server's
documentation describes."""
import json
import os

from kit import ECHO, FIXTURES, SLOW, TEXT, USER, case, eq, events, within

DEEPSEEK = os.path.join(FIXTURES, "tokenizers/deepseek-coder/vocab.gguf")


def ask(door, path="/completion", **fields):
    a = door.post(path, {"prompt": "hello", "n_predict": 6, **fields})
    eq(a.status, 200, a.body[:300])
    return a.json


def stream(door, **fields):
    a = door.post("/completion", {"prompt": "hello", "n_predict": 6, "stream": True, **fields})
    eq((a.status, a.headers["content-type"]), (200, "text/event-stream"), a.body[:300])
    return events(a.body)


def ids_of(door, text, **more):
    return door.post("/tokenize", {"content": text, **more}).json["tokens"]


@case("L01_completion")
def _(door):
    a = ask(door)
    eq(a["content"], TEXT[:len(a["content"])])
    assert a["content"].startswith("The quick"), a
    eq((a["stop"], a["stop_type"], a["stopping_word"]), (True, "limit", ""))
    eq((a["tokens"], a["tokens_predicted"], a["tokens_evaluated"]), ([], 6, 1))
    eq((a["truncated"], a["has_new_line"], a["index"], a["id_slot"]), (False, False, 0, -1))
    eq((a["prompt"], a["model"], a["ignored"]), ("hello", "mock/tiny-1", []))
    eq((a["timings"]["prompt_n"] + a["timings"]["cache_n"], a["timings"]["predicted_n"]), (1, 6))
    assert {"prompt_per_token_ms", "predicted_per_token_ms"} < set(a["timings"]), a["timings"]
    g = a["generation_settings"]
    eq([g[k] for k in ("n_predict", "seed", "temperature", "top_k", "top_p", "min_p", "repeat_penalty")],
       [6, 4294967295, 0.8, 40, 0.95, 0.05, 1])
    assert "completion_probabilities" not in a, a
    eq(len(ask(door, return_tokens=True)["tokens"]), 6)
    # Ends by itself after 64 tokens and an end; where it may not end, with the context.
    a = ask(door, n_predict=-1)
    eq((a["stop_type"], a["tokens_predicted"], a["has_new_line"]), ("eos", 65, True))
    a = ask(door, n_predict=10**6, ignore_eos=True)
    eq((a["stop_type"], a["truncated"], a["tokens_predicted"]), ("limit", True, 4095))
    door.post("/completion", {"prompt": "word " * 5000}).refused(400, code="context_length_exceeded")


@case("L01_stream_is_the_same_as_the_whole")
def _(door):
    for fields in ({}, {"n_predict": 40}, {"stop": ["fox"], "n_predict": 20}, {"n_probs": 3}):
        whole = ask(door, return_tokens=True, **fields)
        evs = stream(door, **fields)
        *parts, last = evs
        eq("".join(e["content"] for e in evs), whole["content"])
        eq([t for e in parts for t in e["tokens"]], whole["tokens"])
        assert all(e["stop"] is False and len(e["tokens"]) == 1 for e in parts), parts
        eq([e["tokens_predicted"] for e in parts], list(range(1, len(parts) + 1)))
        eq((last["stop"], last["tokens"]), (True, []))
        for k in ("stop_type", "stopping_word", "tokens_predicted", "prompt", "truncated", "has_new_line"):
            eq(last[k], whole[k], k)
        if "n_probs" in fields:
            eq([p for e in parts for p in e["completion_probabilities"]], whole["completion_probabilities"])
            eq([len(e["completion_probabilities"]) for e in parts], [1] * len(parts))
    assert "timings" in stream(door, timings_per_token=True)[0]


@case("L01_stop_words")
def _(door):
    a = ask(door, n_predict=30, stop=["zzz", "jumps", "lazy"])
    eq((a["content"], a["stop_type"], a["stopping_word"]), ("The quick brown fox ", "word", "jumps"))
    eq(ask(door, stop=[f"never{i}" for i in range(16)])["stop_type"], "limit")
    door.post("/completion", {"prompt": "x", "stop": ["a"] * 17}).refused(400, param="stop")


@case("L02_forms_of_prompts")
def _(door):
    ids = ids_of(door, "hello world")
    eq(ask(door, prompt=ids, seed=ECHO, n_predict=9)["content"], "hello world")
    eq(ask(door, prompt=[*ids, " and", *ids], seed=ECHO, n_predict=9)["content"], "hello world andhello world")
    eq(ask(door, prompt={"prompt_string": "hello"}, seed=ECHO)["content"], "hello")
    for many in (["hello", "world"], [ids, "hello"], [ids, [ids[0], "a"], {"prompt_string": "b"}]):
        a = ask(door, prompt=many, seed=ECHO)
        eq([x["index"] for x in a], list(range(len(many))))
        eq([x["content"] for x in a], [x["prompt"] for x in a], str(many))
    eq(type(ask(door, prompt=["one"])), dict)
    eq(len(ask(door, n_cmpl=3)), 3)
    evs = stream(door, prompt=["hello", "world"])
    eq(sorted(e["index"] for e in evs if e["stop"]), [0, 1])
    for bad in ([], [[]], "", [True], [1.5], [-1], [10**7], {"a": 1}, [["a", None]],
                {"prompt_string": "x", "multimodal_data": ["AA"]}, 7):
        door.post("/completion", {"prompt": bad}).refused(400, param="prompt" if bad != [True] and bad != [1.5] else False)
    door.post("/completion", {}).refused(400, param="prompt")


@case("L02_which_form_completions_have")
def _(door):
    for body in ({"prompt": "x"}, {"prompt": "x", "model": "mock/tiny-1", "n_predict": 2}):
        assert "content" in door.post("/completions", body).json, body
    a = door.post("/completions", {"prompt": "x", "model": "mock/tiny-1", "max_tokens": 2}).json
    eq(a["object"], "text_completion")
    eq(door.post("/v1/completions", {"prompt": "x", "n_predict": 2}).json["object"], "text_completion")


@case("L03_probabilities")
def _(door):
    a = ask(door, n_probs=4, temperature=0)
    eq(len(a["completion_probabilities"]), 6)
    for t in a["completion_probabilities"]:
        assert t["logprob"] <= 0 and len(t["top_logprobs"]) == 4, t
        eq(bytes(t["bytes"]).decode(), t["token"])
        eq({"id", "token", "bytes", "logprob"}, set(t["top_logprobs"][0]))
    a = ask(door, n_probs=4, temperature=0, post_sampling_probs=True)
    for t in a["completion_probabilities"]:
        eq((t["prob"], [p["prob"] for p in t["top_probs"]][0]), (1.0, 1.0))
        eq(t["top_probs"][0]["id"], t["id"])
        assert len(t["top_probs"]) <= 4 and len({p["id"] for p in t["top_probs"]}) == len(t["top_probs"]), t
    door.post("/completion", {"prompt": "x", "n_probs": 2, "post_sampling_probs": True}).refused(
        400, param="post_sampling_probs")
    door.post("/completion", {"prompt": "x", "n_probs": 21}).refused(400, param="n_probs")


@case("L04_response_fields")
def _(door):
    names = ["content", "generation_settings/n_predict", "prompt", "timings/predicted_n", "no/such", ""]
    a = ask(door, response_fields=names)
    eq(a, {"content": a["content"], "generation_settings/n_predict": 6, "prompt": "hello", "timings/predicted_n": 6})
    assert "generation_settings" in ask(door, response_fields=[])
    for bad in ([1], "content", ["a"] * 65):
        door.post("/completion", {"prompt": "x", "response_fields": bad}).refused(400, param="response_fields")


@case("L05_bias_forms")
def _(door):
    for bias in ([[5, 1.5], [6, -100]], [["hello", -0.5]], [[5, False]], {"5": -100}, {"hello world": 2, "7": 1}, [], {}):
        ask(door, logit_bias=bias)
    for bias in ([[5]], [5], [[5, "1"]], [[5, True]], [[-1, 1]], [[10**9, 1]], {"5": 101}, [[None, 1]], "5",
                 [[i, 1] for i in range(1025)], {"word " * 2000: 1}):
        door.post("/completion", {"prompt": "x", "logit_bias": bias}).refused(400, param="logit_bias")


@case("L06_what_is_ignored_is_said")
def _(door):
    a = ask(door, mirostat=2, typical_p=0.9, dynatemp_range=0, samplers=["top_k"], repeat_last_n=64,
            repeat_penalty=1.1, cache_prompt=False, id_slot=3, top_n_sigma=-1, xtc_probability=None, grammar="")
    eq(sorted(a["ignored"]), ["mirostat", "repeat_last_n", "samplers", "typical_p"])
    eq(a["generation_settings"]["mirostat"], 0)
    eq(ask(door, temperature=-1)["generation_settings"]["temperature"], 0)
    eq(ask(door, seed=-1)["generation_settings"]["seed"], 4294967295)
    eq(ask(door, seed=7)["generation_settings"]["seed"], 7)
    for field, bad in (("mirostat", "2"), ("typical_p", []), ("n_predict", 1.5), ("n_predict", -3), ("stream", "yes"),
                       ("temperature", 2.5), ("return_tokens", 1), ("lora", [{"id": 0, "scale": 1}]),
                       ("n_cmpl", 9), ("repeat_penalty", 0), ("top_k", {}), ("grammar", ["x"])):
        door.post("/completion", {"prompt": "x", field: bad}).refused(400, param=field)


@case("L07_no_tokens_asked_for")
def _(door):
    a = ask(door, n_predict=0, prompt="a prompt to warm up with")
    eq((a["content"], a["tokens_predicted"], a["stop_type"]), ("", 0, "limit"))
    eq(stream(door, n_predict=0)[-1]["stop"], True)
    door.post("/completion", {"prompt": "x", "n_predict": 0, "n": 2}).refused(400, param="n_predict")


@case("L08_grammar_and_schema")
def _(door):
    a = ask(door, n_predict=60, json_schema={"type": "object", "properties": {"a": {"type": "integer"}},
                                             "required": ["a"], "additionalProperties": False})
    eq(list(json.loads(a["content"])), ["a"])
    eq(ask(door, grammar='root ::= "yes" | "no"')["content"][:1] in ("y", "n"), True)


@case("L09_props_slots_adapters")
def _(door):
    p = door.get("/props").json
    eq((p["total_slots"], p["default_generation_settings"]["n_ctx"], p["is_sleeping"]), (8, 4096, False))
    eq(p["default_generation_settings"]["params"]["seed"], 4294967295)
    eq((p["model_path"], p["modalities"]["vision"]), ("tiny-1.gguf", False))
    assert "<|im_start|>" in p["chat_template"] and p["eos_token"], p
    eq(door.get("/lora-adapters").json, [])
    eq(door.get("/v1/health").json, {"status": "ok"})
    slots = door.get("/slots?fail_on_no_slot=1").json
    eq((len(slots), [s["is_processing"] for s in slots], slots[3]["id"]), (8, [False] * 8, 3))
    s = door.connect()
    body = json.dumps({"prompt": "a secret", "seed": SLOW, "n_cmpl": 8, "n_predict": 400, "ignore_eos": True}).encode()
    s.sendall(b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
              b"Content-Length: %d\r\n\r\n" % len(body) + body)
    within(5, "eight slots are taken", lambda: all(x["is_processing"] for x in door.get("/slots").json))
    a = door.get("/slots")
    assert b"secret" not in a.body, a.body
    eq(sum(a.json[7]["next_token"][0][k] for k in ("n_remain", "n_decoded")), 400)
    door.get("/slots?fail_on_no_slot=1").refused(503, code="no_slot")
    s.close()
    within(5, "slots are free again", lambda: not any(x["is_processing"] for x in door.get("/slots").json))
    for action in ("save", "restore", "erase"):
        door.post(f"/slots/0?action={action}", {"filename": "x.bin"}).refused(501, code="not_supported")
    door.post("/rerank", {"query": "a", "documents": ["b"]}).refused(501, code="not_supported")


@case("L10_apply_template")
def _(door):
    p = door.post("/apply-template", {"messages": USER}).json["prompt"]
    assert p.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"), p
    q = door.post("/apply-template", {"messages": USER, "add_generation_prompt": False}).json["prompt"]
    eq(p, q + "<|im_start|>assistant\n")
    door.post("/apply-template", {}).refused(400, param="messages")


@case("L11_embeddings")
def _(door):
    whole = door.post("/v1/embeddings", {"input": "hello world"}).json["data"][0]["embedding"]
    for path, body in (("/embedding", {"content": "hello world"}), ("/embedding", {"input": "hello world"}),
                       ("/embeddings", {"content": "hello world"})):
        a = door.post(path, body).json
        eq((len(a), a[0]["index"], len(a[0]["embedding"])), (1, 0, 1))
        assert all(abs(x - y) < 1e-6 for x, y in zip(a[0]["embedding"][0], whole)), path
    eq(door.post("/embeddings", {"input": "x"}).json["object"], "list")
    eq(len(door.post("/embedding", {"content": ["a", [1, "b", 2]]}).json), 2)
    raw = door.post("/embedding", {"content": "hello", "embd_normalize": -1}).json[0]["embedding"][0]
    for p in (0, 1, 3):
        v = door.post("/embedding", {"content": "hello", "embd_normalize": p}).json[0]["embedding"][0]
        n = max(map(abs, raw)) / 32760 if p == 0 else sum(abs(x)**p for x in raw)**(1 / p)
        assert all(abs(x - y / n) <= 1e-5 * abs(x) + 1e-6 for x, y in zip(v, raw)), p
    door.post("/embedding", {"content": "x", "embd_normalize": "2"}).refused(400, param="embd_normalize")
    door.post("/embedding", {}).refused(400, param="content")


@case("L12_infill", "--vocab", DEEPSEEK, "--say", "x")
def _(door):
    fields = {"input_prefix": "def f(", "input_suffix": "\n", "prompt": "a", "seed": ECHO, "n_predict": 40}
    a = ask(door, "/infill", **fields)
    mark = "<\uff5cfim\u2581%s\uff5c>"
    hole = mark % "begin" + "def f(" + mark % "hole" + "\n" + mark % "end" + "a"
    assert a["prompt"].endswith(hole), a["prompt"]
    end = "<\uff5cend\u2581of\u2581sentence\uff5c>"
    a = ask(door, "/infill", input_extra=[{"filename": "b.py", "text": "x = " + end}], **fields)
    assert a["prompt"].endswith("x = " + end + "\n" + hole), a["prompt"]
    # What a caller spells is text, not a token that controls.
    assert a["tokens_evaluated"] > len(ids_of(door, a["prompt"])), a["prompt"]


@case("L12_infill_refusals")
def _(door):
    good = {"input_prefix": "a", "input_suffix": "b"}
    door.post("/infill", good).refused(501, code="not_supported")
    for more, param in (({"input_prefix": None}, "input_prefix"), ({"input_suffix": 3}, "input_suffix"),
                        ({"prompt": [1]}, "prompt"), ({"input_extra": [{}]}, "input_extra"),
                        ({"input_extra": [{"filename": "ok"}]}, "input_extra"), ({"input_extra": {}}, "input_extra"),
                        ({"input_extra": [{"filename": 1, "text": "abc"}]}, "input_extra")):
        door.post("/infill", {**good, **more}).refused(400, param=param)


@case("L13_pieces_of_characters")
def _(door):
    for t in ids_of(door, "caf\u00e9 \U0001f642\U0001f680", with_pieces=True):
        assert t["piece"] and isinstance(t["piece"], (str, list)), t
    pieces = [t["piece"] for t in ids_of(door, "\u5abd", with_pieces=True)]
    raw = b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in pieces)
    eq(raw.decode(), "\u5abd")


@case("L14_keys", "--key", "sk-right")
def _(door):
    for path in ("/completion", "/completions", "/infill", "/embedding", "/apply-template"):
        door.post(path, {"prompt": "x"}, headers={"Authorization": None}).refused(401, code="invalid_api_key")
    for path in ("/props", "/slots", "/lora-adapters"):
        door.get(path, headers={"Authorization": None}).refused(401, code="invalid_api_key")
    eq(door.post("/completions", {"prompt": "x", "n_predict": 1}).status, 200)
