#!/usr/bin/env python3
"""GET /openapi.json of door_mock: valid OpenAPI 3.1, complete, and what schemathesis makes of it is
answered as described: schemathesis_run.py DOOR_MOCK. Installs the packages into build/venv once;
exit 77 if that is not possible."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import kit  # noqa: E402

SECONDS = 20  # that schemathesis may take: what is left after its fixed cases goes into random ones
CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
          "unsupported_method")


def check_description(door):
    from openapi_spec_validator import validate
    a = door.get("/openapi.json")
    kit.eq(a.status, 200)
    d = a.json
    validate(d)
    # Every route, by its method; the table of routes is read as text.
    routes = re.findall(r'^    \{"(/[^"]*)", (true|false), ROUTE_',
                        pathlib.Path(kit.ROOT, "coordinator/door/route.c").read_text(), re.M)
    assert len(routes) > 15, routes
    for path, is_post in routes:
        name = path + "{id}" if path.endswith("/") and len(path) > 1 else path
        op = d["paths"][name]["post" if is_post == "true" else "get"]
        assert not op["summary"].startswith("/"), f"{path} is not described"
    kit.eq(len(d["paths"]), len(routes))
    chat = d["components"]["schemas"]["ChatRequest"]["properties"]
    kit.eq((chat["top_p"]["exclusiveMinimum"], chat["top_p"]["maximum"], chat["n"]["maximum"]), (0, 1, 8))
    kit.eq(chat["stream_options"]["properties"]["include_usage"]["type"], ["boolean", "null"])
    # What the description allows at the edges is taken, what it forbids is refused.
    for name, schema in chat.items():
        if "maximum" in schema and name not in ("max_tokens", "min_tokens", "max_completion_tokens", "top_logprobs"):
            for value, status in ((schema["maximum"], 200), (schema["maximum"] + 1, 400)):
                a = door.chat(**{name: value}, **({} if name == "max_tokens" else {"max_tokens": 1}))
                kit.eq(a.status, status, f"{name} {value}")
    print(f"ok   description ({len(routes)} paths, {len(d['components']['schemas'])} schemas)")


def run_schemathesis(door):
    program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    url = f"http://127.0.0.1:{door.port}/openapi.json"
    with tempfile.TemporaryDirectory() as d:
        r = subprocess.run([program, "run", url, "--checks", CHECKS, "--phases", "examples,coverage,fuzzing",
                            "--max-examples", "20", "--max-time", str(SECONDS), "--seed", "7", "--no-shrink",
                            # What we say we do not have, or the mock's model has not, is a 501.
                            "--exclude-path-regex", "^/(slots/|infill|v1/rerank)",
                            "--request-timeout", "10", "--suppress-health-check", "all", "--warnings", "off",
                            "--continue-on-failure"],
                           cwd=d, timeout=120, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    print(r.stdout[-6000:], r.stderr[-1000:])
    cases = re.search(r"(\d+) generated", r.stdout)
    assert r.returncode == 0, "schemathesis found answers that the description does not allow"
    assert cases and int(cases.group(1)) > 200, "schemathesis tried next to nothing"
    door.good()
    kit.within(5, "nothing running", lambda: door.metric("mock_running") == 0)


def main():
    if "--inside" not in sys.argv:
        if not os.path.exists(kit.VOCAB):
            print(f"SKIP: no fixtures at {kit.FIXTURES} (set TRIREME_FIXTURES)")
            return 77
        kit.enter_venv("schemathesis", __file__, "openapi-spec-validator")
    kit.program = [a for a in sys.argv[1:] if a != "--inside"][0]
    door = kit.Door()
    try:
        check_description(door)
        run_schemathesis(door)
    finally:
        door.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
