"""The official openai client against two workers and a real model: streamed and not."""
import asyncio
import json
import subprocess
import sys

from cluster import FIXTURES, ROOT, SMOLLM2, Cluster, need, run, skip

need(SMOLLM2, FIXTURES / "real")
VENV = ROOT / "build" / "venv"


def venv_python():
    python = VENV / "bin" / "python"
    if subprocess.run([python, "-c", "import openai"], capture_output=True, check=False).returncode if python.exists() else True:
        made = subprocess.run([sys.executable, "-m", "venv", VENV], check=False).returncode == 0
        if not made or subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "openai"],
                                      check=False).returncode:
            skip("the openai package cannot be installed")
    return python


try:
    import openai
except ImportError:
    import os
    if os.environ.get("TRIREME_IN_VENV"):
        skip("the openai package does not import")
    os.environ["TRIREME_IN_VENV"] = "1"
    python = venv_python()
    os.execv(python, [str(python), *sys.argv])

CHAT = [c for c in json.load(open(FIXTURES / "real" / "SmolLM2-135M-Instruct.Q4_1.json"))["cases"] if c["kind"] == "chat"]
cluster = None


def client(cls=openai.OpenAI):
    return cls(base_url=f"http://127.0.0.1:{cluster.port}/v1", api_key="none", max_retries=0)


def messages(case):
    return case.get("messages") or [{"role": "user", "content": case["prompt"]}]


def test_models():
    models = client().models.list().data
    assert len(models) >= 1 and client().models.retrieve(models[0].id).id == models[0].id


def test_chat_and_its_stream_are_equal():
    for case in CHAT:
        args = {"model": client().models.list().data[0].id, "messages": messages(case), "temperature": 0, "max_tokens": 40}
        whole = client().chat.completions.create(**args)
        assert whole.usage.prompt_tokens == len(case["prompt_ids"]), (whole.usage, len(case["prompt_ids"]))
        text, finish, usage = "", None, None
        for chunk in client().chat.completions.create(stream=True, stream_options={"include_usage": True}, **args):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                finish = chunk.choices[0].finish_reason or finish
            usage = chunk.usage or usage
        assert text == whole.choices[0].message.content and finish == whole.choices[0].finish_reason
        assert usage.completion_tokens == whole.usage.completion_tokens
        n = next((i for i, m in enumerate(case["margins"]) if m < 0.25), 64)
        assert case["greedy_text"].startswith(text[: max(0, 2 * n)]) or n < 4, (text, case["greedy_text"])


def test_logprobs_n_seed_stop():
    args = {"model": client().models.list().data[0].id, "messages": [{"role": "user", "content": "Name a colour."}]}
    r = client().chat.completions.create(logprobs=True, top_logprobs=3, max_tokens=5, temperature=0, **args)
    for t in r.choices[0].logprobs.content:
        assert len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob >= t.top_logprobs[2].logprob
        assert t.logprob <= 0 and bytes(t.bytes).decode(errors="replace") == t.token
    r = client().chat.completions.create(n=3, seed=5, temperature=1.0, max_tokens=12, **args)
    again = client().chat.completions.create(n=3, seed=5, temperature=1.0, max_tokens=12, **args)
    texts = [c.message.content for c in r.choices]
    assert texts == [c.message.content for c in again.choices] and len(set(texts)) > 1
    whole = client().chat.completions.create(temperature=0, max_tokens=30, **args).choices[0].message.content
    stop = whole[5:8]
    cut = client().chat.completions.create(temperature=0, max_tokens=30, stop=[stop], **args).choices[0]
    assert cut.message.content == whole[: whole.index(stop)] and cut.finish_reason == "stop"


def test_completions_and_errors():
    c = client()
    model = c.models.list().data[0].id
    r = c.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0, echo=True)
    assert r.choices[0].text.startswith("The capital of France is")
    for bad, kind in ((({"model": "no-such-model"}), openai.NotFoundError), ({"temperature": 7}, openai.BadRequestError),
                      ({"max_tokens": 10**7}, openai.BadRequestError)):
        try:
            c.chat.completions.create(**{"model": model, "messages": [{"role": "user", "content": "x"}], **bad})
            raise AssertionError(f"{bad} was accepted")
        except kind as e:
            assert e.body["message"]


def test_async_streams():
    async def one(a, i):
        stream = await a.chat.completions.create(model=model, temperature=0, max_tokens=16, stream=True,
                                                 messages=[{"role": "user", "content": f"Count to {i}."}])
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def all_of_them():
        async with client(openai.AsyncOpenAI) as a:
            together = await asyncio.gather(*[one(a, i) for i in range(16)])
            alone = [await one(a, i) for i in range(16)]
            assert together == alone

    model = client().models.list().data[0].id
    asyncio.run(all_of_them())


TOOL = {"type": "function",
        "function": {"name": "get_weather", "strict": True,
                     "parameters": {"type": "object", "additionalProperties": False, "required": ["city", "days"],
                                    "properties": {"city": {"type": "string", "maxLength": 20},
                                                   "days": {"type": "integer", "minimum": 1, "maximum": 9}}}}}
ASK = [{"role": "user", "content": "What will the weather be in Oslo?"}]


def check_call(name, arguments):
    args = json.loads(arguments)
    assert name == "get_weather" and sorted(args) == ["city", "days"], arguments
    assert isinstance(args["city"], str) and len(args["city"]) <= 20 and 1 <= args["days"] <= 9, arguments


def test_forced_calls_are_valid_and_stream_as_they_are():
    model = client().models.list().data[0].id
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        args = {"model": model, "messages": ASK, "tools": [TOOL], "tool_choice": choice, "temperature": 0, "max_tokens": 200,
                "parallel_tool_calls": False}
        whole = client().chat.completions.create(**args).choices[0]
        assert whole.finish_reason == "tool_calls" and len(whole.message.tool_calls) == 1, whole
        call = whole.message.tool_calls[0].function
        check_call(call.name, call.arguments)
        with client().chat.completions.stream(**args) as s:
            for _ in s:
                pass
            streamed = s.get_final_completion().choices[0]
        assert streamed.message.tool_calls[0].function.arguments == call.arguments
        assert streamed.finish_reason == "tool_calls"


def test_a_call_and_its_result_go_on():
    model = client().models.list().data[0].id
    first = client().chat.completions.create(model=model, messages=ASK, tools=[TOOL], tool_choice="required", max_tokens=200,
                                             temperature=0).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "Sunny, 20 degrees."}
    r = client().chat.completions.create(model=model, messages=[*ASK, first, result], tools=[TOOL], tool_choice="none",
                                         max_tokens=16, temperature=0)
    assert r.choices[0].message.content and not r.choices[0].message.tool_calls


def test_structured_answers():
    schema = {"type": "object", "additionalProperties": False, "required": ["name", "age", "likes"],
              "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
                             "likes": {"type": "array", "items": {"enum": ["rowing", "reading"]}, "minItems": 1, "maxItems": 2}}}
    model = client().models.list().data[0].id
    ask = {"model": model, "messages": [{"role": "user", "content": "Describe Ann as JSON."}], "max_tokens": 200}
    for seed in range(4):
        r = client().chat.completions.create(seed=seed, temperature=1.0, response_format={
            "type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}, **ask)
        got = json.loads(r.choices[0].message.content)
        assert sorted(got) == ["age", "likes", "name"] and set(got["likes"]) <= {"rowing", "reading"}, got
        assert 0 <= got["age"] <= 99 and r.choices[0].finish_reason == "stop", r
    r = client().chat.completions.create(extra_body={"structured_outputs": {"choice": ["yes", "no"]}}, **ask)
    assert r.choices[0].message.content in ("yes", "no")


def test_small_requests_leave_a_long_session_alone():
    """opencode asks for titles beside its main session: that must neither wait for them nor lose its prefix."""
    talk = [{"role": "user", "content": "Remember these numbers: " + " ".join(str(i * 7) for i in range(120))}]
    args = {"model": client().models.list().data[0].id, "temperature": 0}
    first = client().chat.completions.create(messages=talk, max_tokens=4, **args)
    talk += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "Go on."}]

    async def beside():
        async with client(openai.AsyncOpenAI) as c:
            async def title(i):
                r = await c.chat.completions.create(messages=[{"role": "user", "content": f"{i}: a title?"}], max_tokens=3, **args)
                return r.choices[0].finish_reason
            async def main():
                return await c.chat.completions.create(messages=talk, max_tokens=20, **args)
            return await asyncio.gather(main(), *(title(i) for i in range(12)))
    second, *reasons = asyncio.run(beside())
    assert set(reasons) <= {"length", "stop"}, reasons
    third = client().chat.completions.create(messages=talk, max_tokens=20, **args)
    assert third.choices[0].message.content == second.choices[0].message.content
    for r in (second, third):
        cached = r.usage.prompt_tokens_details.cached_tokens
        assert cached > first.usage.prompt_tokens * 0.8, (cached, first.usage)


def test_responses():
    c = client()
    model = c.models.list().data[0].id
    r = c.responses.create(model=model, input="Say hello.", max_output_tokens=24, temperature=0)
    events = list(c.responses.create(model=model, input="Say hello.", max_output_tokens=24, temperature=0, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == r.output_text
    assert [e.sequence_number for e in events] == list(range(len(events)))
    tool = {"type": "function", **TOOL["function"]}
    r = c.responses.create(model=model, input=ASK[0]["content"], tools=[tool], tool_choice="required", max_output_tokens=200)
    call = next(i for i in r.output if i.type == "function_call")
    check_call(call.name, call.arguments)
    r = c.responses.create(model=model, max_output_tokens=16, tools=[tool], tool_choice="none", input=[
        {"role": "user", "content": ASK[0]["content"]}, call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}])
    assert r.output_text


with Cluster(SMOLLM2, workers=["a", "b"]) as cluster:
    run([test_models, test_chat_and_its_stream_are_equal, test_logprobs_n_seed_stop, test_completions_and_errors,
         test_async_streams, test_forced_calls_are_valid_and_stream_as_they_are, test_a_call_and_its_result_go_on,
         test_structured_answers, test_small_requests_leave_a_long_session_alone, test_responses])
