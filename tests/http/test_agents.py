"""What agents do turn after turn: calls come back under their ids (rows 20 and 22 of the list of conformance), thoughts
have budgets, side requests a priority. tests/unit/door/history_test.c and rules_test.c look at the tokens."""
import os
import re

from kit import ECHO, FIXTURES, USER, case, eq

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
TOOL = {"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {
    "city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": TOOL}]
CALL = "<tool_call>\n{\"name\":\"get_time\",  \"arguments\":{\"city\":\"Oslo\"}}\n</tool_call>"


def template(name):
    return os.path.join(FIXTURES, "chat_templates", name, "template.jinja")


QWEN = ("--template", template("qwen3"), "--say", "<think>\nHm.\n</think>\n\n" + CALL)
THINKING = ("--template", template("qwen3"), "--say",
            "<think>\nOne two three four five six seven eight nine ten eleven twelve.\n</think>\n\nThe end.")


def exact(door):
    return door.metric('trireme_replayed_turns_total{how="exact"}')


@case("C3_22_ids_of_any_form_for_mistral", "--template", template("mistral-small-3.2"), "--ctx", "16384")
def _(door):
    # Its template refuses ids that are not nine letters and digits.
    ids = ["call_abcDEF0123456789", "toolu_01XYZ", "x", "", "012345678", "123456789", "call-with/odd bytes \u00e4", "1234567890"]
    for first, second in zip(ids, ids[1:] + ids[:1]):
        talk = USER + [
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in (first, second)]},
            {"role": "tool", "tool_call_id": second, "content": "two"},
            {"role": "tool", "tool_call_id": first, "content": "one"}]
        a = door.chat(messages=talk, seed=ECHO, ignore_eos=True, max_tokens=4000)
        eq(a.status, 200, a.body[:300])
        assert "x-trireme-repaired" not in a.headers, a.headers
        text = a.json["choices"][0]["message"]["content"]
        calls = re.findall(r"\[CALL_ID\](\w*)\[ARGS\]", text)
        results = dict(re.findall(r"\[TOOL_RESULTS\](\w*)\[TOOL_CONTENT\](\w+)", text))
        assert len(calls) == 2 and all(re.fullmatch("[0-9A-Za-z]{9}", i) for i in calls), text[-400:]
        assert calls[0] != calls[1], calls
        eq(results, {calls[0]: "one", calls[1]: "two"})
        eq([i for i in (first, second) if re.fullmatch("[0-9A-Za-z]{9}", i) and i not in calls], [])


@case("C3_20_22_calls_come_back_as_they_were_written", *QWEN)
def _(door):
    before = exact(door)
    a = door.chat(messages=USER, tools=TOOLS)
    m = a.json["choices"][0]["message"]
    call = m["tool_calls"][0]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "noon"}
    mine = {"role": "assistant", "content": m["content"], "tool_calls": m["tool_calls"]}
    again = door.chat(messages=USER + [mine, result], tools=TOOLS)
    eq(again.status, 200)
    eq(exact(door), before + 1)
    # Its own thoughts under either name, and arguments that a caller wrote anew.
    for name in ("reasoning_content", "reasoning"):
        with_thoughts = {**mine, name: m[name]}
        spaced = {**call, "function": {"name": "get_time", "arguments": "{ \"city\" :\n\"Oslo\" }"}}
        eq(door.chat(messages=USER + [{**with_thoughts, "tool_calls": [spaced]}, result], tools=TOOLS).json["usage"]["prompt_tokens"],
           again.json["usage"]["prompt_tokens"])
    eq(exact(door), before + 3)
    # Anything else is another turn.
    other = {**call, "function": {"name": "get_time", "arguments": "{\"city\":\"Bergen\"}"}}
    for changed in ({**mine, "tool_calls": [other]}, {**mine, "content": "Hm!"}, {**mine, "reasoning_content": "Other thoughts."},
                    {**mine, "tool_calls": [{**call, "id": call["id"][:-1] + "-"}]}):
        eq(door.chat(messages=USER + [changed, result], tools=TOOLS).status, 200)
    eq(exact(door), before + 3)
    assert door.metric("trireme_replay_bytes") > 0 and door.metric("trireme_replay_turns") > 0


@case("C7_52_calls_come_back_in_messages", *QWEN)
def _(door):
    tools = [{"name": "get_time", "description": "The time.", "input_schema": TOOL["parameters"]}]
    before = exact(door)
    a = door.post(MESSAGES, {"messages": USER, "max_tokens": 500, "tools": tools}).json
    use = [b for b in a["content"] if b["type"] == "tool_use"][0]
    for content in (a["content"], [use]):
        talk = USER + [{"role": "assistant", "content": content},
                       {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "noon"}]}]
        eq(door.post(MESSAGES, {"messages": talk, "max_tokens": 500, "tools": tools}).status, 200)
    eq(exact(door), before + 2)


@case("C6_46_calls_come_back_in_responses", *QWEN)
def _(door):
    tools = [{"type": "function", **TOOL}]
    before = exact(door)
    body = {"input": [{"role": "user", "content": "hi"}], "tools": tools, "store": False}
    out = door.post(RESPONSES, body).json["output"]
    call = [i for i in out if i["type"] == "function_call"][0]
    for items in (out, [call]):
        again = body["input"] + items + [{"type": "function_call_output", "call_id": call["call_id"], "output": "noon"}]
        eq(door.post(RESPONSES, {**body, "input": again}).status, 200)
    eq(exact(door), before + 2)


def letters(text):
    return re.sub(r"\s", "", text)


@case("C4_31_32_budgets_of_thoughts", *THINKING)
def _(door):
    whole = door.chat().json
    free = whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    mark = 4  # this vocabulary spells </think> with as many tokens at most
    for fields in ({"thinking_budget": 8}, {"thinking_token_budget": 8}, {"reasoning": {"max_tokens": 8}},
                   {"chat_template_kwargs": {"thinking_budget": 8}}):
        a = door.chat(**fields).json
        m = a["choices"][0]["message"]
        n = a["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert 8 <= n < 8 + mark < free, (fields, n, free)
        thoughts = whole["choices"][0]["message"]["reasoning_content"]
        assert m["reasoning_content"] and thoughts.startswith(m["reasoning_content"]), m
        assert m["content"].endswith("The end.") and "<think>" not in m["content"], m
        streamed = door.stream(**fields)[:-1]
        for key in ("content", "reasoning_content"):
            eq("".join(c["choices"][0]["delta"].get(key, "") for c in streamed), m[key])
    eq(door.chat(thinking_budget=10000).json["choices"], whole["choices"])
    for wrong in ({"thinking_budget": -1}, {"thinking_budget": "low"}, {"reasoning": {"max_tokens": -5}}, {"reasoning": "low"}):
        door.chat(**wrong).refused(400)
    a = door.post(MESSAGES, {"messages": USER, "max_tokens": 200, "thinking": {"type": "enabled", "budget_tokens": 8}}).json
    assert a["content"][0]["type"] == "thinking" and a["content"][0]["thinking"], a
    eq(letters(a["content"][0]["thinking"]), letters(m["reasoning_content"]))


@case("priorities_are_numbers")
def _(door):
    for value in (0, -5, 1000000):
        eq(door.chat(priority=value, max_tokens=1).status, 200)
        eq(door.complete(priority=value, max_tokens=1).status, 200)
    for value in (1.5, "high", 1000001):
        door.chat(priority=value).refused(400, param="priority")
