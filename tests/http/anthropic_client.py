#!/usr/bin/env python3
"""The official anthropic client against door_mock: anthropic_client.py DOOR_MOCK. Installs the package into
build/venv once; exit 77 if that is not possible."""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = "mock/tiny-1"


def raises(kit, kind, f, status):
    try:
        f()
    except kind as e:
        kit.eq((e.status_code, e.body["type"]), (status, "error"))
        assert e.request_id and e.body["error"]["type"], e.body
        return
    raise AssertionError(f"no {kind.__name__}")


def plain_checks(client, strict, kit, anthropic):
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
        raises(kit, anthropic.NotFoundError, lambda: ask(model="x"), 404)
        raises(kit, anthropic.BadRequestError, lambda: ask(max_tokens=20000), 400)
        raises(kit, anthropic.BadRequestError, lambda: ask(messages=[]), 400)
        raises(kit, anthropic.RateLimitError, lambda: ask(extra_body={"seed": kit.BUSY}), 429)
        raises(kit, anthropic.InternalServerError, lambda: ask(extra_body={"seed": kit.NO_CAPACITY}), 529)
        raises(kit, anthropic.AuthenticationError, lambda: ask(strict), 401)
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


def calling_checks(client, kit, d):
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


def main():
    sys.path.insert(0, HERE)
    import anthropic
    import kit
    import test_dialects
    kit.program = sys.argv[2]
    if not os.path.exists(kit.VOCAB):
        print(f"SKIP: no fixtures at {kit.FIXTURES} (set TRIREME_FIXTURES)")
        return 77
    doors = [kit.Door(), kit.Door("--key", "sk-right"), kit.Door(*test_dialects.QWEN)]
    client, strict, caller = (anthropic.Anthropic(base_url=f"http://127.0.0.1:{d.port}", api_key="sk-wrong",
                                                  max_retries=0) for d in doors)
    failed = 0
    for check in plain_checks(client, strict, kit, anthropic) + calling_checks(caller, kit, test_dialects):
        try:
            check()
            print("ok  ", check.__name__)
        except Exception as e:
            failed += 1
            print("FAIL", check.__name__, repr(e))
    for each in (client, strict, caller, *doors):
        each.close()
    print(f"anthropic {anthropic.__version__}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: anthropic_client.py DOOR_MOCK")
    if sys.argv[1] != "--inside":
        sys.path.insert(0, HERE)
        import kit
        kit.enter_venv("anthropic", __file__)
    sys.exit(main())
