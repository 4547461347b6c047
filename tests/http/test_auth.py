"""H21, H23, H24, H32, C.1: keys, names, origins, and who may see what."""
import itertools
import time

from kit import CHAT, COMPLETIONS, USER, case, eq

KEY = ("--key", "sk-correct-horse", "--key", "sk-battery-staple")
BODY = {"messages": USER, "max_tokens": 1, "prompt": "x"}
PATHS = [("POST", CHAT), ("POST", COMPLETIONS), ("GET", "/v1/models"),
         ("GET", "/v1/models/mock/tiny-1"), ("GET", "/metrics"), ("GET", "/v1/cluster"),
         ("GET", "/nothing"), ("PUT", CHAT), ("POST", "/v1/chat/completions/"),
         ("POST", "//v1/chat/completions"), ("POST", "/v1/chat/completions?x=y")]


# Five wrong keys from an address in a second are too many: each wrong one comes from its own.
sources = (f"127.0.{i // 250 + 1}.{i % 250 + 1}" for i in itertools.count())


def ask(door, method, path, headers, source=None):
    h = {"Authorization": None, **headers}
    return door.request(method, path, BODY if method == "POST" else None, headers=h,
                        source=source or next(sources))


def rest():
    time.sleep(1.05)


WRONG = {"missing": {}, "wrong": {"Authorization": "Bearer sk-wrong"},
         "basic": {"Authorization": "Basic c2stY29ycmVjdC1ob3JzZTo="},
         "empty": {"Authorization": ""}, "bearer_only": {"Authorization": "Bearer"},
         "bearer_space": {"Authorization": "Bearer "},
         "extra_space": {"Authorization": "Bearer  sk-correct-horse"},
         "prefix": {"Authorization": "Bearer sk-correct-hors"},
         "longer": {"Authorization": "Bearer sk-correct-horse2"},
         "upper": {"Authorization": "Bearer SK-CORRECT-HORSE"},
         "no_scheme": {"Authorization": "sk-correct-horse"},
         "api_key_wrong": {"x-api-key": "sk-wrong"}, "api_key_empty": {"x-api-key": ""},
         "twice": {"Authorization": "Bearer sk-correct-horse",
                   "authorization": "Bearer sk-correct-horse"},
         "long": {"Authorization": "Bearer " + "x" * 30000}}

for _name, _headers in WRONG.items():
    def _run(door, headers=_headers):
        a = ask(door, "POST", CHAT, headers).refused(401, code="invalid_api_key")
        eq(a.headers["www-authenticate"], "Bearer")
    case("H21_" + _name, *KEY)(_run)


@case("H21_every_path", *KEY)
def _(door):
    for method, path in PATHS:
        ask(door, method, path, {}).refused(401)
        assert ask(door, method, path, {"x-api-key": "sk-battery-staple"}).status != 401, path


@case("C1_11_12_every_path_that_is_described", *KEY)
def _(door):
    # Without a key: liveness and the page for all; health for this machine, which this is.
    is_open = {"/", "/livez", "/readyz", "/health", "/v1/health", "/ping", "/version"}
    paths = ask(door, "GET", "/openapi.json", {"x-api-key": "sk-battery-staple"}).json["paths"]
    assert len(paths) > 20, paths
    for path, methods in paths.items():
        for method in methods:
            a = ask(door, method.upper(), path.replace("{id}", "mock/tiny-1"), {})
            eq(a.status == 401, path not in is_open, f"{method} {path}: {a.status}")


@case("H21_key_in_query", *KEY)
def _(door):
    ask(door, "POST", CHAT + "?api_key=sk-correct-horse&key=sk-correct-horse", {}).refused(401)


@case("C1_11_either_header", *KEY)
def _(door):
    for headers in ({"Authorization": "Bearer sk-correct-horse"},
                    {"authorization": "bearer sk-battery-staple"},
                    {"x-api-key": "sk-correct-horse"}, {"X-Api-Key": "sk-battery-staple"},
                    {"x-api-key": "sk-correct-horse", "Authorization": "Bearer sk-correct-horse"}):
        eq(ask(door, "POST", CHAT, headers).status, 200, str(headers))


@case("H21_before_the_body", *KEY)
def _(door):
    # Neither parsed nor waited for: the answer comes although the body never does.
    answers, closed = door.raw(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000000\r\n\r\n[[[[".encode(), timeout=2)
    eq(len(answers), 1)
    answers[0].refused(401)
    assert closed
    for kind in ("text/plain", "application/json"):
        door.request("POST", CHAT, b"{broken", headers={
            "Authorization": None, "Content-Type": kind}).refused(401)


@case("H21_five_wrong_in_a_second", *KEY)
def _(door):
    wrong, right, here = {"x-api-key": "sk-guess"}, {"x-api-key": "sk-correct-horse"}, "127.0.0.9"
    for _ in range(5):
        ask(door, "POST", CHAT, wrong, here).refused(401)
    a = ask(door, "POST", CHAT, wrong, here).refused(429, code="rate_limit_exceeded")
    eq(a.headers["retry-after"], "1")
    ask(door, "POST", CHAT, right, here).refused(429)
    eq(ask(door, "POST", CHAT, right, "127.0.0.10").status, 200)
    eq(door.request("GET", "/livez", source=here).status, 200)
    rest()
    eq(ask(door, "POST", CHAT, right, here).status, 200)


@case("H21_key_never_in_the_log")
def _(door):
    import kit
    d = kit.Door("--key", "sk-very-secret")
    ask(d, "POST", CHAT, {"x-api-key": "sk-very-secret"})
    ask(d, "POST", CHAT, {"x-api-key": "sk-nearly-secret"}).refused(401)
    text = d.close()
    assert "secret" not in text, text


@case("H32_open_and_guarded", *KEY)
def _(door):
    none = {"Authorization": None}
    eq(door.get("/livez", headers=none).json, {"status": "ok"})
    for path in ("/", "/livez", "/health", "/v1/health", "/readyz", "/ping", "/version"):
        eq(door.get(path, headers=none).status, 200, path)  # from this machine
    for path in ("/metrics", "/v1/cluster", "/v1/models"):
        door.get(path, headers=none).refused(401)
        eq(door.get(path).status, 200, path)
    ask(door, "GET", "/health", {"Authorization": "Bearer sk-wrong"}).refused(401)


@case("H32_without_keys")
def _(door):
    for path in ("/livez", "/health", "/v1/health", "/metrics", "/v1/cluster", "/v1/models"):
        eq(door.get(path).status, 200, path)


HOSTS = [("localhost", 200), ("localhost:1234", 200), ("LOCALHOST", 200), ("127.0.0.1", 200),
         ("127.0.0.1:80", 200), ("[::1]", 200), ("[::1]:30000", 200), ("box.lan", 200),
         ("box.lan:8080", 200), ("evil.example", 403), ("evil.example:8080", 403),
         ("2130706433", 403), ("0x7f000001", 403), ("127.1", 403), ("127.0.0.1.", 403),
         ("localhost.", 403), ("localhost.evil.example", 403), ("localhost:", 200),
         ("localhost:x", 403), ("localhost:123456", 403), ("[::1", 403), ("::1", 403),
         ("localhost@evil.example", 403), ("box.lan,evil", 403), ("0.0.0.0", 403), ("[::]", 403)]
for _host, _status in HOSTS:
    def _run(door, host=_host, status=_status):
        for method, path in PATHS + [("GET", "/livez"), ("GET", "/health"), ("GET", "/")]:
            a = door.request(method, path, BODY if method == "POST" else None,
                             headers={"Host": host})
            if status == 403:
                a.refused(403, code="host_not_allowed")
            else:
                assert a.status != 403, path
    case(f"H23_host_{_host}", "--host", "box.lan")(_run)


def cors(a):
    return {k: v for k, v in a.headers.items() if k.startswith("access-control")}


@case("H24_off_by_default")
def _(door):
    for origin in ("https://evil.example", "null", "http://localhost:3000"):
        h = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        eq(cors(door.request("OPTIONS", CHAT, headers=h)), {})
        eq(cors(door.get("/v1/models", headers=h)), {})
        eq(cors(door.request("POST", CHAT, b"{", headers=h)), {})


@case("H24_listed_origin", "--origin", "https://app.example", *KEY)
def _(door):
    h = {"Origin": "https://app.example"}
    a = door.request("OPTIONS", CHAT, headers={**h, "Authorization": None,
                                               "Access-Control-Request-Method": "POST"})
    eq(a.status, 204)
    eq(cors(a)["access-control-allow-origin"], "https://app.example")
    assert "authorization" in cors(a)["access-control-allow-headers"]
    a = door.post(CHAT, BODY, headers=h)
    eq((a.status, cors(a)["access-control-allow-origin"]), (200, "https://app.example"))
    eq(a.headers["vary"], "Origin")
    for origin in ("https://evil.example", "null", "https://app.example.evil.example"):
        eq(cors(door.post(CHAT, BODY, headers={"Origin": origin})), {})
        eq(cors(door.request("OPTIONS", CHAT, headers={"Origin": origin})), {})
