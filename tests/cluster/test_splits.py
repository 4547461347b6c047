"""One model, every split: tokens and logits are the same, bit for bit.

The reference is one process with one worker. Against it: 2 and 3 workers over queues in one process,
over UCX shared memory and over UCX TCP; alone, eight at once mixed with other prompts, with and
without a prefix hit."""
import json
import sys

from cluster import FIXTURES, GEMMA3, SMOLLM2, Cluster, Stream, need, run

MODEL = {"smollm2": SMOLLM2, "gemma3": GEMMA3}[sys.argv[1] if len(sys.argv) > 1 else "smollm2"]
N_TOKENS = 24
need(MODEL, FIXTURES / "real")

CASES = json.load(open(next((FIXTURES / "real").glob(MODEL.name.rsplit(".", 1)[0] + ".json"))))["cases"]
PROMPTS = [c["prompt_ids"] for c in CASES if len(c["prompt_ids"]) < 200][:8]
LONG = [c["prompt_ids"] for c in CASES if len(c["prompt_ids"]) >= 200][:1]
REFERENCE = {}


def ask_all_alone(c, prompts):
    return [c.digest(p, N_TOKENS) for p in prompts]


def ask_together(c, prompts):
    streams = [Stream(c, {"prompt": p, "max_tokens": N_TOKENS, "temperature": 0, "logits_digest": True,
                          "ignore_eos": True}) for p in prompts]
    for s in streams:
        s.start()
    return [(s.check().text, s.digests) for s in streams]


def compare(found, wanted, what):
    for i, (f, w) in enumerate(zip(found, wanted)):
        assert f[1] == w[1], f"{what}: logits of prompt {i} differ from step " \
            f"{next(k for k, (a, b) in enumerate(zip(f[1], w[1])) if a != b)}"
        assert f[0] == w[0], f"{what}: text of prompt {i} differs"


def check(c, what):
    prompts = PROMPTS + LONG
    if not REFERENCE:
        REFERENCE["alone"] = ask_all_alone(c, prompts)
    compare(ask_all_alone(c, prompts), REFERENCE["alone"], what + ", alone")
    compare(ask_all_alone(c, prompts), REFERENCE["alone"], what + ", prefix hit")
    hits = c.complete(prompts[-1], max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert len(prompts[-1]) < 64 or hits > 0, "the second asking of a long prompt hit no prefix"
    # Other prompts in the same steps, and the shared beginning of the long one in some of them.
    mixed = prompts + [p[: len(p) // 2] for p in LONG]
    together = ask_together(c, mixed)
    compare(together[: len(prompts)], REFERENCE["alone"], what + ", together")


def stages_of(c):
    return c.status()["lanes"][0]["stages"]


def test_reference_one_process():
    with Cluster(MODEL, local=1) as c:
        check(c, "one process")


def check_fixture_tokens(c):
    """Tokens agree with an independent float32 implementation up to the first step that is a tie."""
    for case in CASES:
        n = next((i for i, m in enumerate(case["margins"]) if m < 0.02), len(case["margins"]))
        body = c.complete(case["prompt_ids"], max_tokens=max(n, 1), ignore_eos=True, return_token_ids=True)
        ids = body["choices"][0]["token_ids"]
        assert ids[:n] == case["greedy_ids"][:n], (case["prompt"][:40], ids, case["greedy_ids"][:n])


def test_float_activations_give_the_reference_tokens():
    """Two workers over UCX give the reference's tokens; three and one in a process the same bits."""
    alone = None
    for options in ({"workers": ["a", "b"]}, {"local": 3}, {"local": 1}):
        with Cluster(MODEL, serve=["--precision", "exact"], **options) as c:
            if not alone:
                check_fixture_tokens(c)
            digests = [c.digest(p, 8) for p in PROMPTS[:3]]
            alone = alone or digests
            compare(digests, alone, f"exact, {options}")


def split(n, **options):
    def body(**kw):
        with Cluster(MODEL, **kw) as c:
            assert len(stages_of(c)) == n, stages_of(c)
            check(c, f"{n} workers {kw}")
    return body(**options)


def test_two_workers_local():
    split(2, local=2)


def test_three_workers_local():
    split(3, local=3)


def test_two_workers_ucx_shm():
    split(2, workers=["a", "b"], worker=["--transports", "posix,self"])


def test_two_workers_ucx_tcp():
    split(2, workers=["a", "b"], worker=["--transports", "tcp,self"])


def test_three_workers_ucx_shm():
    split(3, workers=["a", "b", "c"], worker=["--transports", "posix,self"])


def test_three_workers_ucx_tcp():
    split(3, workers=["a", "b", "c"], worker=["--transports", "tcp,self"])


def test_one_prefill_chunk_of_32_and_no_chain():
    with Cluster(MODEL, local=2, serve=["--step-tokens", "32", "--no-chain"]) as c:
        check(c, "small chunks, no chain")


def test_no_prefix_cache():
    with Cluster(MODEL, local=1, serve=["--no-prefix-cache"]) as c:
        compare(ask_all_alone(c, PROMPTS + LONG), REFERENCE["alone"], "no prefix cache")


run([test_reference_one_process, test_two_workers_local, test_three_workers_local, test_two_workers_ucx_shm,
     test_two_workers_ucx_tcp, test_three_workers_ucx_shm, test_three_workers_ucx_tcp,
     test_one_prefill_chunk_of_32_and_no_chain, test_no_prefix_cache,
     test_float_activations_give_the_reference_tokens])
