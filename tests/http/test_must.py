"""What clients break on and no other file here asks: rows 6, 9, 15, 17, 26, 29, 42 and 58 of the
list of conformance."""
import json
import os
import signal

from kit import (CHAT, COMPLETIONS, FIXTURES, NEVER, SLOW, STRICT_TEMPLATE, TEXT, USER, case, eq, events, read_answer,
                 text_of, within)

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"


def template(name):
    return os.path.join(FIXTURES, "chat_templates", name, "template.jinja")


QWEN = ("--template", template("qwen3"), "--say",
        "<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>")
TOOLS = [{"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}]


def open_stream(door, path, **body):
    s = door.connect()
    data = json.dumps({"stream": True, **body}).encode()
    s.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return s


@case("C0_6_paths_never_redirect")
def _(door):
    for path in ("/v1/models/", "/v1", "/v1/", "//v1/models", "/v1/chat/completions/", "/v1/messages/"):
        for method, body in (("GET", None), ("POST", {})):
            a = door.request(method, path, body)
            assert a.status in (404, 405, 400) and "location" not in a.headers, (path, method, a.status)
    for path in (MESSAGES, MESSAGES + "/count_tokens"):
        eq(door.post(path + "?beta=true", {"messages": USER, "max_tokens": 1}).status, 200)


@case("C0_9_unknown_fields_known_values_bad_bodies")
def _(door):
    more = {"some_new_field": {"deep": [1, None]}, "store": False, "service_tier": "auto"}
    eq(door.chat(max_tokens=1, **more).status, 200)
    eq(door.post(COMPLETIONS, {"prompt": "a", "max_tokens": 1, **more}).status, 200)
    eq(door.post(RESPONSES, {"input": "a", "max_output_tokens": 1, **more}).status, 200)
    eq(door.post(MESSAGES, {"messages": USER, "max_tokens": 1, **more}).status, 200)
    for name, value in (("temperature", 9), ("top_p", -1), ("n", 99), ("stream", "yes"), ("tool_choice", "sometimes"),
                        ("response_format", {"type": "xml"}), ("logit_bias", {"0": 1000}), ("max_tokens", "many")):
        e = door.chat(**{name: value}).refused(400).error
        assert (e["param"] or "").startswith(name), (name, e)
    for path in (CHAT, COMPLETIONS, RESPONSES):
        door.post(path, b'{"messages":[{"role":"user","content":"\xff\xfe"}],"prompt":"\xff","input":"\xff"}').refused(400)
    eq(door.post(MESSAGES, b'{"messages":[{"role":"user","content":"\xff\xfe"}]}').status, 400)
    door.post(CHAT, None, headers={"Content-Type": "application/json", "Content-Length": str(1 << 30)}).refused(413)


@case("C2_15_roles_are_repaired_or_refused")
@case("C2_15_roles_are_repaired_or_refused_by_gemma", "--template", STRICT_TEMPLATE)
@case("C2_15_roles_are_repaired_or_refused_by_mistral", "--template", template("mistral-small-3.2"))
def _(door):
    def turn(role, content="x", **more):
        return {"role": role, "content": content, **more}
    call = {"id": "123456789", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    asked = turn("assistant", None, tool_calls=[call])
    told = turn("tool", "noon", tool_call_id="123456789")
    for i, talk in enumerate((
            [turn("user"), turn("user")], [turn("user"), turn("assistant"), turn("assistant"), turn("user")],
            [turn("system"), turn("system"), turn("user")], [turn("user"), turn("system")],
            [turn("user"), turn("assistant"), turn("system"), turn("user")],
            [turn("developer"), turn("user")], [turn("user"), asked, told, turn("user")])):
        eq(door.chat(messages=talk, tools=TOOLS, max_tokens=1).status, 200, f"talk {i}")
    for i, talk in enumerate((
            [turn("assistant"), turn("user")], [turn("system")], [turn("assistant")], [told], [turn("user"), told], [turn("user"), asked],
            [turn("user"), asked, turn("user")], [turn("user", "")], [turn("user", None)], [asked, told])):
        for stream in (False, True):
            a = door.chat(messages=talk, tools=TOOLS, max_tokens=1, stream=stream)
            assert a.status in (200, 400), (i, a.status, a.body[:200])
    for role in ("robot", "", None, 5):
        door.chat(messages=[turn(role)]).refused(400)


@case("C2_17_what_claude_code_retries_by_wording")
def _(door):
    old = {"type": "thinking", "thinking": "Hm.", "signature": "of another server"}
    talk = USER + [{"role": "assistant", "content": [old, {"type": "text", "text": "ok"}]},
                   {"role": "system", "content": "from now on be brief"}, {"role": "user", "content": "go on"}]
    for thinking in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}, {"type": "disabled"}):
        for stream in (False, True):
            a = door.post(MESSAGES, {"messages": talk, "max_tokens": 2, "thinking": thinking, "stream": stream})
            eq(a.status, 200, a.body[:300])


@case("C3_26_a_tiny_request_beside_a_long_one")
def _(door):
    s = open_stream(door, CHAT, messages=USER, seed=SLOW)
    within(2, "running", lambda: door.metric("mock_running") == 1)
    title = door.chat(messages=[{"role": "user", "content": "A title?"}], max_tokens=4, seed=SLOW)
    eq(title.json["choices"][0]["message"]["content"], "The quick brown fox")
    eq(door.metric("mock_running"), 1, "the long one is gone")
    with s.makefile("rb") as f:
        evs = events(read_answer(f).body)
    s.close()
    eq(text_of(evs)[:len(TEXT)], TEXT)
    eq(evs[-2]["choices"][0]["finish_reason"], "stop")


@case("C4_29_the_last_chunk_says_why")
@case("C4_29_the_last_chunk_says_why_of_calls", *QWEN)
def _(door):
    calls = "--say" in door.options
    for fields, want in (({"tools": TOOLS} if calls else {}, "tool_calls" if calls else "stop"),
                         ({"max_tokens": 3}, "length"), ({"tool_choice": "none", "stop": "o"}, "stop")):
        for usage in (False, True):
            evs = door.stream(stream_options={"include_usage": usage}, **fields)
            eq(evs.pop(), "[DONE]")
            if usage:
                eq(evs.pop()["choices"], [])
            reasons = [e["choices"][0]["finish_reason"] for e in evs]
            eq(reasons, [None] * (len(evs) - 1) + [want])
            eq(evs[-1]["choices"][0]["delta"], {})


@case("C5_42_discovery", "--alias", "claude-mock", "--alias", "anthropic/mock")
def _(door):
    a = door.get("/v1/models?limit=1000", headers={"anthropic-version": "2023-06-01"}, timeout=3)
    eq((a.status, "location" in a.headers), (200, False))
    ids = [m["id"] for m in a.json["data"]]
    for name in ("claude-mock", "anthropic/mock"):
        assert name in ids, ids
        a = door.post(MESSAGES, {"model": name, "messages": USER, "max_tokens": 1})
        eq((a.status, a.json["model"]), (200, name))
    # Asking does not start, and does not wait for, a model that is not there.
    door.process.send_signal(signal.SIGUSR1)
    within(2, "loading", lambda: door.get("/health").status == 503)
    eq(door.get("/v1/models?limit=1000", timeout=3).status, 200)
    eq(door.get("/health").status, 503)
    door.process.send_signal(signal.SIGUSR2)
    within(2, "ready", lambda: door.get("/health").status == 200)


@case("C7_58_first_event_before_the_first_token")
def _(door):
    # The prompt is never computed: what comes can only have been sent on acceptance.
    s = open_stream(door, MESSAGES, messages=USER, max_tokens=1, seed=NEVER)
    data = b""
    while b"event: " not in data or not data.rstrip(b"\r\n").endswith(b"}"):
        part = s.recv(4096)
        assert part, "closed"
        data += part
    s.close()
    first = data[data.index(b"event: "):].split(b"\n")[0]
    eq(first, b"event: message_start")


BEGUN = USER + [{"role": "assistant", "content": " The answer ("}]


def count(door, **body):
    a = door.post(CHAT + "/input_tokens", {"messages": USER, **body})
    eq(a.status, 200, a.body[:300])
    return a.json["input_tokens"]


@case("C7_52_a_last_turn_of_the_assistant_is_continued")
@case("C7_52_a_last_turn_of_the_assistant_is_continued_by_qwen3", "--template", template("qwen3"))
@case("C7_52_a_last_turn_of_the_assistant_is_continued_by_gpt_oss", "--template", template("gpt-oss"))
def _(door):
    n = count(door, messages=BEGUN, continue_final_message=True)
    whole = door.post("/tokenize", {"messages": BEGUN, "continue_final_message": True}).json["tokens"]
    eq(len(whole), n)
    text = door.post("/detokenize", {"tokens": whole}).json["content"]
    assert text.endswith("The answer ("), text[-80:]
    # Messages do so by themselves; text in several blocks, too.
    blocks = [{"type": "text", "text": " The an"}, {"type": "text", "text": "swer ("}]
    for content in (BEGUN[-1]["content"], blocks):
        a = door.post(MESSAGES + "/count_tokens", {"messages": USER + [{"role": "assistant", "content": content}]})
        eq(a.json["input_tokens"], n)
    # Not where there is nothing to go on with.
    assert count(door, messages=BEGUN) > n
    for messages in (USER, USER + [{"role": "assistant", "content": " \n"}]):
        door.chat(messages=messages, continue_final_message=True).refused(400, param="continue_final_message")
    door.chat(messages=BEGUN, continue_final_message=True, add_generation_prompt=True).refused(400)


@case("C3_18_what_the_template_changes_cannot_be_continued", "--template", template("qwen3"))
def _(door):
    messages = USER + [{"role": "assistant", "content": "<think>hm</think>yes"}]
    door.chat(messages=messages, continue_final_message=True).refused(400, param="continue_final_message")


@case("C3_18_generation_prompt")
def _(door):
    n = count(door)
    eq(n - count(door, add_generation_prompt=False), 4)  # <|im_start|>assistant\n


@case("C3_18_stop_token_ids")
def _(door):
    fox = door.post("/tokenize", {"content": " fox"}).json["tokens"]
    a = door.chat(stop_token_ids=fox, ignore_eos=True, max_tokens=40)
    eq(a.json["choices"][0]["message"]["content"], "The quick brown")
    eq(a.json["choices"][0]["finish_reason"], "stop")
    for bad in ([1 << 20], [-1], ["a"], [1.5], [0] * 1025):
        door.chat(stop_token_ids=bad).refused(400, param="stop_token_ids")


@case("C3_18_stream_options_need_a_stream")
def _(door):
    for path, body in ((CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "a"})):
        for stream in ({}, {"stream": False}, {"stream": None}):
            door.post(path, {**body, **stream, "stream_options": {"include_usage": None}}).refused(
                400, param="stream_options")


@case("C5_39_paths_without_a_version")
def _(door):
    for path, body in ((CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "a"}), (RESPONSES, {"input": "a"})):
        eq(door.post(path[3:], {**body, "max_tokens": 1, "max_output_tokens": 1}).status, 200)
    eq(door.request("GET", "/models").json, door.request("GET", "/v1/models").json)
    for path in ("/cluster", "/cluster/drain", "/v1/v1/models", "/models/", "/v1chat/completions"):
        eq(door.request("GET", path).status, 404, path)


@case("C5_39_paths_without_a_version_need_the_key_too", "--key", "secret-key-of-sixteen")
def _(door):
    wrong = {"Authorization": "Bearer sk-other"}
    eq(door.request("GET", "/models").status, 200)
    eq(door.request("GET", "/models", headers=wrong).status, 401)
    eq(door.request("POST", CHAT[3:], {"messages": USER}, headers=wrong).status, 401)


@case("C5_43_special_tokens_as_text")
def _(door):
    def tokens(**body):
        return door.post("/tokenize", {"content": "<|im_start|>a", **body}).json["tokens"]
    eq(tokens(), tokens(parse_special=True))
    assert len(tokens(parse_special=False)) > len(tokens())


@case("C6_46_work_of_other_providers_tools_is_passed_over")
def _(door):
    items = [{"type": "web_search_call", "id": "ws", "status": "completed"}, {"role": "user", "content": "hi"}]
    blocks = [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
              {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, {"type": "text", "text": "a"}]
    eq(door.post(RESPONSES + "/input_tokens", {"input": items}).json,
       door.post(RESPONSES + "/input_tokens", {"input": "hi"}).json)
    for content in (blocks, blocks[2:], "a"):
        a = door.post(MESSAGES + "/count_tokens", {"messages": USER + [{"role": "assistant", "content": content}] + USER})
        eq(a.status, 200, a.body[:300])
