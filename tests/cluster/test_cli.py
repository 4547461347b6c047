"""The command line: exit codes, one-line errors, and what each command prints."""
import json
import os
import pathlib
import subprocess
import tempfile
import time

from cluster import PROGRAM, ROOT, SMOLLM2, Cluster, need, run

need(SMOLLM2)


def trireme(*args, timeout=120, **kw):
    return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, check=False, **kw)


def one_error(r, code, *words):
    lines = [line for line in r.stderr.splitlines() if line.startswith("error: ")]
    assert r.returncode == code, (r.returncode, r.stderr)
    assert len(lines) == 1 and len(lines[0]) <= 400, r.stderr
    for w in words:
        assert w in lines[0], (w, lines[0])


def test_usage_errors_are_2():
    assert trireme().returncode == 2
    one_error(trireme("row"), 2, "unknown command row")
    one_error(trireme("serve"), 2, "missing argument")
    one_error(trireme("serve", SMOLLM2, "--ctx", "many"), 2, "--ctx", "many")
    one_error(trireme("serve", SMOLLM2, "--frobnicate"), 2, "--frobnicate")
    for command in ("serve", "worker", "token", "trust", "status", "plan", "probe", "doctor", "bench", "chat"):
        r = trireme(command, "--help")
        assert r.returncode == 0 and r.stdout.startswith(f"trireme {command}"), r


def test_bad_models_are_78():
    with tempfile.TemporaryDirectory() as d:
        bad = pathlib.Path(d) / "bad\n\x1b[31m.gguf"
        good = SMOLLM2.read_bytes()[: 4 << 20]
        for name, data in (("empty", b""), ("short", good[:100]), ("magic", b"GGML" + good[4:]),
                           ("count", good[:8] + b"\xff" * 16 + good[24:]), ("cut", good)):
            bad.write_bytes(data)
            for command in ("serve", "plan", "bench"):
                r = trireme(command, bad)
                one_error(r, 78)
                assert "\x1b" not in r.stderr, name
        one_error(trireme("plan", d), 78)


def test_no_server_says_so():
    for command in ("status", "chat"):
        r = trireme(command, *(["hi"] if command == "chat" else []), "--url", "http://127.0.0.1:9")
        one_error(r, 69, "http://127.0.0.1:9")


def test_missing_key_file_is_said():
    one_error(trireme("status", "--api-key-file", "/nowhere/key"), 78, "/nowhere/key")


def test_store_of_copies():
    with tempfile.TemporaryDirectory() as d:
        store = pathlib.Path(d)
        names = ["ab" + "0" * 62, "ab" + "1" * 62, "ab" + "0" * 62 + ".part", "cd" + "0" * 62]
        for age, name in enumerate(names):
            (store / name).mkdir()
            (store / name / "m.gguf").write_bytes(b"x" * 5000)
            os.utime(store / name, (1e9 - age, 1e9 - age))

        def left(*args):
            r = trireme("store", "--store", d, "--json", *args)
            assert r.returncode == 0, r.stderr
            return [c["hash"][:3] + ("" if c["whole"] else " in parts") for c in json.loads(r.stdout)["copies"]]

        assert left() == ["cd0", "ab0 in parts", "ab1", "ab0"]
        one_error(trireme("store", "--store", d, "--remove", "ab"), 78, "several")
        one_error(trireme("store", "--store", d, "--remove", "ef"), 66, "no copy")
        assert left("--remove", "ab0") == ["cd0", "ab1"]
        assert left("--limit", 9000) == ["ab1"]


def test_public_bind_needs_key_and_tls():
    for listen in ("0.0.0.0:0", "[::]:0"):
        one_error(trireme("serve", SMOLLM2, "--listen", listen, timeout=20), 78, "TLS")
    with tempfile.TemporaryDirectory() as d:
        key = pathlib.Path(d) / "keys"
        key.write_text("secret\n")
        os.chmod(key, 0o644)
        one_error(trireme("serve", SMOLLM2, "--api-key-file", key, timeout=20), 78, "chmod")
        key.write_text("# keys\n\n  secret-1 name=anna rate=5/min # hers\nsecret-2 rate=5\n")
        os.chmod(key, 0o600)
        r = trireme("serve", SMOLLM2, "--listen", "127.0.0.1:0", "--api-key-file", key, timeout=60)
        assert r.returncode == 78 and "API key number 2: word 2" in r.stderr, r
        assert "secret" not in r.stderr, r


def test_ledger_that_cannot_be_written():
    r = trireme("serve", SMOLLM2, "--listen", "127.0.0.1:0", "--ledger", "/no/such/file", timeout=60)
    assert r.returncode == 78 and "/no/such/file" in r.stderr, r


def test_plan():
    r = trireme("plan", SMOLLM2, "--cluster", ROOT / "deploy/clusters/two-cpu-boxes.yaml")
    assert r.returncode == 0 and "alone" in r.stdout and "stage 0" in r.stdout and "split" in r.stdout, r
    plan = json.loads(trireme("plan", SMOLLM2, "--cluster", ROOT / "deploy/clusters/two-cpu-boxes.yaml",
                              "--stages", "2", "--json").stdout)
    layers = [s["layers"] for s in plan["plans"][0]["lanes"][0]["stages"]]
    assert layers[0][0] == 0 and layers[0][1] == layers[1][0] and layers[1][1] == 30, plan


def test_probe():
    with tempfile.TemporaryDirectory() as d:
        env = {**os.environ, "XDG_STATE_HOME": d}
        saved = pathlib.Path(d) / "here.yaml"
        r = trireme("probe", SMOLLM2, "--json", "--save", saved, env=env)
        here = json.loads(r.stdout)
        assert here["cpu"]["n_usable"] >= 1 and here["mem"]["available_bytes"] > 0, r.stdout
        assert here["measured"]["read_bytes_per_s"] > 0 and not here["measured"]["is_kept"]
        assert here["disk"]["read_bytes"] > 0 and here["disk"]["mount"].startswith("/")
        assert here["gpus"] or "no GPU" in here["no_gpu"], r.stdout
        # Measured once; what is saved is what plan reads; a word for people.
        again = json.loads(trireme("probe", "--json", env=env).stdout)
        assert again["measured"] == {**here["measured"], "is_kept": True}, again
        assert "alone" in trireme("plan", SMOLLM2, "--cluster", saved).stdout
        text = trireme("probe", env=env).stdout
        assert "memory" in text and "reads" in text and "gpu" in text, text
        one_error(trireme("probe", pathlib.Path(d) / "none", env=env), 66, "none")


def findings(r):
    """Those of doctor --json: area -> [(level, said)]; what is bad makes the exit code 1."""
    found = {}
    for f in json.loads(r.stdout)["findings"]:
        assert f["level"] in ("ok", "warn", "bad") and f["said"], f
        found.setdefault(f["area"], []).append((f["level"], f["said"]))
    assert r.returncode == any(level == "bad" for f in found.values() for level, _ in f), r
    return found


def test_doctor():
    with tempfile.TemporaryDirectory() as d:
        state = pathlib.Path(d) / "state"
        f = findings(trireme("doctor", SMOLLM2, "--kernels", "--json", "--state", state))
        assert {"memory", "threads", "kernels", "gpu", "shm", "files", "clock", "state", "ucx", "model", "weights"} <= set(f), f
        assert f["state"][0][0] == "ok" and "will be made" in f["state"][0][1] and not state.exists(), f
        assert any("Q4_1" in said and "packed" in said for _, said in f["weights"]), f
        assert f["model"][0][1].count("Q4_1") and "needs" in f["model"][1][1], f
        text = trireme("doctor", "--state", state).stdout.splitlines()
        assert all(line.split()[0] in ("ok", "warn", "bad") for line in text[:-1]) and "findings" in text[-1], text
        # What is bad is said, with a remedy, and the exit code tells.
        state.mkdir(mode=0o755)
        state.chmod(0o755)
        bad = pathlib.Path(d) / "bad.gguf"
        bad.write_bytes(SMOLLM2.read_bytes()[:5000])
        r = trireme("doctor", bad, "--json", "--state", state, "--devices", "none0", "--url", "http://127.0.0.1:9")
        f = findings(r)
        for area in ("state", "ucx", "model", "server"):
            assert f[area][0][0] == "bad", (area, f)
        assert all(x.get("remedy") for x in json.loads(r.stdout)["findings"] if x["level"] == "bad"), r.stdout
        assert trireme("doctor", "--state", state).returncode == 1
        # More than there is.
        f = findings(trireme("doctor", SMOLLM2, "--ctx", 1 << 24, "--json", "--state", pathlib.Path(d) / "new"))
        assert f["model"][1][0] == "warn" and "GiB" in f["model"][1][1], f
        one_error(trireme("doctor", "--kernels"), 2, "--kernels")


def test_bench():
    r = trireme("bench", SMOLLM2, "--batch", "1,2", "--prompt", "32", "--tokens", "4", "--json")
    rows = json.loads(r.stdout)["rows"]
    assert [x["batch"] for x in rows] == [1, 2] and all(x["decode_tok_s"] > 0 for x in rows), r.stdout
    r = trireme("bench", SMOLLM2, "--batch", "1", "--prompt", "32", "--tokens", "4")
    assert "of read bandwidth" in r.stdout


def test_status_and_chat():
    with Cluster(SMOLLM2, local=2) as c:
        url = f"http://127.0.0.1:{c.port}"
        r = trireme("chat", "What is the capital of Japan? Answer in one sentence.", "--greedy", "--max-tokens", "20",
                    "--url", url)
        assert r.returncode == 0 and "Tokyo" in r.stdout, r
        r = trireme("status", "--url", url)
        for word in ("lane 0: ready", "stage 0", "stage 1", "local-1", "links", "kv"):
            assert word in r.stdout, (word, r.stdout)
        status = json.loads(trireme("status", "--json", "--url", url).stdout)
        assert status["state"] == "ready"
        f = findings(trireme("doctor", "--json", "--state", c.dir / "none", "--url", url))
        assert [level for level, _ in f["server"]] == ["ok", "ok"] and "as this one" in f["server"][0][1], f
        # Both ways of the one pair, which needs no measuring; all of it kept as a cluster file.
        assert [p["state"] for p in status["pairs"]] == ["one process"] * 2, status["pairs"]
        saved = c.dir / "cluster.yaml"
        assert trireme("status", "--url", url, "--save-cluster", saved).returncode == 0
        plan = json.loads(trireme("plan", SMOLLM2, "--cluster", saved, "--stages", "2", "--json").stdout)
        assert len(plan["plans"][0]["lanes"][0]["stages"]) == 2, plan


def test_tokens_are_secret_and_single_use():
    with tempfile.TemporaryDirectory() as d:
        state = pathlib.Path(d) / "state"
        r = trireme("token", "new", "--state", state)
        assert r.returncode == 0 and r.stdout.startswith("trireme1."), r
        again = trireme("token", "new", "--state", state, "--out", state / "t")
        assert again.returncode == 0 and not again.stdout
        assert (state / "t").stat().st_mode & 0o777 == 0o600 and state.stat().st_mode & 0o777 == 0o700
        for f in state.rglob("*"):
            if f.is_file():
                assert f.stat().st_mode & 0o077 == 0, f
        secret = r.stdout.strip().split(".")[2]
        assert not any(secret in f.name or secret.encode() in f.read_bytes()
                       for f in state.rglob("*") if f.is_file()), "the token's secret lies in the state folder"
        (state / "ca.key").chmod(0o644)
        one_error(trireme("token", "new", "--state", state), 78, "chmod")


def test_worker_without_a_valid_token_is_refused():
    with Cluster(SMOLLM2, workers=["a"]) as c:
        for token in ("", "nonsense", "trireme1." + "0" * 64 + "." + "0" * 32):
            f = c.dir / "bad-token"
            f.write_text(token)
            f.chmod(0o600)
            r = subprocess.Popen([PROGRAM, "worker", "--join", f"127.0.0.1:{c.join_port}", "--token-file", f, "--name", "evil",
                                  "--state", c.dir / "evil", "--model", SMOLLM2, "--no-measure"], stderr=subprocess.PIPE, text=True)
            try:
                r.wait(3)
                assert r.returncode != 0
            except subprocess.TimeoutExpired:
                r.terminate()
                r.wait()
            assert "evil" not in [w["name"] for w in c.status()["workers"]]
        # A used token is worth nothing to another worker.
        r = subprocess.Popen([PROGRAM, "worker", "--join", f"127.0.0.1:{c.join_port}", "--token-file", c.dir / "token-a", "--name",
                              "evil", "--state", c.dir / "evil", "--model", SMOLLM2, "--no-measure"], stderr=subprocess.PIPE, text=True)
        try:
            r.wait(3)
        except subprocess.TimeoutExpired:
            r.terminate()
            r.wait()
        assert "evil" not in [w["name"] for w in c.status()["workers"]]
        assert len(c.complete([1, 2, 3], max_tokens=2)["choices"]) == 1


def wait_for(what, seconds, *why):
    deadline = time.time() + seconds
    while not what():
        assert time.time() < deadline, why
        time.sleep(0.1)


def test_certificates_are_renewed_and_revoked():
    with Cluster(SMOLLM2, workers=["a"], serve=["--cert-life", "6"]) as c:
        state, pem, log = c.dir / "state", c.dir / "worker-a" / "worker.pem", c.dir / "worker-a.log"

        def trust(*args):
            return trireme("trust", *args, "--state", state)

        def known():
            return json.loads(trust("list", "--json").stdout)["workers"]

        first, serial = pem.read_bytes(), known()[0]["serial"]
        before = c.status()["workers"][0]
        assert before["certificate_s"] <= 6, before
        # It gets another one, over the connection that it has.
        wait_for(lambda: pem.read_bytes() != first, 60, log.read_text()[-2000:])
        wait_for(lambda: known()[0]["serial"] != serial, 10)
        after = c.status()["workers"][0]
        assert after["pid"] == before["pid"] and after["connected_s"] > before["connected_s"], (before, after)
        assert "got another certificate" in log.read_text()
        assert "certificate: 0 days left" in trireme("status", "--url", f"http://127.0.0.1:{c.port}").stdout
        assert [w["state"] for w in known()] == ["valid"] and pem.stat().st_mode & 0o777 == 0o600
        assert trust("list").stdout.startswith("a ")
        # Revoked: it is out, and is told why.
        assert "is revoked" in trust("revoke", "a").stdout
        wait_for(lambda: not c.status()["workers"], 20)
        wait_for(lambda: "has revoked this worker" in log.read_text(), 20, log.read_text()[-2000:])
        assert "already" in trust("revoke", "a").stdout and known()[0]["state"] == "revoked"
        assert "may come back" in trust("restore", "a").stdout and known()[0]["state"] != "revoked"
        one_error(trust("revoke", "../a"), 65)
        one_error(trireme("trust", "list", "a", "b"), 2)
        one_error(trireme("trust", "pardon", "a"), 2, "restore")
        one_error(trireme("trust", "revoke"), 2)
        one_error(trireme("trust", "revoke", "a", "--state", c.dir / "worker-a"), 78, "coordinator")


run([test_usage_errors_are_2, test_bad_models_are_78, test_no_server_says_so, test_missing_key_file_is_said, test_store_of_copies,
     test_public_bind_needs_key_and_tls,
     test_ledger_that_cannot_be_written, test_plan,
     test_probe, test_doctor, test_bench, test_status_and_chat, test_tokens_are_secret_and_single_use,
     test_worker_without_a_valid_token_is_refused, test_certificates_are_renewed_and_revoked])
