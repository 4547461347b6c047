"""C.2, C.4, C.6, C.7: calls, thoughts and the dialects: chat completions, Responses, Messages."""
import json
import os
import re

from kit import (CHAT, FAIL_LATER, FIXTURES, NO_CAPACITY, STRICT_TEMPLATE, TEXT, USER, case, eq)

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"


def template(name):
    return os.path.join(FIXTURES, "chat_templates", name, "template.jinja")


WEATHER = {"city": "Paris \u65e5\u672c", "days": [1, 2]}
CALLS = [("get_weather", WEATHER), ("get_time", {})]
THOUGHT, SPOKEN = "Let me see: \u00fcber \"all\".", "I look it up \U0001f642."
SAY = f"<think>\n{THOUGHT}\n</think>\n\n{SPOKEN}\n" + "\n".join(
    f"<tool_call>\n{json.dumps({'name': n, 'arguments': a}, ensure_ascii=False)}\n</tool_call>" for n, a in CALLS)
QWEN = ("--template", template("qwen3"), "--say", SAY)
STRICT = ("--template", template("mistral-small-3.2"))

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
EMPTY = {"type": "object", "properties": {}}
PARTS = [("get_weather", "The weather.", SCHEMA), ("get_time", "The time.", EMPTY)]
TOOLS = [{"type": "function", "function": {"name": n, "description": d, "parameters": s}} for n, d, s in PARTS]
M_TOOLS = [{"name": n, "description": d, "input_schema": s} for n, d, s in PARTS]
R_TOOLS = [{"type": "function", "name": n, "description": d, "parameters": s} for n, d, s in PARTS]


def chat(door, **more):
    return door.chat(tools=TOOLS, **more)


def messages(door, **more):
    return door.post(MESSAGES, {"messages": USER, "max_tokens": 500, **more})


def responses(door, **more):
    return door.post(RESPONSES, {"input": "hi", **more})


def named_events(a):
    """A stream whose events have names: one name line, one data line, equal types; no [DONE]."""
    eq(a.status, 200, a.body[:300])
    eq(a.headers["content-type"], "text/event-stream")
    text = a.body.decode()
    assert text.endswith("\n\n"), text[-80:]
    out = []
    for block in text[:-2].split("\n\n"):
        m = re.fullmatch(r"event: (\S+)\ndata: (\{.*\})", block)
        assert m, f"bad event {block[:100]!r}"
        out.append(json.loads(m.group(2)))
        eq(out[-1]["type"], m.group(1))
    return out


# ---- chat completions

def chat_deltas(door, **more):
    evs = [json.loads(b[6:]) for b in chat(door, stream=True, **more).body.decode()[:-2].split("\n\n")[:-1]]
    return [e["choices"][0] for e in evs]


@case("C4_27_calls_in_one_body", *QWEN)
def _(door):
    a = chat(door).json
    m = a["choices"][0]["message"]
    eq((m["role"], m["content"], m["refusal"]), ("assistant", SPOKEN, None))
    eq([(c["type"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in m["tool_calls"]],
       [("function", n, v) for n, v in CALLS])
    ids = [c["id"] for c in m["tool_calls"]]
    assert len(set(ids)) == 2 and all(i.startswith("call_") for i in ids), ids
    eq(a["choices"][0]["finish_reason"], "tool_calls")
    used = a["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < used < a["usage"]["completion_tokens"], a["usage"]


@case("C4_32_thoughts_under_both_names", *QWEN)
def _(door):
    m = chat(door).json["choices"][0]["message"]
    eq((m["reasoning_content"], m["reasoning"]), (THOUGHT, THOUGHT))
    deltas = [c["delta"] for c in chat_deltas(door)]
    for key in ("reasoning_content", "reasoning"):
        eq("".join(d.get(key, "") for d in deltas), THOUGHT)
    assert "think" not in "".join(d.get("content", "") for d in deltas)


@case("C4_33_call_deltas", *QWEN)
def _(door):
    open_call, whole = -1, {}
    for c in chat_deltas(door):
        for t in c["delta"].get("tool_calls", []):
            f = t["function"]
            if "name" in f:
                eq((t["index"], t["type"], f["arguments"]), (open_call + 1, "function", ""))
                assert t["id"].startswith("call_") and f["name"].strip()
                open_call += 1
                whole[open_call] = [f["name"], ""]
            else:
                eq((t["index"], sorted(t)), (open_call, ["function", "index"]))
                whole[open_call][1] += f["arguments"]
    eq([(n, json.loads(v)) for n, v in whole.values()], CALLS)


@case("C4_34_streamed_is_whole_and_in_order", *QWEN)
def _(door):
    choices = chat_deltas(door)
    eq(choices[0]["delta"], {"role": "assistant", "content": ""})
    eq((choices[-1]["delta"], choices[-1]["finish_reason"]), ({}, "tool_calls"))
    kinds = ["tool_calls" if "tool_calls" in c["delta"] else "reasoning" if "reasoning" in c["delta"] else "content"
             for c in choices[1:-1]]
    eq(kinds, sorted(kinds, key=["reasoning", "content", "tool_calls"].index))
    m = chat(door).json["choices"][0]["message"]
    eq("".join(c["delta"].get("content", "") for c in choices), m["content"])
    joined = ["", ""]
    for c in choices:
        for t in c["delta"].get("tool_calls", []):
            joined[t["index"]] += t["function"]["arguments"]
    eq(joined, [c["function"]["arguments"] for c in m["tool_calls"]])


@case("C3_23_tool_choice_and_one_call", *QWEN)
def _(door):
    one = chat(door, parallel_tool_calls=False).json["choices"][0]
    eq([c["function"]["name"] for c in one["message"]["tool_calls"]], ["get_weather"])
    eq(one["finish_reason"], "tool_calls")
    streamed = [t for c in chat_deltas(door, parallel_tool_calls=False) for t in c["delta"].get("tool_calls", [])]
    eq({t["index"] for t in streamed}, {0})
    blocks = messages(door, tools=M_TOOLS, tool_choice={"type": "auto", "disable_parallel_tool_use": True}).json
    eq([b["type"] for b in blocks["content"]], ["thinking", "text", "tool_use"])
    items = responses(door, tools=R_TOOLS, parallel_tool_calls=False).json
    eq([i["type"] for i in items["output"]], ["reasoning", "message", "function_call"])
    eq(items["parallel_tool_calls"], False)
    # none, and no tools: what looks like a call is text
    for a in (chat(door, tool_choice="none"), door.chat(tools=[]), door.chat()):
        m = a.json["choices"][0]
        assert "tool_calls" not in m["message"] and "<tool_call>" in m["message"]["content"], m
        eq(m["finish_reason"], "stop")
    none = messages(door, tools=M_TOOLS, tool_choice={"type": "none"}).json
    eq(([b["type"] for b in none["content"]], none["stop_reason"]), (["thinking", "text"], "end_turn"))
    chat(door, tool_choice={"type": "function", "function": {"name": "x"}}).refused(400, param="tool_choice")
    door.chat(tool_choice="required").refused(400, param="tool_choice")


@case("C3_20_21_22_replayed_calls", *QWEN)
def _(door):
    def turn(arguments, **thoughts):
        call = {"id": "toolu_Any-Thing:7", "type": "function", "function": {"name": "get_time", "arguments": arguments}}
        return USER + [{"role": "assistant", "tool_calls": [call], **thoughts},
                       {"role": "tool", "tool_call_id": "toolu_Any-Thing:7", "content": "noon"}]
    for arguments in ("{}", "{\"a\": 1}", "{not json", ""):
        for content in ({}, {"content": None}, {"content": ""}):
            eq(chat(door, messages=turn(arguments, **content), max_tokens=1).status, 200, arguments)
    counts = {count(door, CHAT + "/input_tokens", messages=turn("{}", **{key: THOUGHT}), tools=TOOLS)
              for key in ("reasoning_content", "reasoning")}
    eq(len(counts), 1)


# ---- the same conversation in every dialect

def count(door, path, **body):
    a = door.post(path, body)
    eq(a.status, 200, a.body[:300])
    return a.json["input_tokens"]


@case("C5_43_C7_59_counts_agree", *QWEN)
def _(door):
    arguments = json.dumps(WEATHER)
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Paris?"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"}, {"role": "user", "content": "And now?"}]
    m_talk = [talk[1],
              {"role": "assistant", "content": [
                  {"type": "thinking", "thinking": "Hm.", "signature": "any"}, {"type": "text", "text": "I look."},
                  {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": WEATHER}]},
              {"role": "user", "content": [
                  {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
                  {"type": "text", "text": "And now?"}]}]
    r_talk = [{"role": "user", "content": [{"type": "input_text", "text": "Paris?"}]},
              {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None,
               "content": [{"type": "reasoning_text", "text": "Hm."}]},
              {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
              {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": arguments},
              {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
              {"type": "message", "role": "user", "content": "And now?"}]
    want = chat(door, messages=talk, max_tokens=1).json["usage"]["prompt_tokens"]
    eq(count(door, CHAT + "/input_tokens", messages=talk, tools=TOOLS), want, "chat")
    eq(count(door, MESSAGES + "/count_tokens", system="Be brief.", messages=m_talk, tools=M_TOOLS), want, "messages")
    eq(count(door, RESPONSES + "/input_tokens", instructions="Be brief.", input=r_talk, tools=R_TOOLS), want,
       "responses")
    usage = door.post(MESSAGES, {"system": "Be brief.", "messages": m_talk, "tools": M_TOOLS, "max_tokens": 1}).json
    usage = usage["usage"]
    eq(usage["input_tokens"] + usage["cache_read_input_tokens"], want, "C7_57")
    eq(door.metric("mock_running"), 0)


# ---- Responses

def items_of(r):
    """The output without its random ids."""
    return [{k: v for k, v in i.items() if k not in ("id", "call_id")} for i in r["output"]]


@case("C6_47_48_event_order", *QWEN)
def _(door):
    evs = named_events(responses(door, tools=R_TOOLS, stream=True))
    eq([e["sequence_number"] for e in evs], list(range(len(evs))))
    kinds = [e["type"].removeprefix("response.") for e in evs]
    eq(kinds[:2], ["created", "in_progress"])
    eq([k for k in kinds if k in ("completed", "incomplete", "failed")], ["completed"])
    eq(kinds[-1], "completed")
    part = ["output_item.added", "content_part.added", "X.delta", "X.done", "content_part.done", "output_item.done"]
    call = ["output_item.added", "X.delta", "X.done", "output_item.done"]
    names = {"reasoning": "reasoning_text", "message": "output_text", "function_call": "function_call_arguments"}
    at = 2
    for index, kind in enumerate(("reasoning", "message", "function_call", "function_call")):
        eq(evs[at]["item"]["type"], kind)
        for step in part if kind != "function_call" else call:
            step = step.replace("X", names[kind])
            eq(kinds[at], step)
            while kinds[at] == step:
                eq(evs[at]["output_index"], index)
                at += 1
                if not step.endswith("delta"):
                    break
    eq(at, len(evs) - 1)


@case("C6_47_streamed_is_whole", *QWEN)
def _(door):
    evs = named_events(responses(door, tools=R_TOOLS, stream=True))
    last, deltas = evs[-1]["response"], {}
    for e in evs:
        if e["type"].endswith(".delta"):
            assert isinstance(e["delta"], str)
            deltas[e["output_index"]] = deltas.get(e["output_index"], "") + e["delta"]
    done = [e["item"] for e in evs if e["type"] == "response.output_item.done"]
    eq(last["output"], done)
    eq(deltas, {i: d["arguments"] if "arguments" in d else d["content"][0]["text"] for i, d in enumerate(done)})
    whole = responses(door, tools=R_TOOLS).json
    eq(items_of(last), items_of(whole))
    eq((whole["object"], whole["status"], last["status"]), ("response", "completed", "completed"))
    eq([json.loads(i["arguments"]) for i in done[2:]], [v for _, v in CALLS])
    eq(done[0]["content"][0]["text"], THOUGHT)


@case("C6_49_50_usage_and_ids", *QWEN)
def _(door):
    evs = named_events(responses(door, tools=R_TOOLS, stream=True))
    r, u = evs[-1]["response"], evs[-1]["response"]["usage"]
    eq(u["total_tokens"], u["input_tokens"] + u["output_tokens"])
    assert 0 < u["input_tokens_details"]["cached_tokens"] < u["input_tokens"], u
    assert 0 < u["output_tokens_details"]["reasoning_tokens"] < u["output_tokens"], u
    eq(evs[0]["response"]["usage"], None)
    assert r["id"].startswith("resp_") and {e["response"]["id"] for e in evs if "response" in e} == {r["id"]}
    for item, prefix in zip(r["output"], ("rs_", "msg_", "fc_", "fc_")):
        assert item["id"].startswith(prefix) and item["status"] == "completed", item
    assert all(i["call_id"].startswith("call_") for i in r["output"][2:])
    eq(len({i["id"] for i in r["output"]}), 4)


@case("C6_47_incomplete")
def _(door):
    for stream in (False, True):
        a = responses(door, max_output_tokens=5, stream=stream)
        r = named_events(a)[-1]["response"] if stream else a.json
        eq((r["status"], r["incomplete_details"]), ("incomplete", {"reason": "max_output_tokens"}))
        eq((r["output"][0]["status"], r["output"][0]["content"][0]["text"]),
           ("incomplete", "The quick brown fox jumps"))
    r = responses(door).json
    eq((r["status"], r["incomplete_details"]), ("completed", None))
    assert r["output"][0]["content"][0]["text"].startswith(TEXT[:40])


@case("C6_45_46_requests", *QWEN)
def _(door):
    for key in ("previous_response_id", "conversation"):
        a = responses(door, **{key: "resp_1"}).refused(400, param=key)
        assert "whole conversation" in a.error["message"], a.error
    responses(door, input=[{"type": "function_call_output", "call_id": "call_9", "output": "x"}]).refused(
        400, param="input[0].call_id")
    eq(responses(door, previous_response_id=None, store=False, include=["reasoning.encrypted_content"],
                 service_tier="auto", metadata={"a": "b"}, prompt_cache_key="k", truncation="auto",
                 reasoning={"effort": "low", "summary": "auto"}, text={"verbosity": "low"}).status, 200)
    a = responses(door, tools=[{"type": "web_search"}, {"type": "local_shell"}, *R_TOOLS], max_output_tokens=1)
    eq(a.json["usage"]["input_tokens"], responses(door, tools=R_TOOLS).json["usage"]["input_tokens"])
    custom = [{"type": "custom_tool_call", "call_id": "c", "name": "get_time", "input": "now"},
              {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "noon"}]}]
    eq(responses(door, input=USER + custom).status, 200)
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]
    responses(door, input=image).refused(400, param="input[0].content")
    for bad in (None, 5, [7], [{"type": "item_reference", "id": "x"}], [{"content": "x"}]):
        responses(door, input=bad).refused(400)


# ---- Messages

def assembled(evs):
    """The message that a client puts together of the events; checks their order on the way."""
    eq(evs[0]["type"], "message_start")
    message, open_block, partial = evs[0]["message"], None, ""
    eq((message["content"], message["stop_reason"], message["stop_sequence"]), ([], None, None))
    for e in evs[1:-2]:
        if e["type"] == "ping":
            continue
        if e["type"] == "content_block_start":
            eq((open_block, e["index"]), (None, len(message["content"])))
            open_block, partial = e["content_block"], ""
            continue
        assert open_block is not None, e
        eq(e["index"], len(message["content"]))
        if e["type"] == "content_block_stop":
            if open_block["type"] == "tool_use":
                open_block["input"] = json.loads(partial or "{}")
            message["content"].append(open_block)
            open_block = None
            continue
        eq(e["type"], "content_block_delta")
        d = e["delta"]
        want = {"thinking": ("thinking_delta", "signature_delta"), "text": ("text_delta",),
                "tool_use": ("input_json_delta",)}
        assert d["type"] in want[open_block["type"]], (d, open_block)
        if d["type"] == "input_json_delta":
            partial += d["partial_json"]
        else:
            field = d["type"].removesuffix("_delta")
            open_block[field] += d[field]
    eq((open_block, evs[-2]["type"], evs[-1]), (None, "message_delta", {"type": "message_stop"}))
    message.update(evs[-2]["delta"])
    message["usage"].update(evs[-2]["usage"])
    return message


def blocks_of(message):
    return [{k: v for k, v in b.items() if k != "id"} for b in message["content"]]


@case("C7_55_56_57_streamed_is_whole", *QWEN)
def _(door):
    evs = named_events(messages(door, tools=M_TOOLS, stream=True))
    got, whole = assembled(evs), messages(door, tools=M_TOOLS).json
    eq(blocks_of(got), blocks_of(whole))
    eq(blocks_of(whole), [{"type": "thinking", "thinking": THOUGHT, "signature": whole["content"][0]["signature"]},
                          {"type": "text", "text": SPOKEN},
                          *({"type": "tool_use", "name": n, "input": v} for n, v in CALLS)])
    assert whole["content"][0]["signature"]
    for m in (got, whole):
        eq((m["type"], m["role"], m["stop_reason"], m["stop_sequence"]), ("message", "assistant", "tool_use", None))
        assert m["id"].startswith("msg_") and all(b["id"].startswith("toolu_") for b in m["content"][2:])
    eq(got["usage"], whole["usage"])
    u = whole["usage"]
    assert u["input_tokens"] and u["cache_read_input_tokens"] and u["cache_creation_input_tokens"] == 0, u
    eq(evs[0]["message"]["usage"]["input_tokens"], u["input_tokens"])  # updated above: the same object
    assert evs[-2]["usage"]["output_tokens"] > 10


@case("C7_57_prompt_is_counted_at_the_start")
def _(door):
    evs = named_events(messages(door, stream=True, max_tokens=1))
    start, end = evs[0]["message"]["usage"], evs[-2]["usage"]
    eq(start["input_tokens"] + start["cache_read_input_tokens"], end["input_tokens"] + end["cache_read_input_tokens"])


@case("C7_55_stop_reasons")
def _(door):
    for fields, reason, sequence, text in (
            ({"max_tokens": 5}, "max_tokens", None, "The quick brown fox jumps"),
            ({"stop_sequences": ["zebra", " fox"]}, "stop_sequence", " fox", "The quick brown"),
            ({}, "end_turn", None, None)):
        for stream in (False, True):
            a = messages(door, stream=stream, **fields)
            m = assembled(named_events(a)) if stream else a.json
            eq((m["stop_reason"], m["stop_sequence"]), (reason, sequence))
            eq([b["type"] for b in m["content"]], ["text"])
            if text:
                eq(m["content"][0]["text"], text)


@case("C7_51_60_fields_that_clients_send", *QWEN)
def _(door):
    a = door.post(MESSAGES + "?beta=true", {
        "model": "mock/tiny-1", "max_tokens": 1, "messages": USER, "stream": False, "temperature": 1, "top_k": 5,
        "thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}, "metadata": {"user_id": "u"},
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}, "service_tier": "auto",
        "tools": [*M_TOOLS, {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}],
        "speed": "fast", "container": None, "cache_control": {"type": "ephemeral"},
    }, headers={"anthropic-version": "2023-06-01", "anthropic-beta": "a,b", "x-claude-code-session-id": "s"})
    eq(a.status, 200, a.body[:300])
    eq(a.headers["request-id"], a.headers["x-request-id"])
    sizes = {kind: count(door, MESSAGES + "/count_tokens", messages=USER, thinking={"type": kind})
             for kind in ("enabled", "disabled", "adaptive")}
    # Qwen's template writes empty thoughts where there are to be none.
    assert sizes["disabled"] > sizes["enabled"] == sizes["adaptive"], sizes
    for effort in ("low", "medium", "high"):
        eq(messages(door, output_config={"effort": effort}, max_tokens=1).status, 200)


@case("C7_52_54_blocks", *QWEN)
def _(door):
    def n(**body):
        return count(door, MESSAGES + "/count_tokens", **{"messages": USER, **body})

    def said(*blocks, role="user"):
        return {"messages": USER + [{"role": "assistant", "content": "ok"}, {"role": role, "content": list(blocks)}]}
    text = {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}
    eq(n(**said(text)), n(**said({"type": "text", "text": "hel"}, {"type": "text", "text": "lo"})))
    eq(n(system="Be brief."), n(system=[{"type": "text", "text": "x-anthropic-billing-header: cc=1; ch=2"},
                                        {"type": "text", "text": "Be brief."}]))
    eq(n(system="Be brief."), n(system="x-anthropic-billing-header: cc=1;\nBe brief."))
    eq(n(), n(system="x-anthropic-billing-header: cc=1;"))
    eq(n(), n(system=None))
    eq(n(**said({"type": "text", "text": "later"}, role="system")), n(**said(role="system") | {
        "messages": USER + [{"role": "assistant", "content": "ok"}, {"role": "system", "content": "later"}]}))
    call = {"type": "tool_use", "id": "t1", "name": "get_time", "input": {}}
    for content in ("noon", [{"type": "text", "text": "noon"}], [{"type": "text", "text": "noon"},
                                                                 {"type": "tool_reference", "tool_name": "x"}]):
        result = {"type": "tool_result", "tool_use_id": "t1", "content": content, "is_error": True}
        eq(messages(door, max_tokens=1, messages=USER + [
            {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "zz"}, call]},
            {"role": "user", "content": [result, text]}]).status, 200)
    for bad in ({"type": "image", "source": {"type": "url", "url": "http://x/y.png"}},
                {"type": "document", "source": {}}, {"type": "tool_result", "content": "x"}, 5):
        a = messages(door, **said(bad))
        eq((a.status, a.json["error"]["type"]), (400, "invalid_request_error"))
        assert "messages[2].content" in a.json["error"]["message"], a.body


@case("C7_53_result_and_text_for_a_strict_template", *STRICT)
def _(door):
    call = {"type": "tool_use", "id": "toolu_01234567890", "name": "get_time", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_01234567890", "content": "noon"}
    talk = USER + [{"role": "assistant", "content": [call]},
                   {"role": "user", "content": [result, {"type": "text", "text": "and now?"}]}]
    for stream in (False, True):
        a = messages(door, messages=talk, tools=M_TOOLS, stream=stream, max_tokens=1)
        eq(a.status, 200, a.body[:300])


# ---- errors

def refusal_of(a, status, kind):
    """Anthropic's shape."""
    eq(a.status, status, a.body[:300])
    eq(sorted(a.json), ["error", "request_id", "type"])
    eq((a.json["type"], a.json["error"]["type"], a.json["request_id"]), ("error", kind, a.headers["request-id"]))
    assert a.json["error"]["message"]
    return a.json["error"]["message"]


@case("C2_13_14_shapes")
def _(door):
    too_long = {"max_tokens": 100000}
    message = refusal_of(messages(door, **too_long), 400, "invalid_request_error")
    assert re.fullmatch(r"prompt is too long: \d+ tokens > 4096 maximum", message), message
    eq(responses(door, max_output_tokens=100000).refused(400, code="context_length_exceeded").error["n_ctx"], 4096)
    for stream in (False, True):
        refusal_of(messages(door, stream=stream, seed=NO_CAPACITY), 529, "overloaded_error")
        a = responses(door, stream=stream, seed=NO_CAPACITY).refused(503, code="no_capacity")
        assert int(a.headers["retry-after"]) > 0
    refusal_of(messages(door, model="unknown"), 404, "not_found_error")
    refusal_of(door.request("GET", MESSAGES), 405, "invalid_request_error")
    for body in (b"{", b"[]", b"{\"messages\":5}", b"{\"messages\":[]}", b"{\"messages\":[5]}"):
        refusal_of(door.post(MESSAGES, body), 400, "invalid_request_error")
        refusal_of(door.post(MESSAGES + "/count_tokens", body), 400, "invalid_request_error")
        door.post(RESPONSES, body.replace(b"messages", b"input")).refused(400)
    refusal_of(messages(door, temperature="hot"), 400, "invalid_request_error")


@case("C1_11_12_keys", "--key", "sk-right")
def _(door):
    none = {"Authorization": None}
    for path in (MESSAGES, MESSAGES + "/count_tokens"):
        body = {"messages": USER, "max_tokens": 1}
        refusal_of(door.post(path, body, headers=none), 401, "authentication_error")
        refusal_of(door.post(path, body, headers={**none, "x-api-key": "sk-wrong"}), 401, "authentication_error")
        eq(door.post(path, body, headers={**none, "x-api-key": "sk-right"}).status, 200)
    for path in (RESPONSES, RESPONSES + "/input_tokens"):
        door.post(path, {"input": "hi"}, headers=none).refused(401, code="invalid_api_key")
        eq(door.post(path, {"input": "hi", "max_output_tokens": 1}).status, 200)


@case("C2_16_error_in_the_stream")
def _(door):
    evs = named_events(messages(door, stream=True, seed=FAIL_LATER))
    eq((evs[-1]["type"], evs[-1]["error"]["type"]), ("error", "overloaded_error"))
    assert evs[-1]["error"]["message"] and "message_stop" not in [e["type"] for e in evs]
    evs = named_events(responses(door, stream=True, seed=FAIL_LATER))
    r = evs[-1]["response"]
    eq((evs[-1]["type"], r["status"], r["error"]["code"], r["usage"]), ("response.failed", "failed", "worker_lost", None))
    assert r["error"]["message"]
