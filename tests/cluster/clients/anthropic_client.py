"""The official anthropic client: messages, streams, forced calls, counts, async."""
import asyncio

import anthropic

from checks import KEY, MODEL, PARAMETERS, QUESTION, ROOT, ASK, check_arguments, run

c = anthropic.Anthropic(base_url=ROOT, api_key=KEY, max_retries=0)
TOOLS = [{"name": "get_weather", "description": "The weather of some days.", "input_schema": PARAMETERS}]
GREEDY = {"extra_body": {"temperature": 0}}
SAY = {**GREEDY, "model": MODEL, "max_tokens": 24, "messages": [{"role": "user", "content": "Say hello."}]}
FORCED = {**GREEDY, "model": MODEL, "max_tokens": 200, "messages": ASK, "tools": TOOLS,
          "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}


def prompt_of(usage):
    return usage.input_tokens + usage.cache_read_input_tokens


def messages_and_their_stream_are_equal():
    whole = c.messages.create(system="Be brief.", **SAY)
    with c.messages.stream(system="Be brief.", **SAY) as s:
        text = "".join(s.text_stream)
        streamed = s.get_final_message()
    assert text == whole.content[0].text == streamed.content[0].text and text
    assert streamed.stop_reason == whole.stop_reason in ("end_turn", "max_tokens")
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 0


def forced_calls_and_their_results():
    whole = c.messages.create(**FORCED)
    assert whole.stop_reason == "tool_use", whole
    call = whole.content[-1]
    assert call.type == "tool_use" and call.name == "get_weather"
    check_arguments(call.input)
    with c.messages.stream(**FORCED) as s:
        streamed = s.get_final_message().content[-1]
    assert (streamed.name, streamed.input) == (call.name, call.input)
    talk = [*ASK, {"role": "assistant", "content": whole.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."},
                                         {"type": "text", "text": "And what should I wear?"}]}]
    after = c.messages.create(**GREEDY, model=MODEL, max_tokens=16, messages=talk, tools=TOOLS, tool_choice={"type": "none"})
    assert after.content[0].type == "text" and after.content[0].text
    n = c.messages.count_tokens(model=MODEL, messages=talk, tools=TOOLS, tool_choice={"type": "none"}).input_tokens
    assert prompt_of(after.usage) == n, (after.usage, n)


def counts_are_those_of_the_answers():
    n = c.messages.count_tokens(model=MODEL, messages=ASK).input_tokens
    assert prompt_of(c.messages.create(model=MODEL, max_tokens=1, messages=ASK).usage) == n > len(QUESTION.split())


def errors_are_its_own():
    for bad, kind in (({"model": "no-such-model"}, anthropic.NotFoundError), ({"extra_body": {"temperature": 7}}, anthropic.BadRequestError),
                      ({"max_tokens": 20000}, anthropic.BadRequestError)):
        try:
            c.messages.create(**{**SAY, **bad})
            raise AssertionError(f"{bad} was accepted")
        except kind as e:
            assert e.body["error"]["message"]


def async_streams():
    async def one(a, i):
        async with a.messages.stream(model=MODEL, max_tokens=8, **GREEDY,
                                     messages=[{"role": "user", "content": f"Count to {i}."}]) as s:
            return "".join([t async for t in s.text_stream])

    async def together():
        async with anthropic.AsyncAnthropic(base_url=ROOT, api_key=KEY, max_retries=0) as a:
            many = await asyncio.gather(*[one(a, i) for i in range(4)])
            assert many == [await one(a, i) for i in range(4)] and all(many)

    asyncio.run(together())


run([messages_and_their_stream_are_equal, forced_calls_and_their_results, counts_are_those_of_the_answers, errors_are_its_own,
     async_streams])
