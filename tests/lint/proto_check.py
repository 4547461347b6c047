#!/usr/bin/env python3
"""Fails if a message type in a .proto file contains itself, at any distance.

protobuf-c follows nested messages down the stack without a limit, so one recursive type would let
30 KB from a peer end the process. Also checks that no field number of a message is used twice and
that every list of numbers is packed.
"""
import re
import sys
from pathlib import Path

NUMBERS = {"double", "float", "bool", "int32", "int64", "uint32", "uint64", "sint32", "sint64",
           "fixed32", "fixed64", "sfixed32", "sfixed64"}


def messages(text):
    """Yields (name, [(repeated, type, field, number, options)]); nested types by their own name."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    stack, fields = [], {}
    token = re.compile(
        r"\bmessage\s+(?P<msg>\w+)\s*\{|\b(?:oneof|enum)\s+\w+\s*\{|(?P<close>\})|"
        r"(?P<rep>repeated\s+|optional\s+)?(?:map\s*<\s*\w+\s*,\s*(?P<mapped>[\w.]+)\s*>|"
        r"(?P<type>[\w.]+))\s+(?P<field>\w+)\s*=\s*(?P<num>\d+)\s*(?P<opt>\[[^\]]*\])?\s*;")
    for m in token.finditer(text):
        if m["close"]:
            if not stack:
                raise ValueError("unbalanced braces")
            stack.pop()
        elif m["num"]:
            owner = next((s for s in reversed(stack) if s), None)
            if owner and (m["type"] or m["mapped"]) not in ("option", "reserved"):
                kind = (m["mapped"] or m["type"]).split(".")[-1]
                fields[owner].append(((m["rep"] or "").strip() == "repeated", kind, m["field"],
                                      int(m["num"]), m["opt"] or ""))
        elif m["msg"]:
            stack.append(m["msg"])
            if m["msg"] in fields:
                raise ValueError(f"two messages named {m['msg']}")
            fields[m["msg"]] = []
        else:
            stack.append(None)
    if stack:
        raise ValueError("unbalanced braces")
    return fields


def faults(text):
    types = messages(text)
    found = []
    for name, fields in types.items():
        numbers = [f[3] for f in fields]
        for n in sorted({n for n in numbers if numbers.count(n) > 1}):
            found.append(f"{name}: field number {n} is used twice")
        for repeated, kind, field, _, options in fields:
            if repeated and kind in NUMBERS and "packed" not in options:
                found.append(f"{name}.{field}: a list of numbers that is not packed")
        seen, todo = set(), [f[1] for f in fields if f[1] in types]
        while todo:
            t = todo.pop()
            if t == name:
                found.append(f"{name}: contains itself")
                break
            if t not in seen:
                seen.add(t)
                todo += [f[1] for f in types[t] if f[1] in types]
    return found


def self_test():
    good = "message A { repeated B b = 1; oneof k { B c = 2; } } message B { uint32 x = 1; }"
    assert faults(good) == []
    bad = {
        "message A { A a = 1; }": "contains itself",
        "message A { repeated B b = 1; } message B { oneof k { C c = 4; } } message C { A a = 1; }":
            "contains itself",
        "message A { map<string, A> m = 1; }": "contains itself",
        "message A { uint32 x = 1; uint32 y = 1; }": "used twice",
        "message A { repeated uint32 x = 1; }": "not packed",
    }
    for text, words in bad.items():
        assert any(words in f for f in faults(text)), text
    assert faults("message A { // A a = 1;\n }") == []


def main():
    self_test()
    root = Path(__file__).resolve().parents[2]
    files = [Path(a) for a in sys.argv[1:]] or sorted((root / "proto").rglob("*.proto"))
    if not files:
        print("proto_check: no .proto files")
        return 1
    status = 0
    for f in files:
        text = f.read_text()
        if not messages(text):
            print(f"{f}: no messages")
            status = 1
        for fault in faults(text):
            print(f"{f}: {fault}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
