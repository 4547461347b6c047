"""The official openai client against two workers and a real model: streamed and not."""
import asyncio
import json
import subprocess
import sys

from cluster import FIXTURES, ROOT, SMOLLM2, Cluster, need, run, skip

need(SMOLLM2, FIXTURES / "real")
VENV = ROOT / "build" / "venv"


def venv_python():
    python = VENV / "bin" / "python"
    if subprocess.run([python, "-c", "import openai"], capture_output=True, check=False).returncode if python.exists() else True:
        made = subprocess.run([sys.executable, "-m", "venv", VENV], check=False).returncode == 0
        if not made or subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "openai"],
                                      check=False).returncode:
            skip("the openai package cannot be installed")
    return python


try:
    import openai
except ImportError:
    import os
    if os.environ.get("TRIREME_IN_VENV"):
        skip("the openai package does not import")
    os.environ["TRIREME_IN_VENV"] = "1"
    python = venv_python()
    os.execv(python, [str(python), *sys.argv])

CHAT = [c for c in json.load(open(FIXTURES / "real" / "SmolLM2-135M-Instruct.Q4_1.json"))["cases"] if c["kind"] == "chat"]
cluster = None


def client(cls=openai.OpenAI):
    return cls(base_url=f"http://127.0.0.1:{cluster.port}/v1", api_key="none", max_retries=0)


def messages(case):
    return case.get("messages") or [{"role": "user", "content": case["prompt"]}]


def test_models():
    models = client().models.list().data
    assert len(models) >= 1 and client().models.retrieve(models[0].id).id == models[0].id


def test_chat_and_its_stream_are_equal():
    for case in CHAT:
        args = {"model": client().models.list().data[0].id, "messages": messages(case), "temperature": 0, "max_tokens": 40}
        whole = client().chat.completions.create(**args)
        assert whole.usage.prompt_tokens == len(case["prompt_ids"]), (whole.usage, len(case["prompt_ids"]))
        text, finish, usage = "", None, None
        for chunk in client().chat.completions.create(stream=True, stream_options={"include_usage": True}, **args):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                finish = chunk.choices[0].finish_reason or finish
            usage = chunk.usage or usage
        assert text == whole.choices[0].message.content and finish == whole.choices[0].finish_reason
        assert usage.completion_tokens == whole.usage.completion_tokens
        n = next((i for i, m in enumerate(case["margins"]) if m < 0.25), 64)
        assert case["greedy_text"].startswith(text[: max(0, 2 * n)]) or n < 4, (text, case["greedy_text"])


def test_logprobs_n_seed_stop():
    args = {"model": client().models.list().data[0].id, "messages": [{"role": "user", "content": "Name a colour."}]}
    r = client().chat.completions.create(logprobs=True, top_logprobs=3, max_tokens=5, temperature=0, **args)
    for t in r.choices[0].logprobs.content:
        assert len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob >= t.top_logprobs[2].logprob
        assert t.logprob <= 0 and bytes(t.bytes).decode(errors="replace") == t.token
    r = client().chat.completions.create(n=3, seed=5, temperature=1.0, max_tokens=12, **args)
    again = client().chat.completions.create(n=3, seed=5, temperature=1.0, max_tokens=12, **args)
    texts = [c.message.content for c in r.choices]
    assert texts == [c.message.content for c in again.choices] and len(set(texts)) > 1
    whole = client().chat.completions.create(temperature=0, max_tokens=30, **args).choices[0].message.content
    stop = whole[5:8]
    cut = client().chat.completions.create(temperature=0, max_tokens=30, stop=[stop], **args).choices[0]
    assert cut.message.content == whole[: whole.index(stop)] and cut.finish_reason == "stop"


def test_completions_and_errors():
    c = client()
    model = c.models.list().data[0].id
    r = c.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0, echo=True)
    assert r.choices[0].text.startswith("The capital of France is")
    for bad, kind in ((({"model": "no-such-model"}), openai.NotFoundError), ({"temperature": 7}, openai.BadRequestError),
                      ({"max_tokens": 10**7}, openai.BadRequestError)):
        try:
            c.chat.completions.create(**{"model": model, "messages": [{"role": "user", "content": "x"}], **bad})
            raise AssertionError(f"{bad} was accepted")
        except kind as e:
            assert e.body["message"]


def test_async_streams():
    async def one(a, i):
        stream = await a.chat.completions.create(model=model, temperature=0, max_tokens=16, stream=True,
                                                 messages=[{"role": "user", "content": f"Count to {i}."}])
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def all_of_them():
        async with client(openai.AsyncOpenAI) as a:
            together = await asyncio.gather(*[one(a, i) for i in range(16)])
            alone = [await one(a, i) for i in range(16)]
            assert together == alone

    model = client().models.list().data[0].id
    asyncio.run(all_of_them())


with Cluster(SMOLLM2, workers=["a", "b"]) as cluster:
    run([test_models, test_chat_and_its_stream_are_equal, test_logprobs_n_seed_stop, test_completions_and_errors,
         test_async_streams])
