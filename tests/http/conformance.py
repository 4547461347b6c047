#!/usr/bin/env python3
"""Counts what clients break on ([must] rows of the list of conformance) against the cases of this
folder, whose names begin with the rows they test: C<section>_<row>[_<row>...]. Prints a Markdown
table.

    conformance.py README.md            says whether the table between its marks is this one
    conformance.py --write README.md    puts it there

Exit 1 if it is not, if a row has neither a case nor a reason here, if a reason is given for a row
that has cases, or (where the list is at hand) if the list and this file name other rows."""
import importlib
import os
import re
import sys

BEGIN, END = "<!-- conformance: written by tests/http/conformance.py -->", "<!-- end of conformance -->"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import kit  # noqa: E402

SECTIONS = {0: "HTTP and event streams", 1: "Keys", 2: "Errors", 3: "Chat: requests", 4: "Chat: answers",
            5: "Models", 6: "Responses", 7: "Messages"}
# Row: section and, in a few words, what it asks.
MUST = {
    1: (0, "framing of `data:` lines, `[DONE]`, `: keep-alive`"),
    2: (0, "headers at once, a byte every 10 s"),
    3: (0, "keep-alive of Responses is an event"),
    4: (0, "keep-alive of Messages is `ping`"),
    5: (0, "chunks end at characters and before stop strings"),
    6: (0, "paths match without their query; no redirects; `HEAD /`"),
    8: (0, "a caller that leaves frees slot and KV"),
    9: (0, "unknown fields pass, unknown values are 400 with `param`; bad bytes 400, size 413"),
    11: (1, "`Authorization: Bearer` or `x-api-key`, on every path"),
    12: (1, "401 in each dialect; `/livez` open, metrics and admin guarded"),
    14: (2, "sentence and code of an overflow, for all clients at once"),
    15: (2, "roles: repaired or 400, never 500"),
    16: (2, "errors after the headers, in each dialect"),
    17: (2, "thinking, signatures, late system messages are taken"),
    19: (3, "roles and kinds of content"),
    20: (3, "history with calls, `reasoning_content` or `reasoning`"),
    21: (3, "replayed arguments that are not JSON"),
    22: (3, "ids of calls are opaque"),
    23: (3, "`tool_choice`, `parallel_tool_calls`, `strict`"),
    24: (3, "`response_format`, with tools and after thoughts"),
    26: (3, "a tiny request beside a long one"),
    29: (4, "last chunk has `finish_reason` and an empty delta"),
    30: (4, "usage chunk"),
    31: (4, "usage in full"),
    32: (4, "thoughts under both names, never in the content"),
    33: (4, "deltas of calls"),
    34: (4, "order; streamed equals whole"),
    42: (5, "discovery by Claude Code; aliases; wakes nothing"),
    46: (6, "foreign tools pass; unsupported state is a clear 400"),
    47: (6, "order of events"),
    48: (6, "`type`, `sequence_number`, event names"),
    49: (6, "usage in full"),
    52: (7, "kinds of blocks"),
    53: (7, "results and text in one turn, for strict templates"),
    54: (7, "billing line leaves the prompt"),
    55: (7, "order of events"),
    56: (7, "indexes of blocks"),
    57: (7, "`input_tokens` without cached ones, at the start already"),
    58: (7, "first event as soon as accepted"),
}
# Rows that nothing tests, and why.
NOT_YET = {}
# Rows that are tested and yet say less than a reader may think.
BUT = {
    12: "that keys are compared in constant time is in the code, not in a test",
    19: "images, audio and files are refused by name (400): text only",
    26: "and on a real cluster (tests/cluster/test_clients.py), while there is room for both",
    42: "models do not sleep yet; what is tested is one that is still loading",
    52: "images and documents are refused by name (400): text only",
}


def rows_of(name):
    """Rows that a case's name begins with: C6_47_48_event_order, C0_5_C4_38_stop_strings."""
    rows, rest = [], name
    while m := re.match(r"C(\d)((?:_\d+)+)(?:_|$)", rest):
        rows += [int(n) for n in m.group(2).split("_")[1:]]
        rest = rest[m.end():]
    return rows


def cases_by_row():
    for file in sorted(os.listdir(HERE)):
        if file.startswith("test_") and file.endswith(".py"):
            importlib.import_module(file[:-3])
    found = {}
    for name, _, _ in kit.cases:
        for row in rows_of(name):
            found.setdefault(row, []).append(name)
    return found


def rows_of_list():
    """[must] rows of the list itself, or None where it is not at hand."""
    path = os.path.join(kit.FIXTURES, "../specs/api-conformance.md")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf8") as f:
        return {int(m.group(1)) for m in re.finditer(r"^(\d+)\. \*\*\[must\]\*\*", f.read(), re.M)}


def problems(found):
    listed = rows_of_list()
    if listed is None:
        print("(the list of conformance is not at hand: its rows are not compared)", file=sys.stderr)
    elif listed != set(MUST):
        yield f"rows that only the list or only this file has: {sorted(listed ^ set(MUST))}"
    for row in MUST:
        if (row in found) == (row in NOT_YET):
            yield f"row {row} " + ("has cases and a reason why not" if row in found else "has no case and no reason")


def table(found):
    """How many rows of each section have cases."""
    out = ["| section | must | tested | cases | not supported yet |", "|---|---|---|---|---|"]
    for number, title in SECTIONS.items():
        rows = [r for r, (s, _) in MUST.items() if s == number]
        n_case = len({name for r in rows for name in found.get(r, [])})
        missing = "; ".join(f"{r} ({NOT_YET[r]})" for r in rows if r in NOT_YET) or "-"
        out.append(f"| C.{number} {title} | {len(rows)} | {sum(r in found for r in rows)} | {n_case} | {missing} |")
    n_case = len({name for r in MUST for name in found.get(r, [])})
    out.append(f"| all | {len(MUST)} | {sum(r in found for r in MUST)} | {n_case} | {len(NOT_YET)} |")
    return "\n".join(out)


def compare(readme, wanted, write):
    """A line that says so if the README's table is another one; with `write` it becomes this one."""
    with open(readme, encoding="utf8") as f:
        text = f.read()
    before, rest = text.split(BEGIN)
    there, after = rest.split(END)
    if write:
        with open(readme, "w", encoding="utf8") as f:
            f.write(f"{before}{BEGIN}\n{wanted}\n{END}{after}")
    elif there != f"\n{wanted}\n":
        yield f"{readme}: its table of conformance is another; run {sys.argv[0]} --write {readme}"


def main():
    found = cases_by_row()
    args = [a for a in sys.argv[1:] if a != "--write"]
    print(table(found))
    print("\n| row | what | cases | note |\n|---|---|---|---|")
    for row, (section, what) in MUST.items():
        print(f"| C.{section} {row} | {what} | {len(found.get(row, []))} | {BUT.get(row) or NOT_YET.get(row, '')} |")
    wrong = list(problems(found))
    if args:
        wrong += compare(args[0], table(found), "--write" in sys.argv)
    for line in wrong:
        print("FAIL " + line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
