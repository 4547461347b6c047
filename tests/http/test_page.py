"""The status page at "/": who gets it, what it may load, and that it holds nothing from elsewhere."""
import base64
import hashlib
import re

from kit import case, eq

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, never fetched


def page(door, **headers):
    a = door.get("/", headers={**HTML, **headers})
    eq((a.status, a.headers["content-type"]), (200, "text/html; charset=utf-8"))
    return a


def between(text, open_mark, close_mark):
    eq((text.count(open_mark), text.count(close_mark)), (1, 1), f"{open_mark} {close_mark}")
    return text[text.index(open_mark) + len(open_mark):text.index(close_mark)]


def source(text):
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@case("page_is_for_browsers_only")
def _(door):
    page(door)
    for accept in (None, "*/*", "application/json", "text/event-stream"):
        a = door.get("/", headers={"Accept": accept})
        eq((a.status, a.headers["content-type"]), (200, "application/json"), accept)
        eq(a.json, {"name": "trireme", "status": "ok"})
        assert "content-security-policy" not in a.headers, a.headers
        eq(a.headers["vary"], "Accept")
    a = door.request("HEAD", "/")
    eq((a.status, a.headers["content-type"], a.body), (200, "application/json", b""))
    a = door.request("HEAD", "/", headers=HTML)
    eq((a.headers["content-type"], a.body), ("text/html; charset=utf-8", b""))
    door.post("/", {}).refused(405)


@case("page_runs_only_what_it_brings")
def _(door):
    a = page(door)
    text = a.body.decode()
    policy = dict(part.split(" ", 1) for part in a.headers["content-security-policy"].split("; "))
    eq(policy, {
        "default-src": "'none'", "connect-src": "'self'", "img-src": "data:",
        "script-src": source(between(text, "<script>", "</script>")),
        "style-src": source(between(text, "<style>", "</style>")),
        "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"})
    eq(a.headers["x-content-type-options"], "nosniff")
    eq(a.headers["referrer-policy"], "no-referrer")
    eq(a.headers["vary"], "Accept")


@case("page_holds_nothing_from_elsewhere")
def _(door):
    text = page(door).body.decode()
    eq(set(re.findall(r"[a-z]+://[^\s\"'<>]*", text)), {NAMESPACE}, "addresses")
    for pattern in (r"\ssrc=", r"@import", r"url\(", r"<link (?!rel=\"icon\" href=\"data:)", r"\son[a-z]+=",
                    r"\sstyle=", r"innerHTML", r"outerHTML", r"insertAdjacent", r"document\.write",
                    r"\beval\b", r"localStorage", r"document\.cookie"):
        assert not re.search(pattern, text), pattern
    eq(re.findall(r"fetch\(([^,)]*)", text), ["'v1/cluster'"], "what it asks for")
    assert text.rstrip().endswith("</html>"), "cut off"


@case("page_is_open_its_figures_are_not", "--key", "secret-key")
def _(door):
    assert b"secret-key" not in page(door, Authorization=None).body
    door.get("/v1/cluster", headers={"Authorization": None}).refused(401, code="invalid_api_key")
    eq(door.get("/v1/cluster").status, 200)
