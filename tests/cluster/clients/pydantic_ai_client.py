"""pydantic-ai: an agent whose answer is an object, over chat completions and Responses; text as a stream. (Its code for
Messages does not run with the newest anthropic package.)"""
import asyncio

from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from checks import KEY, MODEL, URL, run


class Trip(BaseModel):
    city: str = Field(max_length=20)
    days: int = Field(ge=1, le=9)


there = OpenAIProvider(base_url=URL, api_key=KEY)
chat = OpenAIChatModel(MODEL, provider=there)
responses = OpenAIResponsesModel(MODEL, provider=there)


def answers_are_objects():
    for model in (chat, responses):
        agent = Agent(model, output_type=Trip, retries=0, model_settings={"max_tokens": 200})
        trip = agent.run_sync("Plan a trip to Oslo.").output
        assert isinstance(trip, Trip) and 1 <= trip.days <= 9, (model, trip)


def text_streams():
    async def one(model):
        agent = Agent(model, model_settings={"max_tokens": 12, "temperature": 0})
        async with agent.run_stream("Say hello.") as r:
            text = "".join([t async for t in r.stream_text(delta=True, debounce_by=None)])
        assert text == (await agent.run("Say hello.")).output != "", (model, text)

    async def all_of_them():
        for model in (chat, responses):
            await one(model)

    asyncio.run(all_of_them())


run([answers_are_objects, text_streams])
