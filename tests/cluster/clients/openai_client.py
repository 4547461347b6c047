"""The official openai client: chat, completions, Responses, calls, structured answers, embeddings, async."""
import asyncio
import json
import os

import openai
from pydantic import BaseModel, Field

from checks import ASK, KEY, MODEL, TOOL, URL, check_arguments, check_vectors, run

GOLDEN = os.path.join(os.environ["TRIREME_FIXTURES"], "real", "SmolLM2-135M-Instruct.Q4_1.json")
CHAT = [c for c in json.load(open(GOLDEN))["cases"] if c["kind"] == "chat"]


def client(cls=openai.OpenAI):
    return cls(base_url=URL, api_key=KEY, max_retries=0)


def messages(case):
    return case.get("messages") or [{"role": "user", "content": case["prompt"]}]


def models_are_listed():
    models = client().models.list().data
    assert len(models) >= 1 and client().models.retrieve(models[0].id).id == models[0].id


def chat_and_its_stream_are_equal():
    for case in CHAT:
        args = {"model": MODEL, "messages": messages(case), "temperature": 0, "max_tokens": 40}
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


def logprobs_n_seed_stop():
    args = {"model": MODEL, "messages": [{"role": "user", "content": "Name a colour."}]}
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


def completions_and_errors():
    c = client()
    r = c.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=8, temperature=0, echo=True)
    assert r.choices[0].text.startswith("The capital of France is")
    for bad, kind in ((({"model": "no-such-model"}), openai.NotFoundError), ({"temperature": 7}, openai.BadRequestError),
                      ({"max_tokens": 10**7}, openai.BadRequestError)):
        try:
            c.chat.completions.create(**{"model": MODEL, "messages": [{"role": "user", "content": "x"}], **bad})
            raise AssertionError(f"{bad} was accepted")
        except kind as e:
            assert e.body["message"]


def async_streams():
    async def one(a, i):
        stream = await a.chat.completions.create(model=MODEL, temperature=0, max_tokens=16, stream=True,
                                                 messages=[{"role": "user", "content": f"Count to {i}."}])
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def all_of_them():
        async with client(openai.AsyncOpenAI) as a:
            together = await asyncio.gather(*[one(a, i) for i in range(8)])
            alone = [await one(a, i) for i in range(8)]
            assert together == alone

    asyncio.run(all_of_them())


def forced_calls_are_valid_and_stream_as_they_are():
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        args = {"model": MODEL, "messages": ASK, "tools": [TOOL], "tool_choice": choice, "temperature": 0, "max_tokens": 200,
                "parallel_tool_calls": False}
        whole = client().chat.completions.create(**args).choices[0]
        assert whole.finish_reason == "tool_calls" and len(whole.message.tool_calls) == 1, whole
        call = whole.message.tool_calls[0].function
        assert call.name == "get_weather"
        check_arguments(call.arguments)
        with client().chat.completions.stream(**args) as s:
            for _ in s:
                pass
            streamed = s.get_final_completion().choices[0]
        assert streamed.message.tool_calls[0].function.arguments == call.arguments
        assert streamed.finish_reason == "tool_calls"


def a_call_and_its_result_go_on():
    first = client().chat.completions.create(model=MODEL, messages=ASK, tools=[TOOL], tool_choice="required", max_tokens=200,
                                             temperature=0).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "Sunny, 20 degrees."}
    r = client().chat.completions.create(model=MODEL, messages=[*ASK, first, result], tools=[TOOL], tool_choice="none",
                                         max_tokens=16, temperature=0)
    assert r.choices[0].message.content and not r.choices[0].message.tool_calls


def structured_answers():
    schema = {"type": "object", "additionalProperties": False, "required": ["name", "age", "likes"],
              "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
                             "likes": {"type": "array", "items": {"enum": ["rowing", "reading"]}, "minItems": 1, "maxItems": 2}}}
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "Describe Ann as JSON."}], "max_tokens": 200}
    for seed in range(4):
        r = client().chat.completions.create(seed=seed, temperature=1.0, response_format={
            "type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}, **ask)
        got = json.loads(r.choices[0].message.content)
        assert sorted(got) == ["age", "likes", "name"] and set(got["likes"]) <= {"rowing", "reading"}, got
        assert 0 <= got["age"] <= 99 and r.choices[0].finish_reason == "stop", r
    r = client().chat.completions.create(extra_body={"structured_outputs": {"choice": ["yes", "no"]}}, **ask)
    assert r.choices[0].message.content in ("yes", "no")


def small_requests_leave_a_long_session_alone():
    """opencode asks for titles beside its main session: that must neither wait for them nor lose its prefix."""
    talk = [{"role": "user", "content": "Remember these numbers: " + " ".join(str(i * 7) for i in range(120))}]
    args = {"model": MODEL, "temperature": 0}
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


def responses_and_their_events():
    c = client()
    r = c.responses.create(model=MODEL, input="Say hello.", max_output_tokens=24, temperature=0)
    events = list(c.responses.create(model=MODEL, input="Say hello.", max_output_tokens=24, temperature=0, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == r.output_text
    assert [e.sequence_number for e in events] == list(range(len(events)))
    tool = {"type": "function", **TOOL["function"]}
    r = c.responses.create(model=MODEL, input=ASK[0]["content"], tools=[tool], tool_choice="required", max_output_tokens=200,
                           temperature=0)
    call = next(i for i in r.output if i.type == "function_call")
    assert call.name == "get_weather"
    check_arguments(call.arguments)
    r = c.responses.create(model=MODEL, max_output_tokens=16, temperature=0, tools=[tool], tool_choice="none", input=[
        {"role": "user", "content": ASK[0]["content"]}, call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}])
    assert r.output_text


class Trip(BaseModel):
    city: str = Field(max_length=20)
    days: int = Field(ge=1, le=9)


def parsed_answers():
    ask = [{"role": "user", "content": "Plan a trip to Oslo."}]
    parsed = client().chat.completions.parse(model=MODEL, messages=ask, response_format=Trip, max_tokens=200)
    assert isinstance(parsed.choices[0].message.parsed, Trip), parsed
    tool = openai.pydantic_function_tool(Trip)
    called = client().chat.completions.parse(model=MODEL, messages=ask, tools=[tool], tool_choice="required", max_tokens=200,
                                             parallel_tool_calls=False)
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Trip), called
    answer = client().responses.parse(model=MODEL, input=ask, text_format=Trip, max_output_tokens=200)
    assert isinstance(answer.output_parsed, Trip), answer


def embeddings():
    texts = ["The cat sat on the mat.", "The cat sat on the mat.", "Shares fell on Wall Street.", "A kitten sat on the rug."]
    for pooling in ("last", "mean"):
        r = client().embeddings.create(model=MODEL, input=texts, extra_body={"pooling": pooling})  # base64 on the wire
        v = [d.embedding for d in r.data]
        check_vectors(*v[:3])
        plain = client().embeddings.create(model=MODEL, input=texts[2:], encoding_format="float",
                                           extra_body={"pooling": pooling}).data
        assert max(abs(a - b) for a, b in zip(plain[0].embedding, v[2])) < 1e-7
        near, far = (sum(a * b for a, b in zip(v[0], x)) for x in (v[3], v[2]))
        assert near > far + 0.03, (pooling, near, far)
    short = client().embeddings.create(model=MODEL, input=texts[:1], dimensions=64, extra_body={"pooling": "mean"})
    check_vectors(short.data[0].embedding, short.data[0].embedding, v[2][:64], 64)
    try:
        client().embeddings.create(model=MODEL, input="word " * 20000)
        raise AssertionError("accepted")
    except openai.BadRequestError as e:
        assert e.code == "context_length_exceeded"


run([models_are_listed, chat_and_its_stream_are_equal, logprobs_n_seed_stop, completions_and_errors,
     async_streams, forced_calls_are_valid_and_stream_as_they_are, a_call_and_its_result_go_on,
     structured_answers, small_requests_leave_a_long_session_alone, responses_and_their_events, parsed_answers,
     embeddings])
