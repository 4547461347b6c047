#!/usr/bin/env python3
"""The official openai client against door_mock: openai_client.py DOOR_MOCK. Installs the package into
build/venv once; exit 77 if that is not possible."""
import json

import kit
import test_dialects as d


def plain_checks(client, strict):
    import openai
    want = "The quick brown fox jumps"
    user = [{"role": "user", "content": "hi"}]

    def whole():
        r = client.chat.completions.create(model="mock/tiny-1", messages=user, max_tokens=5)
        kit.eq(r.choices[0].message.content, want)
        kit.eq((r.usage.completion_tokens, r.choices[0].finish_reason), (5, "length"))
        assert r._request_id.startswith("req_")

    def streamed():
        parts, usage, finish = [], None, []
        for c in client.chat.completions.create(model="mock/tiny-1", messages=user, max_tokens=5,
                                                stream=True, n=2,
                                                stream_options={"include_usage": True}):
            usage = c.usage or usage
            for choice in c.choices:
                parts.append(choice.delta.content or "" if choice.index == 0 else "")
                finish += [choice.finish_reason] if choice.finish_reason else []
        kit.eq("".join(parts), want)
        kit.eq((usage.completion_tokens, finish), (10, ["length", "length"]))

    def stream_helper():
        with client.chat.completions.stream(model="mock/tiny-1", messages=user) as s:
            for _ in s:
                pass
            choice = s.get_final_completion().choices[0]
            assert choice.message.content.startswith(want), choice
            kit.eq(choice.finish_reason, "stop")

    def logprobs():
        r = client.chat.completions.create(model="mock/tiny-1", messages=user, max_tokens=5,
                                           logprobs=True, top_logprobs=2)
        content = r.choices[0].logprobs.content
        kit.eq("".join(t.token for t in content), want)
        kit.eq(len(content[0].top_logprobs), 2)

    def completions():
        r = client.completions.create(model="mock/tiny-1", prompt=["a", "b"], max_tokens=5)
        kit.eq([c.text for c in r.choices], [want, want])
        text = "".join(c.choices[0].text for c in client.completions.create(
            model="mock/tiny-1", prompt="a", max_tokens=5, stream=True))
        kit.eq(text, want)

    def models():
        kit.eq([m.id for m in client.models.list()], ["mock/tiny-1"])
        kit.eq(client.models.retrieve("mock/tiny-1").id, "mock/tiny-1")

    def errors():
        def raises(kind, f, **check):
            try:
                f()
            except kind as e:
                for k, v in check.items():
                    kit.eq(getattr(e, k), v, k)
                return
            raise AssertionError(f"no {kind.__name__}")
        create = client.chat.completions.create
        raises(openai.NotFoundError, lambda: create(model="x", messages=user),
               code="model_not_found", param="model", type="invalid_request_error")
        raises(openai.BadRequestError, lambda: create(model="mock/tiny-1", messages=[]),
               param="messages")
        raises(openai.BadRequestError,
               lambda: create(model="mock/tiny-1", messages=user, max_tokens=100000),
               code="context_length_exceeded")
        raises(openai.RateLimitError,
               lambda: create(model="mock/tiny-1", messages=user, seed=kit.BUSY))
        raises(openai.InternalServerError,
               lambda: create(model="mock/tiny-1", messages=user, seed=kit.NO_CAPACITY))
        raises(openai.APIError, lambda: list(create(model="mock/tiny-1", messages=user, stream=True,
                                                    seed=kit.FAIL_LATER)))
        raises(openai.AuthenticationError, lambda: strict.models.list(), code="invalid_api_key")

    return [whole, streamed, stream_helper, logprobs, completions, models, errors]


def calling_checks(client):
    """Against a mock that thinks, speaks and calls (test_dialects.py)."""
    def spoken(choice):
        kit.eq(choice.message.content, d.SPOKEN)
        kit.eq(choice.message.reasoning_content, d.THOUGHT)
        kit.eq([(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls], d.CALLS)
        kit.eq(choice.finish_reason, "tool_calls")

    def chat_calls():
        spoken(client.chat.completions.create(model="mock/tiny-1", messages=kit.USER, tools=d.TOOLS).choices[0])

    def chat_calls_stream():
        with client.chat.completions.stream(model="mock/tiny-1", messages=kit.USER, tools=d.TOOLS) as s:
            done = [e for e in s if e.type == "tool_calls.function.arguments.done"]
            kit.eq([(e.name, json.loads(e.arguments)) for e in done], d.CALLS)
            spoken(s.get_final_completion().choices[0])

    def items(r):
        kit.eq([i.type for i in r.output], ["reasoning", "message", "function_call", "function_call"])
        kit.eq((r.output[0].content[0].text, r.output_text), (d.THOUGHT, d.SPOKEN))
        kit.eq([(i.name, json.loads(i.arguments)) for i in r.output[2:]], d.CALLS)
        kit.eq(r.usage.total_tokens, r.usage.input_tokens + r.usage.output_tokens)

    def responses():
        r = client.responses.create(model="mock/tiny-1", input="hi", tools=d.R_TOOLS)
        items(r)
        again = [*kit.USER, *r.output, *({"type": "function_call_output", "call_id": i.call_id, "output": "x"}
                                         for i in r.output[2:])]
        items(client.responses.create(model="mock/tiny-1", input=again, tools=d.R_TOOLS))

    def responses_stream():
        with client.responses.stream(model="mock/tiny-1", input="hi", tools=d.R_TOOLS) as s:
            text = "".join(e.delta for e in s if e.type == "response.output_text.delta")
            kit.eq(text, d.SPOKEN)
            items(s.get_final_response())

    return [chat_calls, chat_calls_stream, responses, responses_stream]


def connect(url):
    import openai
    return openai.OpenAI(base_url=url + "/v1", api_key="sk-wrong", max_retries=0)


if __name__ == "__main__":
    kit.client_main("openai", __file__, d.QWEN, connect, lambda client, strict, caller:
                    plain_checks(client, strict) + calling_checks(caller))
