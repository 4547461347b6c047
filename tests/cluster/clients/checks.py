"""What the clients share: where the server is, the usual tool, and a loop over the checks.

    python X_client.py http://127.0.0.1:PORT MODEL
"""
import json
import sys
import time
import traceback

ROOT, MODEL = (sys.argv + ["", ""])[1:3]
URL = ROOT + "/v1"
KEY = "none"

PARAMETERS = {"type": "object", "additionalProperties": False, "required": ["city", "days"],
              "properties": {"city": {"type": "string", "maxLength": 20},
                             "days": {"type": "integer", "minimum": 1, "maximum": 9}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather of some days.", "strict": True,
                                         "parameters": PARAMETERS}}
QUESTION = "What will the weather be in Oslo?"
ASK = [{"role": "user", "content": QUESTION}]


def check_arguments(args):
    """Of a call of the tool: forced, so they keep its schema whatever the model thinks."""
    args = json.loads(args) if isinstance(args, str) else args
    assert sorted(args) == ["city", "days"], args
    assert isinstance(args["city"], str) and len(args["city"]) <= 20 and 1 <= args["days"] <= 9, args


def check_vectors(first, again, other, dim=576):
    """Equal texts, equal vectors, of length 1; other texts, others."""
    assert len(first) == dim and first == again and first != other
    assert abs(sum(x * x for x in first) - 1) < 1e-4


def run(tests):
    bad = 0
    for t in tests:
        begin = time.time()
        try:
            t()
            print(f"ok   {t.__name__} {time.time() - begin:.1f}s", flush=True)
        except Exception as e:
            bad += 1
            traceback.print_exc(file=sys.stdout)
            print(f"FAIL {t.__name__}: {e!r}", flush=True)
    sys.exit(1 if bad else 0)
