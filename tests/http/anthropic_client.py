#!/usr/bin/env python3
"""The official anthropic client against door_mock: anthropic_client.py DOOR_MOCK. Installs the package into
build/venv once; exit 77 if that is not possible."""
import kit
import test_dialects as d

MODEL = "mock/tiny-1"


def raises(kind, f, status):
    try:
        f()
    except kind as e:
        kit.eq((e.status_code, e.body["type"]), (status, "error"))
        assert e.request_id and e.body["error"]["type"], e.body
        return
    raise AssertionError(f"no {kind.__name__}")


def plain_checks(client, strict):
    import anthropic

    def ask(c=client, **more):
        return c.messages.create(**{"model": MODEL, "max_tokens": 5, "messages": kit.USER, **more})

    def whole():
        m = ask()
        kit.eq((m.content[0].text, m.stop_reason, m.role), ("The quick brown fox jumps", "max_tokens", "assistant"))
        kit.eq(m.usage.output_tokens, 5)
        assert m._request_id.startswith("req_")

    def stream_helper():
        with client.messages.stream(model=MODEL, max_tokens=500, messages=kit.USER, stop_sequences=["dog"]) as s:
            text = "".join(s.text_stream)
            m = s.get_final_message()
        kit.eq(text, kit.TEXT[:kit.TEXT.index("dog")])
        kit.eq((m.content[0].text, m.stop_reason, m.stop_sequence), (text, "stop_sequence", "dog"))
        assert m.usage.output_tokens > 5, m.usage

    def raw_events():
        kinds = [e.type for e in ask(stream=True)]
        kit.eq((kinds[:2], kinds[-3:]), (["message_start", "content_block_start"],
                                         ["content_block_stop", "message_delta", "message_stop"]))

    def errors():
        raises(anthropic.NotFoundError, lambda: ask(model="x"), 404)
        raises(anthropic.BadRequestError, lambda: ask(max_tokens=20000), 400)
        raises(anthropic.BadRequestError, lambda: ask(messages=[]), 400)
        raises(anthropic.RateLimitError, lambda: ask(extra_body={"seed": kit.BUSY}), 429)
        raises(anthropic.InternalServerError, lambda: ask(extra_body={"seed": kit.NO_CAPACITY}), 529)
        raises(anthropic.AuthenticationError, lambda: ask(strict), 401)
        try:
            list(ask(stream=True, extra_body={"seed": kit.FAIL_LATER}))
        except anthropic.APIStatusError as e:
            kit.eq(e.body["error"]["type"], "overloaded_error")
        else:
            raise AssertionError("a broken stream looked whole")

    def models():
        kit.eq([m.id for m in client.models.list(limit=1000)], [MODEL])
        kit.eq(client.models.retrieve(MODEL).id, MODEL)

    return [whole, stream_helper, raw_events, errors, models]


def calling_checks(client):
    """Against a mock that thinks, speaks and calls (test_dialects.py)."""
    body = {"model": MODEL, "max_tokens": 500, "messages": kit.USER, "tools": d.M_TOOLS}

    def blocks(m):
        kit.eq([b.type for b in m.content], ["thinking", "text", "tool_use", "tool_use"])
        kit.eq((m.content[0].thinking, m.content[1].text), (d.THOUGHT, d.SPOKEN))
        kit.eq([(b.name, b.input) for b in m.content[2:]], d.CALLS)
        kit.eq(m.stop_reason, "tool_use")

    def calls():
        blocks(client.messages.create(**body))

    def calls_stream():
        with client.messages.stream(**body) as s:
            blocks(s.get_final_message())

    def replayed():
        m = client.messages.create(**body)
        results = [{"type": "tool_result", "tool_use_id": b.id, "content": "x"} for b in m.content[2:]]
        talk = [*kit.USER, {"role": "assistant", "content": m.content},
                {"role": "user", "content": [*results, {"type": "text", "text": "and now?"}]}]
        n = client.messages.count_tokens(model=MODEL, messages=talk, tools=d.M_TOOLS).input_tokens
        u = client.messages.create(**{**body, "messages": talk}).usage
        kit.eq(u.input_tokens + u.cache_read_input_tokens, n)

    return [calls, calls_stream, replayed]


def connect(url):
    import anthropic
    return anthropic.Anthropic(base_url=url, api_key="sk-wrong", max_retries=0)


if __name__ == "__main__":
    kit.client_main("anthropic", __file__, d.QWEN, connect, lambda client, strict, caller:
                    plain_checks(client, strict) + calling_checks(caller))
