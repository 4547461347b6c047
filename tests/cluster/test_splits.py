"""One model, every split: tokens and logits are the same, bit for bit.

The reference is one process with one worker. Against it: stages over queues in one process, over UCX
shared memory and over UCX TCP; stages that are groups of workers (tensor, experts), even and uneven; alone,
all at once mixed with other prompts, with and without a prefix hit.

    test_splits.py smollm2|gemma3|moe|PATH

PATH: any mixture of experts, like a real model's layers made into one."""
import json
import pathlib
import sys
import tempfile

from cluster import FIXTURES, GEMMA3, SMOLLM2, Cluster, Stream, need, run, tiny_moe

WHICH = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
SCRATCH = tempfile.TemporaryDirectory(prefix="trireme-splits-")


if WHICH == "moe":
    MODEL = tiny_moe(pathlib.Path(SCRATCH.name))
else:
    MODEL = {"smollm2": SMOLLM2, "gemma3": GEMMA3}.get(WHICH, pathlib.Path(WHICH))
N_TOKENS = 16
need(MODEL)

if MODEL not in (SMOLLM2, GEMMA3):  # no answers of others to compare with: any ids will do
    PROMPTS = [[(i * 37 + k * k * 11) % 250 for k in range(5 + 9 * i)] for i in range(6)]
    LONG = [[(k * k + 3 * k) % 250 for k in range(210)]]
else:
    need(FIXTURES / "real")
    CASES = json.load(open(next((FIXTURES / "real").glob(MODEL.name.rsplit(".", 1)[0] + ".json"))))["cases"]
    SHORT = [c for c in CASES if len(c["prompt_ids"]) < 200]
    PROMPTS = [c["prompt_ids"] for c in SHORT][:5]
    # Three steps of a prompt, and more than Gemma's window of 512.
    LONG = [c["prompt_ids"][:600] for c in CASES if len(c["prompt_ids"]) >= 600][:1]
REFERENCE = {}
# An answer that must have a form: what may come travels with each step.
FORM = {"max_tokens": 96, "temperature": 0.9, "seed": 5, "logits_digest": True, "structured_outputs": {"json": {
    "type": "object", "required": ["name", "age"], "additionalProperties": False,
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 1, "maximum": 99}}}}}


def ask_all_alone(c, prompts):
    return [c.digest(p, N_TOKENS) for p in prompts]


def ask_together(c, prompts):
    """And, last, one whose answer has a form."""
    streams = [Stream(c, {"prompt": p, "max_tokens": N_TOKENS, "temperature": 0, "logits_digest": True,
                          "ignore_eos": True}) for p in prompts] + [Stream(c, {"prompt": PROMPTS[0], **FORM})]
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
        form = c.complete(PROMPTS[0], **FORM)["choices"][0]
        assert form["finish_reason"] == "stop" and sorted(json.loads(form["text"])) == ["age", "name"], form
        REFERENCE["form"] = (form["text"], form["logits_digest"])
    compare(ask_all_alone(c, prompts), REFERENCE["alone"], what + ", alone")
    compare(ask_all_alone(c, LONG), REFERENCE["alone"][len(PROMPTS):], what + ", prefix hit")
    hits = c.complete(prompts[-1], max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert len(prompts[-1]) < 64 or hits > 0, "the second asking of a long prompt hit no prefix"
    # Other prompts in the same steps, and the shared beginning of the long one in some of them.
    mixed = prompts + [p[: len(p) // 2] for p in LONG]
    together = ask_together(c, mixed)
    compare(together[: len(prompts)], REFERENCE["alone"], what + ", together")
    compare(together[-1:], [REFERENCE["form"]], what + ", with a form")


def stages_of(c):
    return c.status()["lanes"][0]["stages"]


def test_reference_one_process():
    with Cluster(MODEL, local=1) as c:
        check(c, "one process")


def check_fixture_tokens(c):
    """Tokens agree with an independent float32 implementation up to the first step that is a tie. (Long
    prompts and answers are tests/golden's.)"""
    for case in SHORT:
        margins = case["margins"][:N_TOKENS]
        n = next((i for i, m in enumerate(margins) if m < 0.02), len(margins))
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


def shape_of(c):
    return [[m["worker"] for m in s["members"]] for s in stages_of(c)]


def split(*members, serve=(), **options):
    """`members`: how many workers each stage has."""
    with Cluster(MODEL, serve=list(serve), **options) as c:
        assert tuple(map(len, shape_of(c))) == members, shape_of(c)
        check(c, f"{members} {serve} {options}")


def test_three_workers_local():
    split(1, 1, 1, local=3)


def test_two_workers_ucx_shm():
    split(1, 1, workers=["a", "b"], worker=["--transports", "posix,self"])


def test_three_workers_ucx_tcp():
    split(1, 1, 1, workers=["a", "b", "c"], worker=["--transports", "tcp,self"])


def test_tensor_group_ucx_shm():
    split(2, workers=["a", "b"], worker=["--transports", "posix,self"], serve=["--split", "tensor"])


def test_uneven_tensor_group_local():
    split(3, local=3, serve=["--split", "tensor", "--parts", "3,2,1"])


def test_two_tensor_groups_ucx_tcp():
    """Many small messages: a few prompts are enough."""
    with Cluster(MODEL, workers=["a", "b", "c", "d"], worker=["--transports", "tcp,self"],
                 serve=["--split", "tensor", "--stages", "2"]) as c:
        assert [len(s) for s in shape_of(c)] == [2, 2], shape_of(c)
        compare(ask_together(c, PROMPTS[:2]), REFERENCE["alone"][:2], "two tensor groups")


def test_experts_group_ucx_shm():
    """With parts given it is the lead that has all that is not experts."""
    split(2, workers=["a", "b"], worker=["--transports", "posix,self"], serve=["--split", "experts", "--parts", "1,1"])


def test_uneven_experts_group_local():
    split(3, local=3, serve=["--split", "experts", "--parts", "1,2,3"])


def test_two_experts_groups_ucx_shm():
    split(2, 2, workers=["a", "b", "c", "d"], serve=["--split", "experts", "--stages", "2"])  # as the planner will


def test_one_prefill_chunk_of_32_and_no_chain():
    split(1, 1, local=2, serve=["--step-tokens", "32", "--no-chain"])


def test_no_prefix_cache():
    with Cluster(MODEL, local=1, serve=["--no-prefix-cache"]) as c:
        compare(ask_all_alone(c, PROMPTS[:2] + LONG), REFERENCE["alone"][:2] + REFERENCE["alone"][len(PROMPTS):],
                "no prefix cache")


TESTS = {
    "smollm2": [test_three_workers_local, test_two_workers_ucx_shm, test_three_workers_ucx_tcp,
                test_tensor_group_ucx_shm, test_uneven_tensor_group_local, test_two_tensor_groups_ucx_tcp,
                test_one_prefill_chunk_of_32_and_no_chain, test_no_prefix_cache,
                test_float_activations_give_the_reference_tokens],
    "gemma3": [test_two_workers_ucx_shm, test_uneven_tensor_group_local,
               test_float_activations_give_the_reference_tokens],
    "moe": [test_two_workers_ucx_shm, test_tensor_group_ucx_shm, test_experts_group_ucx_shm,
            test_uneven_experts_group_local, test_two_experts_groups_ucx_shm],
    "any": [test_two_workers_ucx_shm, test_three_workers_local, test_tensor_group_ucx_shm,
            test_uneven_tensor_group_local, test_experts_group_ucx_shm, test_uneven_experts_group_local,
            test_two_experts_groups_ucx_shm, test_two_tensor_groups_ucx_tcp],
}
run([test_reference_one_process, *TESTS.get(WHICH, TESTS["any"])])
