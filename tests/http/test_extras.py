"""Fields of vLLM's that its clients send to OpenAI's paths."""
import json

from kit import CHAT, ECHO, TEXT, USER, case, eq

RESPONSES = "/v1/responses"
INCLUDE = ["message.output_text.logprobs"]


def ids_of(door, text):
    return door.post("/tokenize", {"content": text}).json["tokens"]


@case("V01_min_tokens")
def _(door):
    # The mock ends after 64 tokens, unless an end may not come yet.
    c = door.complete(max_tokens=200).json
    eq((c["usage"]["completion_tokens"], c["choices"][0]["finish_reason"]), (65, "stop"))
    c = door.complete(max_tokens=200, min_tokens=100).json
    eq((c["usage"]["completion_tokens"], c["choices"][0]["finish_reason"]), (101, "stop"))
    for n in (1, 3, 65):
        eq(door.complete(max_tokens=200, min_tokens=n).json["usage"]["completion_tokens"], 66 if n == 65 else 65)
    eq(door.complete(max_tokens=30, min_tokens=30).json["usage"]["completion_tokens"], 30)
    c = door.chat(max_tokens=200, min_tokens=80, n=2).json
    eq(c["usage"]["completion_tokens"], 2 * 81)
    # Stop strings and ids wait as well.
    first = ids_of(door, "The quick brown fox")
    eq(door.complete(max_tokens=20, stop="quick", min_tokens=1).json["choices"][0]["text"], "The ")
    eq(door.complete(max_tokens=9, stop="quick", min_tokens=5).json["choices"][0]["finish_reason"], "length")
    a = door.complete(max_tokens=20, stop_token_ids=[first[1]]).json["choices"][0]
    eq((a["text"], a["stop_reason"]), ("The", first[1]))
    assert door.complete(max_tokens=20, stop_token_ids=[first[1]], min_tokens=4).json["usage"]["completion_tokens"] > 4
    # A grammar that wants nothing else goes first.
    a = door.complete(max_tokens=50, min_tokens=30, guided_choice=["yes"]).json["choices"][0]
    eq((a["text"], a["finish_reason"]), ("yes", "stop"))
    for bad in (-1, 1.5, "3", 10):
        door.post("/v1/completions", {"prompt": "x", "max_tokens": 9, "min_tokens": bad}).refused(400, param="min_tokens")


@case("V02_allowed_ids")
def _(door):
    ids = ids_of(door, "yes no")
    a = door.complete(max_tokens=5, allowed_token_ids=ids, return_token_ids=True).json["choices"][0]
    assert set(a["token_ids"]) <= set(ids), a
    for bad in ([], [-1], [10**7], ["a"], "5", [1.5]):
        door.post("/v1/completions", {"prompt": "x", "allowed_token_ids": bad}).refused(400, param="allowed_token_ids")
    door.post("/v1/completions", {"prompt": "x", "bad_words": ["a"]}).refused(400, param="bad_words")


@case("V03_stop_in_the_output")
def _(door):
    for stop, text in (("quick", "The quick"), ("wn fo", "The quick brown fo"), (["zz", " "], "The ")):
        a = door.complete(max_tokens=20, stop=stop, include_stop_str_in_output=True).json["choices"][0]
        eq((a["text"], a["finish_reason"]), (text, "stop"))
        evs = door.stream("/v1/completions", prompt="hello", max_tokens=20, stop=stop, include_stop_str_in_output=True)
        eq("".join(c["text"] for e in evs if e != "[DONE]" for c in e["choices"]), text)
    first = ids_of(door, "The quick brown fox")
    a = door.complete(max_tokens=20, stop_token_ids=[first[1]], include_stop_str_in_output=True).json["choices"][0]
    eq(a["text"], "The quick")


@case("V04_special_tokens_in_the_text")
def _(door):
    said = "a<|im_start|>b"
    ask = {"prompt": said, "seed": ECHO, "max_tokens": 9}
    eq(door.post("/v1/completions", ask).json["choices"][0]["text"], "ab")
    eq(door.post("/v1/completions", {**ask, "skip_special_tokens": False}).json["choices"][0]["text"], said)
    a = door.post("/v1/completions", {**ask, "skip_special_tokens": False, "include_stop_str_in_output": True})
    assert a.json["choices"][0]["text"].startswith(said + "<"), a.json


@case("V05_truncated_prompts")
def _(door):
    for n, used in ((3, 3), (1, 1), (50, 5)):
        j = door.complete(prompt="one two three four five", truncate_prompt_tokens=n, max_tokens=2).json
        eq(j["usage"]["prompt_tokens"], used)
    j = door.complete(prompt="one two three four five", truncate_prompt_tokens=2, max_tokens=1, echo=True).json
    eq(j["choices"][0]["text"], " four fiveThe")
    j = door.complete(prompt="word " * 6000, truncate_prompt_tokens=-1, max_tokens=10).json
    eq(j["usage"]["prompt_tokens"], 4086)
    eq(door.chat(truncate_prompt_tokens=7, max_tokens=1).json["usage"]["prompt_tokens"], 7)
    for bad in (-2, "x", 1.5):
        door.post("/v1/completions", {"prompt": "x", "truncate_prompt_tokens": bad}).refused(
            400, param="truncate_prompt_tokens")


@case("V06_prompt_logprobs")
def _(door):
    ids = ids_of(door, "one two three")
    want = [None] + [{str(i): {"logprob": -k, "rank": None, "decoded_token": t}}
                     for k, (i, t) in enumerate(zip(ids[1:], (" two", " three")), 1)]
    for more in ({}, {"echo": True, "logprobs": 1}):
        eq(door.complete(prompt="one two three", prompt_logprobs=0, **more).json["choices"][0]["prompt_logprobs"], want)
    eq(len(door.chat(prompt_logprobs=0, max_tokens=1).json["prompt_logprobs"]), 31)
    assert "prompt_logprobs" not in door.complete().json["choices"][0]
    for bad in (1, -1, 5, True):
        door.chat(prompt_logprobs=bad).refused(400, param="prompt_logprobs")
    door.chat(prompt_logprobs=0, stream=True).refused(400, param="prompt_logprobs")


@case("V07_tokens_named_by_ids")
def _(door):
    ids = ids_of(door, "The quick")
    a = door.complete(max_tokens=2, logprobs=2, return_tokens_as_token_ids=True).json["choices"][0]["logprobs"]
    eq(a["tokens"], [f"token_id:{i}" for i in ids])
    assert all(k.startswith("token_id:") for k in a["top_logprobs"][0]), a
    a = door.chat(max_tokens=2, logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True).json
    eq([t["token"] for t in a["choices"][0]["logprobs"]["content"]], [f"token_id:{i}" for i in ids])


@case("V08_add_special_tokens")
def _(door):
    for adds in (True, False):
        eq(door.complete(add_special_tokens=adds).status, 200)
    eq(door.chat(add_special_tokens=False, max_tokens=1).status, 200)
    door.chat(add_special_tokens=True).refused(400, param="add_special_tokens")


def probs_of(events, kind):
    return [p for e in events if e["type"] == kind for p in e["logprobs"]]


@case("V09_responses_logprobs")
def _(door):
    ask = {"input": "hi", "include": INCLUDE, "top_logprobs": 2, "max_output_tokens": 30}
    whole = door.post(RESPONSES, ask).json["output"][0]["content"][0]
    eq(len(whole["logprobs"]), 30)
    eq({"token", "logprob", "bytes", "top_logprobs"}, set(whole["logprobs"][0]))
    eq(len(whole["logprobs"][0]["top_logprobs"]), 2)
    eq(b"".join(bytes(p["bytes"]) for p in whole["logprobs"])[:20].decode(), TEXT[:20])
    a = door.post(RESPONSES, {**ask, "stream": True})
    evs = [json.loads(b.split("data: ", 1)[1]) for b in a.body.decode().split("\n\n") if "data: " in b]
    eq(probs_of(evs, "response.output_text.delta"), whole["logprobs"])
    eq(probs_of(evs, "response.output_text.done"), whole["logprobs"])
    eq(evs[-1]["response"]["output"][0]["content"][0]["logprobs"], whole["logprobs"])
    eq(door.post(RESPONSES, {"input": "hi", "top_logprobs": 2}).json["output"][0]["content"][0]["logprobs"], [])


@case("V09_responses_logprobs_are_the_texts", "--template", __import__("kit").TEMPLATE, "--say", "<think>\nhm hm\n</think>\n\nYes, 4.")
def _(door):
    a = door.post(RESPONSES, {"input": "hi", "include": INCLUDE}).json["output"]
    text = [i for i in a if i["type"] == "message"][0]["content"][0]
    said = b"".join(bytes(p["bytes"]) for p in text["logprobs"]).decode()
    assert said.endswith(text["text"]) and len(said) <= len(text["text"]) + 12, (said, text)
