"""H18, H19: slow senders, and too many of them. Deadlines are shortened; the ratio is what counts."""
import socket
import time

from kit import CHAT, case, eq, within

OPTIONS = ("--header-ms", "1000", "--body-ms", "1500")
HEAD = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000\r\n\r\n").encode()


def drip(s, data, limit):
    """Sends a byte every 50 ms until the server closes; how long that took, and what it said."""
    start = time.monotonic()
    s.settimeout(0.05)
    said = b""
    for b in data:
        try:
            s.send(bytes([b]))
        except OSError:
            pass
        try:
            part = s.recv(4096)
            if not part:
                return time.monotonic() - start, said
            said += part
        except TimeoutError:
            pass
        except OSError:
            return time.monotonic() - start, said
        assert time.monotonic() - start < limit, "never closed"
    raise AssertionError("never closed")


@case("H18_header_drip", *OPTIONS)
def _(door):
    s = door.connect()
    took, said = drip(s, b"GET /livez HTTP/1.1\r\nX: " + b"y" * 1000, 3)
    assert 0.9 < took < 1.6, took
    assert said.startswith(b"HTTP/1.1 408 ") and b'"timeout"' in said, said
    s.close()


@case("H18_silent_connect", *OPTIONS)
def _(door):
    s = door.connect()
    start = time.monotonic()
    while s.recv(4096):
        pass
    assert 0.9 < time.monotonic() - start < 1.6
    s.close()


@case("H18_body_drip", *OPTIONS)
def _(door):
    s = door.connect()
    s.sendall(HEAD)
    took, said = drip(s, b"x" * 1000, 4)
    assert 1.4 < took < 2.2, took
    assert said.startswith(b"HTTP/1.1 408 "), said
    s.close()


@case("H18_drip_on_a_kept_connection", *OPTIONS)
def _(door):
    # The second request's deadline begins with its first byte, not with its first line.
    s = door.connect()
    s.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200 OK" in s.recv(4096)
    time.sleep(0.3)
    took, _ = drip(s, b"GET /livez HTTP/1.1\r\nX: " + b"y" * 1000, 4)
    assert took < 2.9, took
    s.close()


@case("H18_chunk_that_never_ends", *OPTIONS)
def _(door):
    s = door.connect()
    s.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              "Transfer-Encoding: chunked\r\n\r\n".encode())
    took, _ = drip(s, b"1\r\n \r\n" * 300, 4)
    assert took < 2.2, took
    s.close()


@case("H18_body_that_keeps_coming", *OPTIONS)
def _(door):
    # 2 MB in 4 s is slow, but no attack.
    size = 2 << 20
    s = door.connect()
    s.sendall(HEAD.replace(b"1000", b"%d" % size))
    for _ in range(40):
        s.sendall(b" " * (size // 40))
        time.sleep(0.1)
    s.sendall(b" " * (size % 40))
    assert s.recv(4096).startswith(b"HTTP/1.1 400 "), "cut off"  # nothing but spaces
    s.close()


@case("H18_400_at_once", *OPTIONS)
def _(door):
    socks = []
    for i in range(400):
        s = door.connect()
        s.sendall(HEAD if i % 2 else b"GET / HTTP/1.1\r\nX: ")
        socks.append(s)
    times = []
    for _ in range(20):
        start = time.monotonic()
        door.good()
        times.append(time.monotonic() - start)
    assert max(times) < 0.25, times
    within(4, "all closed", lambda: door.metric("trireme_http_connections") <= 1)
    for s in socks:
        s.close()


@case("H19_more_than_the_limit", "--max-connections", "20", "--header-ms", "1000")
def _(door):
    socks = [door.connect() for _ in range(40)]
    refused = 0
    for s in socks:
        s.settimeout(0.2)
        try:
            refused += s.recv(100) == b""
        except ConnectionResetError:
            refused += 1
        except TimeoutError:
            pass
    eq(refused, 20)
    within(3, "recovers", lambda: attempt(door))
    for s in socks:
        s.close()


def attempt(door):
    try:
        return door.get("/livez").status == 200
    except (OSError, AttributeError):
        return False


def other_address():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("198.51.100.1", 9))
        return s.getsockname()[0]
    except OSError:
        return None
    finally:
        s.close()


@case("H19_per_address_is_not_for_loopback", "--max-per-address", "3")
def _(door):
    socks = [door.connect() for _ in range(10)]
    door.good()
    for s in socks:
        s.close()
