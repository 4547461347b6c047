#!/usr/bin/env python3
"""The clients that people use, from PyPI, against two workers and a real model: every script of clients/ is one client.
test_clients.py [SUBSTRING,..]. A client that cannot be installed here (no network, no Python that is new enough) is said to be
SKIPPED. opencode, Claude Code and Codex are no Python packages: their wire is the openai and anthropic clients' here, and
their particulars are cases of tests/http."""
import os
import pathlib
import subprocess
import sys
import time

from cluster import FIXTURES, ROOT, SMOLLM2, Cluster, need, skip

need(SMOLLM2, FIXTURES / "real")
HERE = pathlib.Path(__file__).resolve().parent / "clients"
VENVS = ROOT / "build" / "clients"
INSTALL_S = 240  # for all of them together
# Folder of a virtual environment, the oldest Python it can have, what it holds, and the scripts that run there.
GROUPS = [
    ("main", "3.10", ["openai", "anthropic", "litellm", "langchain-openai", "instructor", "pydantic-ai-slim[openai]"],
     ["openai", "anthropic", "litellm", "langchain", "instructor", "pydantic_ai"]),
    ("vibe", "3.12", ["mistral-vibe"], ["vibe"]),
    ("openhands", "3.12", ["openhands-sdk"], ["openhands"]),
]


def call(*command, until):
    """The last line of what it says, or None if all is well."""
    try:
        r = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False,
                           timeout=max(1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "it takes too long"
    except OSError as e:
        return str(e)
    return None if r.returncode == 0 else ((r.stderr or r.stdout).strip().splitlines() or ["failed"])[-1].strip()


def uv(until):
    """The installer, which finds versions that fit together in seconds; None: there is none."""
    venv = VENVS / "uv"
    program = venv / "bin" / "uv"
    if program.exists():
        return program
    why = call(sys.executable, "-m", "venv", venv, until=until) or call(venv / "bin" / "pip", "install", "-q", "uv", until=until)
    if why:
        print(f"the installer cannot be installed: {why}")
    return None if why else program


def interpreter(oldest):
    """One that is new enough and runs, or None."""
    for name in (sys.executable, "python3.14", "python3.13", "python3.12"):
        test = f"import sys; sys.exit(sys.version_info < ({oldest.replace('.', ', ')}))"
        if call(name, "-c", test, until=time.monotonic() + 20) is None:
            return name
    return None


def python_of(group, installer, until):
    """The Python of a group's environment, made if need be; None, and why in a line, where that cannot be."""
    name, oldest, packages, _ = group
    venv = VENVS / name
    python, mark = venv / "bin" / "python", venv / "installed"
    if mark.exists() and mark.read_text() == " ".join(packages):
        return python
    if not installer:
        return None
    begin, base = time.monotonic(), interpreter(oldest)
    why = None if base else f"no Python {oldest} or newer is here"
    why = why or call(base, "-m", "venv", "--clear", venv, until=until) or \
        call(installer, "pip", "install", "-q", "--python", python, *packages, until=until)
    if why:
        print(f"SKIPPED: {' '.join(packages)}: {why}", flush=True)
        return None
    mark.write_text(" ".join(packages))
    print(f"installed {' '.join(packages)} in {time.monotonic() - begin:.0f} s", flush=True)
    return python


def run_client(python, name, cluster, model):
    begin = time.monotonic()
    env = {**os.environ, "TRIREME_FIXTURES": str(FIXTURES.resolve()), "HOME": str(cluster.dir),
           "PYTHONPYCACHEPREFIX": str(VENVS / "pyc")}
    command = [python, HERE / f"{name}_client.py", f"http://127.0.0.1:{cluster.port}", model]
    try:
        r = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, check=False, timeout=200)
        text, good = r.stdout, r.returncode == 0
        if not good:
            text += r.stderr[-4000:]
    except subprocess.TimeoutExpired as e:
        text, good = (e.stdout or b"").decode() + "it takes too long", False
    print(f"== {name}: {'ok' if good else 'FAILED'}, {time.monotonic() - begin:.1f} s\n{text.rstrip()}", flush=True)
    return good


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    groups = [(*g[:3], [n for n in g[3] if any(w in n for w in wanted.split(","))]) for g in GROUPS]
    groups = [g for g in groups if g[3]]
    VENVS.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + INSTALL_S
    ready = all((VENVS / g[0] / "installed").exists() for g in groups)
    installer = None if ready else uv(until)
    pythons = [python_of(g, installer, until) for g in groups]
    if not any(pythons):
        skip("no client can be installed")
    failed = 0
    with Cluster(SMOLLM2, workers=["a", "b"]) as cluster:
        model = cluster.status()["model"]["id"] if "model" in cluster.status() else SMOLLM2.stem
        for python, (_, _, _, names) in zip(pythons, groups):
            for name in names if python else []:
                failed += not run_client(python, name, cluster, model)
        assert not failed, f"{failed} clients failed"


if __name__ == "__main__":
    main()
