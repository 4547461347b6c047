"""Vibe's own request code (mistral-vibe), through each of its adapters that speaks to us."""
import asyncio
import os

from vibe.core.config import ModelConfig, ProviderConfig
from vibe.core.llm.backend.generic import GenericBackend
from vibe.core.types import AvailableFunction, AvailableTool, LLMMessage, Role

from checks import KEY, MODEL, PARAMETERS, QUESTION, ROOT, URL, check_arguments, run

os.environ["TRIREME_TEST_KEY"] = KEY
STYLES = {"openai": URL, "reasoning": URL, "openai-responses": URL, "anthropic": ROOT}
tool = AvailableTool(function=AvailableFunction(name="get_weather", description="The weather.", parameters=PARAMETERS))
user = LLMMessage(role=Role.user, content=QUESTION)


def of_style(style):
    provider = ProviderConfig(name="here", api_base=STYLES[style], api_key_env_var="TRIREME_TEST_KEY", api_style=style)
    model = ModelConfig(name=MODEL, provider="here", alias="m")
    args = {"model": model, "temperature": 0.0, "extra_headers": None}
    return GenericBackend(provider=provider, retry_max_elapsed_time=1.0), args


async def streamed(backend, **args):
    total = None
    async for chunk in backend.complete_streaming(**args):
        total = chunk if total is None else total + chunk
    return total


def answers_and_their_streams_are_equal():
    async def one(style):
        backend, args = of_style(style)
        args |= {"messages": [user], "tools": None, "tool_choice": None, "max_tokens": 12}
        async with backend:
            whole, stream = await backend.complete(**args), await streamed(backend, **args)
        assert whole.message.content and stream.message.content, (style, whole, stream)
        if style in ("openai", "reasoning"):  # the others send no temperature to models that they do not know
            assert whole.message.content == stream.message.content, (style, whole, stream)
        assert whole.usage.completion_tokens and stream.usage.completion_tokens, style
    for style in STYLES:
        asyncio.run(one(style))


def forced_calls_and_their_results():
    async def one(style):
        backend, args = of_style(style)
        args |= {"tools": [tool], "max_tokens": 200}
        async with backend:
            for answer in (backend.complete, lambda **a: streamed(backend, **a)):
                first = (await answer(messages=[user], tool_choice="required", **args)).message
                assert len(first.tool_calls) >= 1 and first.tool_calls[0].function.name == "get_weather", (style, first)
                check_arguments(first.tool_calls[0].function.arguments)
            results = [LLMMessage(role=Role.tool, tool_call_id=call.id, name="get_weather", content="Sunny.")
                       for call in first.tool_calls]
            after = await backend.complete(messages=[user, first, *results], tool_choice="none", **{**args, "max_tokens": 8})
        assert after.message.content or style != "openai", (style, after)  # drawn at random, it may end at once
    for style in ("openai", "anthropic"):
        asyncio.run(one(style))


run([answers_and_their_streams_are_equal, forced_calls_and_their_results])
