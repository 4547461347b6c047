"""litellm, which many agents (OpenHands among them) speak through: both dialects, streams, calls, embeddings."""
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched
import litellm  # noqa: E402

from checks import KEY, MODEL, ROOT, TOOL, URL, ASK, check_arguments, check_vectors, run  # noqa: E402

litellm.telemetry = False
OPENAI = {"model": "openai/" + MODEL, "api_base": URL, "api_key": KEY, "num_retries": 0}
ANTHROPIC = {"model": "anthropic/" + MODEL, "api_base": ROOT, "api_key": KEY, "num_retries": 0}
SAY = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16, "temperature": 0}


def answers_and_their_streams_are_equal():
    for where in (OPENAI, ANTHROPIC):
        whole = litellm.completion(**where, **SAY)
        chunks = list(litellm.completion(stream=True, stream_options={"include_usage": True}, **where, **SAY))
        streamed = litellm.stream_chunk_builder(chunks)
        assert whole.choices[0].message.content == streamed.choices[0].message.content != "", (whole, streamed)
        ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        assert ends == [whole.choices[0].finish_reason], (where["model"], ends, whole)
        assert whole.usage.completion_tokens == streamed.usage.completion_tokens > 0
        assert whole.usage.prompt_tokens == streamed.usage.prompt_tokens > 0


def forced_calls_and_their_results():
    for where in (OPENAI, ANTHROPIC):
        args = {"messages": ASK, "tools": [TOOL], "tool_choice": "required", "max_tokens": 200, "temperature": 0, **where}
        first = litellm.completion(**args).choices[0]
        assert first.finish_reason == "tool_calls", first
        call = first.message.tool_calls[0]
        assert call.function.name == "get_weather"
        check_arguments(call.function.arguments)
        streamed = litellm.stream_chunk_builder(list(litellm.completion(stream=True, **args))).choices[0].message
        check_arguments(streamed.tool_calls[0].function.arguments)
        result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
        r = litellm.completion(messages=[*ASK, first.message.model_dump(), result], tools=[TOOL], max_tokens=8, temperature=0, **where)
        assert r.choices[0].message.content or r.choices[0].message.tool_calls, r


def an_overflow_is_known_as_one():
    try:
        litellm.completion(messages=[{"role": "user", "content": "word " * 20000}], **OPENAI)
        raise AssertionError("accepted")
    except litellm.ContextWindowExceededError:
        pass


def embeddings():
    r = litellm.embedding(input=["a boat", "a boat", "a stone"], encoding_format="float", **OPENAI)
    check_vectors(*[d["embedding"] for d in r.data])
    assert r.usage.prompt_tokens > 0


run([answers_and_their_streams_are_equal, forced_calls_and_their_results, an_overflow_is_known_as_one, embeddings])
