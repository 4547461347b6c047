"""OpenHands' own request code (openhands-sdk): its LLM over chat completions and Responses."""
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
from openhands.sdk import LLM, Message, TextContent  # noqa: E402
from openhands.sdk.llm.exceptions import LLMContextWindowExceedError  # noqa: E402
from pydantic import SecretStr  # noqa: E402

from checks import KEY, MODEL, URL, run  # noqa: E402

llm = LLM(model="openai/" + MODEL, base_url=URL, api_key=SecretStr(KEY), usage_id="test", num_retries=0, max_output_tokens=16,
          temperature=0.0, native_tool_calling=True)
HELLO = [Message(role="system", content=[TextContent(text="Be brief.")]), Message(role="user", content=[TextContent(text="Say hello.")])]


def text_of(response):
    return "".join(c.text for c in response.message.content)


def completion_and_responses():
    assert text_of(llm.completion(HELLO))
    assert text_of(llm.responses(HELLO))
    assert llm.metrics.accumulated_token_usage.prompt_tokens > 0


def two_user_turns_in_a_row():
    assert text_of(llm.completion([*HELLO, Message(role="user", content=[TextContent(text="In French.")])]))


def an_overflow_is_known_as_one():
    try:
        llm.completion([Message(role="user", content=[TextContent(text="word " * 20000)])])
        raise AssertionError("accepted")
    except LLMContextWindowExceedError:
        pass


run([completion_and_responses, two_user_turns_in_a_row, an_overflow_is_known_as_one])
