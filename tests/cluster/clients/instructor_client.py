"""instructor: answers as objects, by response_format, by calls and by the other dialect's calls."""
import anthropic
import instructor
import openai
from pydantic import BaseModel, Field

from checks import KEY, MODEL, ROOT, URL, run


class Trip(BaseModel):
    city: str = Field(max_length=20)
    days: int = Field(ge=1, le=9)


ASK = {"model": MODEL, "max_tokens": 200, "response_model": Trip, "max_retries": 0,
       "messages": [{"role": "user", "content": "Plan a trip to Oslo."}]}


def objects_by_response_format_and_by_calls():
    plain = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)
    for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
        trip = instructor.from_openai(plain, mode=mode).chat.completions.create(temperature=0, **ASK)
        assert isinstance(trip, Trip) and 1 <= trip.days <= 9, trip


def objects_by_calls_of_messages():
    plain = anthropic.Anthropic(base_url=ROOT, api_key=KEY, max_retries=0)
    trip = instructor.from_anthropic(plain, mode=instructor.Mode.ANTHROPIC_TOOLS).messages.create(**ASK)
    assert isinstance(trip, Trip) and 1 <= trip.days <= 9, trip


run([objects_by_response_format_and_by_calls, objects_by_calls_of_messages])
