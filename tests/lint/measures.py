#!/usr/bin/env python3
"""The house's measures: files under 800 lines, no function over 100, at most a tenth of the code in
functions over 60, at most 8 parameters. Relies on the formatter's layout (a function's braces stand
alone in column 0). Run from the repository root."""
import pathlib
import re
import sys

FILE_MAX, FUNCTION_MAX, LONG, LONG_SHARE, PARAMS_MAX = 800, 100, 60, 0.10, 8


def functions(lines):
    """(name, first line, length, parameter count) of each function."""
    start = None
    for i, line in enumerate(lines):
        if line == "{":
            head, j = "", i - 1
            while j >= 0 and lines[j] and not lines[j].startswith(("#", "}", "//", "/*", " */")):
                head = lines[j].strip() + " " + head
                if not lines[j].startswith(" "):
                    break
                j -= 1
            start = (i, head)
        elif line == "}" and start:
            m = re.search(r"(\w+)\s*\((.*)\)", start[1])
            if m:
                depth, n = 0, 1
                for c in m.group(2):
                    depth += c in "([{"
                    depth -= c in ")]}"
                    n += c == "," and depth == 0
                yield m.group(1), start[0] + 1, i - start[0] + 1, n
            start = None


def main():
    problems, code, code_long = [], 0, 0
    for room in ("proto", "kernels", "topology", "worker", "coordinator", "deploy"):
        for path in sorted(pathlib.Path(room).rglob("*.[ch]")):
            lines = path.read_text().splitlines()
            if len(lines) > FILE_MAX:
                problems.append(f"{path}: {len(lines)} lines, at most {FILE_MAX}")
            for name, at, length, n in functions(lines):
                code += length
                code_long += length if length > LONG else 0
                if length > FUNCTION_MAX:
                    problems.append(f"{path}:{at}: {name} has {length} lines, at most {FUNCTION_MAX}")
                if n > PARAMS_MAX:
                    problems.append(f"{path}:{at}: {name} has {n} parameters, at most {PARAMS_MAX}")
    share = code_long / code if code else 0
    if share > LONG_SHARE:
        problems.append(f"{share:.1%} of the code is in functions over {LONG} lines, at most {LONG_SHARE:.0%}")
    print("\n".join(problems) if problems
          else f"measures: {code} lines in functions, {share:.1%} of them in functions over {LONG} lines")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
