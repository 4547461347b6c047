"""C.3.23, C.3.24, H27, H28: answers of a form that the caller gives. The mock engine writes its text as far as the
masks let it through, and the shortest way to the end where they do not."""
import json
import re

import kit
from kit import CHAT, COMPLETIONS, USER, case, eq

PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age", "tags"],
          "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 18},
                         "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1}}}


def schema_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}


def check_person(text):
    p = json.loads(text)
    eq(sorted(p), ["age", "name", "tags"])
    assert isinstance(p["name"], str) and p["age"] >= 18 and set(p["tags"]) <= {"a", "b"} and p["tags"], p


def answer(a):
    eq(a.status, 200, a.body[:300])
    c = a.json["choices"][0]
    eq(c["finish_reason"], "stop", a.body[:300])
    return c["message"]["content"] if "message" in c else c["text"]


@case("C3_24_json_object")
def _(door):
    assert isinstance(json.loads(answer(door.chat(response_format={"type": "json_object"}))), dict)
    assert isinstance(json.loads(answer(door.complete(response_format={"type": "json_object"}, max_tokens=50))), dict)


@case("C3_24_json_schema_of_every_choice")
def _(door):
    for f in (schema_format(PERSON, strict=True), {"type": "json_schema", "schema": PERSON},
              {"type": "json_object", "schema": PERSON}):
        whole = answer(door.chat(response_format=f))
        check_person(whole)
        parts = [c["choices"][0]["delta"].get("content", "") for c in door.stream(response_format=f)[:-1]]
        eq("".join(parts), whole)
    a = door.chat(response_format=schema_format(PERSON), n=3)
    for c in a.json["choices"]:
        check_person(c["message"]["content"])


@case("C3_24_structured_outputs_and_guided")
def _(door):
    grammar = 'root ::= "x" [0-9]{2} ("," root)?'
    for fields, pattern in (
            ({"guided_choice": ["red", "green"]}, "red|green"),
            ({"structured_outputs": {"choice": ["red", "green"]}}, "red|green"),
            ({"guided_regex": "[A-Z]{3}-\\d+"}, r"[A-Z]{3}-\d+"),
            ({"structured_outputs": {"regex": "[A-Z]{3}-\\d+"}}, r"[A-Z]{3}-\d+"),
            ({"guided_grammar": grammar}, r"x\d\d(,x\d\d)*"),
            ({"structured_outputs": {"grammar": grammar}}, r"x\d\d(,x\d\d)*"),
            ({"guided_json": {"type": "integer"}}, r"-?\d+"),
            ({"guided_json": '{"type": "null"}'}, "null"),
            ({"structured_outputs": {"json": {"const": [1]}}}, r"\[1\]"),
            ({"structured_outputs": {"json_object": True}}, r"\{.*\}"),
            ({"structured_outputs": {"json_object": False, "json": None}, "max_tokens": 300}, kit.TEXT[:20] + ".*")):
        for path, body in ((CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "x", "max_tokens": 200})):
            text = answer(door.post(path, {**body, **fields}))
            assert re.fullmatch(pattern, text, re.S), (fields, text)


@case("C3_24_forms_by_the_names_of_llama_cpp")
def _(door):
    for fields, want in (({"grammar": 'root ::= "a"{5,5}'}, "aaaaa"), ({"json_schema": {"const": "42"}}, '"42"')):
        a = door.chat(max_tokens=20, **fields)
        eq(a.json["choices"][0]["message"]["content"], want)
    for fields in ({"grammar": "root ::= foo"}, {"json_schema": {"type": "hiccup"}}):
        door.chat(**fields).refused(400, code="invalid_schema", param=next(iter(fields)))
    a = door.post("/v1/messages", {"messages": USER, "max_tokens": 20,
                                   "output_format": {"type": "json_schema", "schema": {"const": 7}}})
    eq(a.json["content"][0]["text"], "7")


@case("C3_24_forms_are_compiled_once")
def _(door):
    def count(what, cache):
        return door.metric(f'trireme_{what}_total{{cache="{cache}"}}')
    form = schema_format({"type": "object", "properties": {"once": {"type": "integer"}}, "required": ["once"]})
    before = [count("grammars", "hit"), count("grammars", "miss")]
    made = []
    for _ in range(3):
        answer(door.chat(response_format=form))
        made.append(count("grammar_masks", "miss"))
    eq([count("grammars", "hit"), count("grammars", "miss")], [before[0] + 2, before[1] + 1])
    eq(made[1], made[2], "masks that were known were made again")
    assert count("grammar_masks", "hit") > 0 and door.metric("trireme_grammar_mask_seconds_total") > 0


@case("C3_24_what_cannot_be_kept_is_named")
def _(door):
    for schema, code, words in (
            ({"properties": {"a": {"not": {}}}}, "unsupported_schema", "$.a: 'not'"),
            ({"type": "array", "uniqueItems": True}, "unsupported_schema", "'uniqueItems'"),
            ({"type": "strin"}, "invalid_schema", "'type'"),
            ({"$ref": "#/$defs/none"}, "invalid_schema", "not there"),
            ({"type": "string", "pattern": "("}, "invalid_schema", "')'"),
            ({"enum": []}, "invalid_schema", "no text")):
        a = door.chat(response_format=schema_format(schema)).refused(400, code, "response_format")
        assert words in a.error["message"], a.error
    door.chat(guided_regex="(?=a)").refused(400, "unsupported_schema", "guided_regex")
    door.chat(guided_grammar="root ::= x").refused(400, "invalid_schema", "guided_grammar")
    for fields, param in (({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
                          ({"guided_choice": []}, "guided_choice"), ({"guided_choice": [1]}, "guided_choice"),
                          ({"response_format": {"type": "json_schema"}}, "response_format"),
                          ({"response_format": schema_format([1])}, "response_format"),
                          ({"guided_json": "{"}, "guided_json"),
                          ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex"),
                          ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs")):
        door.chat(**fields).refused(400, None, param)


@case("H27_bombs_in_schemas")
def _(door):
    deep = {"type": "string"}
    for _ in range(200):
        deep = {"items": deep}
    door.chat(response_format=schema_format(deep)).refused(400, "json_too_deep")
    cycle = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}
    doubling = {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i - 1}"}] * 2, "minLength": 1} for i in range(1, 60)},
                "$ref": "#/$defs/d59"}
    doubling["$defs"]["d0"] = {"type": "string"}
    for schema in (cycle, doubling, {"type": "string", "pattern": "(" * 60000}, {"type": "string", "maxLength": 10**9},
                   {"enum": list(range(300000))}, {"enum": ["x" * 1000 + str(i) for i in range(2000)]},
                   {"type": "string", "pattern": "((a?){1000}){1000}"}, {"type": "array", "minItems": 10**9},
                   {"properties": {f"p{i}": {"type": "string", "pattern": "[^\u0100-\u0200]{2,9}x?" * 9} for i in range(4000)}}):
        door.chat(response_format=schema_format(schema)).refused(400, "schema_too_complex", "response_format")
    for pattern in ("^+", "{2}", "*", "a{2}{3}", "[", "a\\"):
        door.chat(response_format=schema_format({"type": "string", "pattern": pattern})).refused(400)
    # Those that are bombs for others.
    text = answer(door.chat(response_format=schema_format({"type": "string", "pattern": "^(a+)+$"})))
    assert re.fullmatch('"a+"', text), text
    nested = {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}
    assert isinstance(json.loads(answer(door.chat(response_format=schema_format(nested)))), list)


@case("H27_too_many_ways_end_their_own_request")
def _(door):
    a = door.chat(guided_regex="((a{1,900}){1,900}){1,900}b", max_tokens=300)
    assert a.status in (200, 400), a.status


@case("H28_many_schemas")
def _(door):
    n = 100 if kit.sanitized else 600
    before = door.rss_kb()
    for i in range(n):
        f = schema_format({"type": "object", "properties": {f"k{i}": {"type": "string"}}, "required": [f"k{i}"]})
        a = door.complete(response_format=f, max_tokens=2)
        eq(a.status, 200, a.body[:200])
    assert kit.sanitized or door.rss_kb() - before < 96 << 10, (before, door.rss_kb())


@case("C3_23_calls_that_must_be_made", "--template", kit.FIXTURES + "/chat_templates/qwen3/template.jinja")
def _(door):
    tools = [{"type": "function", "function": {"name": n, "parameters": s}}
             for n, s in (("weather", {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}),
                          ("now", {"type": "object", "properties": {}}))]
    for choice, names in (("required", {"weather", "now"}), ({"type": "function", "function": {"name": "now"}}, {"now"})):
        a = door.chat(tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=400)
        eq(a.status, 200, a.body[:300])
        m = a.json["choices"][0]["message"]
        eq(len(m["tool_calls"]), 1, a.body[:500])
        call = m["tool_calls"][0]["function"]
        assert call["name"] in names, call
        assert isinstance(json.loads(call["arguments"]), dict), call
    strict = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"not": {}, "type": "object"}}}]
    door.chat(tools=strict).refused(400, "unsupported_schema", "tools")
    strict[0]["function"]["strict"] = False
    eq(door.chat(tools=strict, max_tokens=5).status, 200)
