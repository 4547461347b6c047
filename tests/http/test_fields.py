"""H05-H11: values. The wrong kinds of every field are generated from the table in C
(tests/unit/door/fields_test.c); here are the limits, over the wire."""
from kit import BUSY, CHAT, USER, case, eq

HUGE = 9223372036854775807


def bad(name, field, value, param=None, message=None, path=CHAT, **more):
    def run(door):
        send = door.chat if path == CHAT else door.complete
        a = send(**{field: value, **more}).refused(400, param=param or field)
        if message:
            assert message in a.error["message"], a.error["message"]
    case(name)(run)


for _v in (0, -1, -HUGE, 2**31, HUGE, 1.5, "1", True, [1], {}):
    bad(f"H06_max_tokens_{_v}", "max_tokens", _v, message="from 1 to")
    bad(f"H06_max_completion_tokens_{_v}", "max_completion_tokens", _v)
for _v in (-1, 2.1, 1e308, -0.01, "NaN", "1", [], True):
    bad(f"H07_temperature_{_v}", "temperature", _v, message="from 0 to 2")
for _v in (0, -0.0, 1.1, -1, "0.5"):
    bad(f"H07_top_p_{_v}", "top_p", _v, message="above 0 and at most 1")
for _f in ("presence_penalty", "frequency_penalty"):
    for _v in (-2.1, 2.1, 1e300, "0"):
        bad(f"H07_{_f}_{_v}", _f, _v, message="from -2 to 2")
for _v in (0, -1, 10.1):
    bad(f"H07_repetition_penalty_{_v}", "repetition_penalty", _v)
for _v in (1.5, "7", True):
    bad(f"H07_seed_{_v}", "seed", _v)
for _v in (21, -1, 1.5):
    bad(f"H07_top_logprobs_{_v}", "top_logprobs", _v, logprobs=True, message="from 0 to 20")
for _v in (-0.1, 1.1):
    bad(f"H07_min_p_{_v}", "min_p", _v)
for _v in (-2, 2**31, 0.5):
    bad(f"H07_top_k_{_v}", "top_k", _v)
bad("H07_top_logprobs_without_logprobs", "top_logprobs", 3)
bad("H07_bias_unknown_id", "logit_bias", {"999999999": 1}, message="token id")
bad("H07_bias_first_unknown_id", "logit_bias", {"49152": 1}, message="from 0 to 49151")
bad("H07_bias_negative_id", "logit_bias", {"-1": 1})
bad("H07_bias_no_id", "logit_bias", {"the": 1})
bad("H07_bias_101", "logit_bias", {"5": 101}, message="-100 to 100")
bad("H07_bias_minus_101", "logit_bias", {"5": -100.5})
bad("H07_bias_string", "logit_bias", {"5": "1"})
bad("H07_bias_100k", "logit_bias", {str(i): 1 for i in range(100000)})
for _v in (0, -1, 9, 10**9, 1.5, "1"):
    bad(f"H08_n_{_v}", "n", _v, message="from 1 to 8")
    bad(f"H08_best_of_{_v}", "best_of", _v, path="completions")
bad("H08_best_of_above_n", "best_of", 4, path="completions", n=2)
bad("H08_n_times_max_tokens", "n", 8, max_tokens=3000)
bad("H09_five", "stop", list("abcde"), message="at most 4")
bad("H09_empty", "stop", "")
bad("H09_empty_in_list", "stop", ["a", ""])
bad("H09_1MB", "stop", "x" * (1 << 20))
bad("H09_1025", "stop", ["y", "x" * 1025])
bad("H09_100k", "stop", ["x"] * 100000)
bad("H09_number", "stop", 5)
bad("H09_number_in_list", "stop", ["a", 5])
bad("H09_null_in_list", "stop", ["a", None])


@case("H05_null_means_not_given")
def _(door):
    names = ("model stream stream_options max_tokens max_completion_tokens temperature top_p min_p "
             "top_k presence_penalty frequency_penalty repetition_penalty n seed stop logit_bias "
             "logprobs top_logprobs tools tool_choice parallel_tool_calls response_format "
             "reasoning_effort chat_template_kwargs return_progress ignore_eos user metadata store"
             ).split()
    a = door.post(CHAT, {"messages": USER, **{n: None for n in names}})
    eq(a.status, 200, a.body[:200])


@case("C0_9_unknown_fields_are_ignored")
def _(door):
    a = door.chat(max_tokens=1, store=True, service_tier="auto", user="me", metadata={"a": "b"},
                  priority=3, verbosity="low", prompt_cache_key="x", who_knows=[1, {"a": None}])
    eq(a.status, 200)


@case("H05_limits_are_inside")
def _(door):
    for fields in ({"temperature": 0}, {"temperature": 2}, {"top_p": 1}, {"top_p": 1e-9},
                   {"top_k": -1}, {"top_k": 0}, {"min_p": 1}, {"n": 8}, {"presence_penalty": -2},
                   {"frequency_penalty": 2.0}, {"repetition_penalty": 10}, {"seed": -HUGE - 1},
                   {"seed": HUGE}, {"stop": []}, {"stop": list("zqjx")}, {"stop": "z" * 1024},
                   {"logit_bias": {}}, {"logit_bias": {"0": -100, "49151": 100.0}},
                   {"logprobs": True, "top_logprobs": 20}, {"top_logprobs": 0},
                   {"temperature": 1e-320}):
        a = door.chat(max_tokens=1, **fields)
        eq(a.status, 200, str(fields))


@case("H06_longer_than_the_context")
def _(door):
    a = door.chat(max_tokens=5000).refused(400, code="context_length_exceeded", param=None)
    eq(a.error["message"],
       "This model's maximum context length is 4096 tokens. However, you requested 5031 tokens "
       "(31 in the messages, 5000 in the completion). The prompt is too long; please reduce the "
       "length of the messages.")
    eq((a.error["n_prompt_tokens"], a.error["n_ctx"]), (31, 4096))
    door.chat(max_tokens=4096 - 30).refused(400, code="context_length_exceeded")
    a = door.chat(max_tokens=4096 - 31)
    eq(a.status, 200)


@case("C2_14_prompt_longer_than_the_context")
def _(door):
    a = door.chat(messages=[{"role": "user", "content": "word " * 5000}])
    a.refused(400, code="context_length_exceeded")
    n = a.error["n_prompt_tokens"]
    assert n > 5000, n
    assert f"({n} in the messages, 1 in the completion)" in a.error["message"], a.error
    a = door.complete(prompt="word " * 5000).refused(400, code="context_length_exceeded")


@case("C3_25_absent_max_tokens_fill_the_context")
def _(door):
    # Without an end token the answer goes on until the context is full.
    a = door.chat(ignore_eos=True)
    eq(a.json["usage"]["total_tokens"], 4096)
    eq(a.json["choices"][0]["finish_reason"], "length")
    eq(door.chat(ignore_eos=True, max_tokens=None).json["usage"]["total_tokens"], 4096)


@case("C3_max_completion_tokens_wins")
def _(door):
    eq(door.chat(max_tokens=9, max_completion_tokens=3).json["usage"]["completion_tokens"], 3)


MESSAGES = [
    ("missing", None, "messages"), ("empty", [], "messages"), ("string", "hi", "messages"),
    ("object", {}, "messages"), ("element_string", ["hi"], "messages[0]"),
    ("element_null", [None], "messages[0]"),
    ("no_role", [{"content": "x"}], "messages[0].role"),
    ("unknown_role", USER * 17 + [{"role": "wizard", "content": "x"}], "messages[17].role"),
    ("role_number", [{"role": 5, "content": "x"}], "messages[0].role"),
    ("content_missing", [{"role": "user"}], "messages[0].content"),
    ("content_null", [{"role": "user", "content": None}], "messages[0].content"),
    ("content_number", [{"role": "user", "content": 5}], "messages[0].content"),
    ("content_object", [{"role": "user", "content": {"text": "x"}}], "messages[0].content"),
    ("assistant_null_alone", USER + [{"role": "assistant", "content": None}],
     "messages[1].content"),
    ("part_string", [{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
    ("part_no_text", [{"role": "user", "content": [{"type": "text"}]}],
     "messages[0].content[0].text"),
    ("part_image", [{"role": "user", "content": [
        {"type": "text", "text": "x"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
     "messages[0].content[1]"),
    ("part_audio", [{"role": "user", "content": [{"type": "input_audio"}]}],
     "messages[0].content[0]"),
    ("tool_without_id", USER + [{"role": "tool", "content": "x"}], "messages[1].tool_call_id"),
    ("name_number", [{"role": "user", "content": "x", "name": 5}], "messages[0].name"),
    ("calls_object", [{"role": "assistant", "content": "", "tool_calls": {}}],
     "messages[0].tool_calls"),
    ("call_without_name", [{"role": "assistant", "tool_calls": [{"function": {}}]}],
     "messages[0].tool_calls[0].function.name"),
    ("call_id_number", [{"role": "assistant", "tool_calls": [
        {"id": 5, "function": {"name": "f"}}]}], "messages[0].tool_calls[0].id"),
    ("reasoning_number", [{"role": "assistant", "content": "x", "reasoning_content": 5}],
     "messages[0].reasoning_content"),
    ("count_100k", USER * 100000, "messages"),
]
for _name, _messages, _param in MESSAGES:
    def _run(door, messages=_messages, param=_param):
        door.chat(messages=messages).refused(400, param=param)
    case("H10_" + _name)(_run)


@case("H25_remote_media")
def _(door):
    for url in ("http://169.254.169.254/", "https://example.org/a.png", "file:///etc/passwd",
                "ftp://x/y", "http://a@b/", "\\\\host\\share", "//host/x"):
        door.chat(messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": url}}]}]).refused(
                400, code="remote_media_not_allowed", param="messages[0].content[0]")


for _model, _status in (("mock/tiny-2", 404), ("../../etc/passwd", 404), ("x" * (1 << 20), 404),
                        ("", 404), ("MOCK/TINY-1", 404), ("mock/tiny-1 ", 404),
                        ("mock/tiny-1", 200), ("claude-mock", 200), ("%s%n%s", 404)):
    def _run(door, model=_model, status=_status):
        for send in (door.chat, door.complete):
            a = send(model=model, max_tokens=1)
            eq(a.status, status)
            if status == 404:
                a.refused(404, code="model_not_found", param="model")
            else:
                eq(a.json["model"], model)
    case(f"H11_model_{_model[:20]!r}", "--alias", "claude-mock")(_run)


@case("H11_model_of_another_kind")
def _(door):
    for model in (5, True, ["mock/tiny-1"], {}):
        door.chat(model=model).refused(400, param="model")


UNSUPPORTED = [
    ("tool_choice", "required", {}), ("tool_choice", "sometimes", {}),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}, {}),
    ("response_format", {"type": "xml"}, {}), ("response_format", {}, {}),
    ("tools", [{"type": "web_search"}], {}), ("tools", ["f"], {}),
    ("tools", [{"type": "function", "function": {}}], {}),
    ("reasoning_effort", "extreme", {}),
]
for _i, (_field, _value, _more) in enumerate(UNSUPPORTED):
    bad(f"C3_not_supported_{_i}_{_field}", _field, _value, **_more)


@case("C3_23_tools_that_are_fine")
def _(door):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for fields in ({"tools": []}, {"tools": [], "tool_choice": "none"}, {"tool_choice": "auto"},
                   {"tools": [tool]}, {"tools": [tool], "tool_choice": "auto"},
                   {"tools": [tool], "tool_choice": "none", "parallel_tool_calls": False},
                   {"response_format": {"type": "text"}}, {"response_format": {"type": "json_object"}},
                   {"reasoning_effort": "low"}):
        eq(door.chat(max_tokens=1, **fields).status, 200, str(fields))


COMPLETION_PROMPTS = [None, [], "", [""], [[]], 5, True, {}, [True], [None], ["a", 5], [[1], "a"],
                      [[1], [2.5]], [1, -1], [1, 49152], [[1, 2], [3, 10**12]], [1.5], [{}]]
for _i, _prompt in enumerate(COMPLETION_PROMPTS):
    def _run(door, prompt=_prompt):
        a = door.complete(prompt=prompt).refused(400)
        assert a.error["param"].startswith("prompt"), a.error
    case(f"H05_prompt_{_i}")(_run)


@case("H05_too_many_prompts")
def _(door):
    door.complete(prompt=["a"] * 129).refused(400, param="prompt")
    door.complete(prompt=["a"] * 65, n=2).refused(400, param="prompt")
    a = door.complete(prompt=["a"] * 128, max_tokens=1)
    eq([c["index"] for c in a.json["choices"]], list(range(128)))


@case("H05_suffix")
def _(door):
    door.complete(suffix="x").refused(400, param="suffix")


@case("C2_13_busy_and_no_capacity")
def _(door):
    a = door.chat(seed=BUSY).refused(429, code="rate_limit_exceeded")
    eq(a.headers["retry-after"], "7")
    a = door.chat(seed=BUSY + 1).refused(503, code="no_capacity")
    eq(a.headers["retry-after"], "3")
