"""langchain-openai: invoke, stream, bound tools, structured output, embeddings."""
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from checks import KEY, MODEL, PARAMETERS, QUESTION, TOOL, URL, check_arguments, check_vectors, run

AT = {"base_url": URL, "api_key": KEY, "model": MODEL, "max_retries": 0}
llm = ChatOpenAI(temperature=0, max_tokens=200, stream_usage=True, **AT)


def answers_and_their_streams_are_equal():
    short = ChatOpenAI(temperature=0, max_tokens=16, stream_usage=True, **AT)
    whole = short.invoke("Say hello.")
    streamed = None
    for chunk in short.stream("Say hello."):
        streamed = chunk if streamed is None else streamed + chunk
    assert whole.content == streamed.content != ""
    assert whole.usage_metadata["output_tokens"] == streamed.usage_metadata["output_tokens"] > 0


def bound_tools():
    bound = llm.bind_tools([TOOL], tool_choice="any", parallel_tool_calls=False)
    first = bound.invoke(QUESTION)
    assert len(first.tool_calls) == 1 and first.tool_calls[0]["name"] == "get_weather", first
    check_arguments(first.tool_calls[0]["args"])
    streamed = None
    for chunk in bound.stream(QUESTION):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == first.tool_calls[0]["args"]
    result = ToolMessage("Sunny.", tool_call_id=first.tool_calls[0]["id"])
    short = ChatOpenAI(temperature=0, max_tokens=8, **AT)
    assert short.invoke([HumanMessage(QUESTION), first, result]).content


def structured_output():
    schema = {**PARAMETERS, "title": "Trip", "description": "A trip."}
    for method in ("json_schema", "function_calling"):
        check_arguments(llm.with_structured_output(schema, method=method, strict=True).invoke("Plan a trip."))


def embeddings():
    e = OpenAIEmbeddings(check_embedding_ctx_length=False, **AT)
    first, again = e.embed_documents(["a boat", "a boat"])
    check_vectors(first, again, e.embed_query("a stone"))


run([answers_and_their_streams_are_equal, bound_tools, structured_output, embeddings])
