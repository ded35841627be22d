"""Real clients, and connections that no client should make: each gets a reply or an end."""

import gzip
import json
import re
import shutil
import socket
import subprocess
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import live
import servers

GOOD = {"size": 0.5, "weight": 100.0, "shop": "north"}
BODY = json.dumps({"rows": [GOOD]}).encode()
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
PATHS = ("/predict", "/labels", "/v2/models/flights/infer")


@pytest.fixture(scope="module", params=["fast_path=true", "fast_path=false"])
def server(request, bundles, tmp_path_factory):
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    root = live.workspace(tmp_path_factory.mktemp("clients"), at / "binary")
    changes = ["head_seconds=2", "max_connections=20", "access_log=all", "log_format=json"]
    with live.served(root, request.param, *changes) as found:
        yield found


def url(server, path="/predict"):
    return f"http://127.0.0.1:{server.port}{path}"


def java(tmp_path_factory):
    """The folder of the compiled client; skipped where no JDK is."""
    if not shutil.which("javac"):
        pytest.skip("javac is not installed: apt-get install default-jdk-headless")
    folder = tmp_path_factory.mktemp("java")
    source = Path(__file__).parents[1] / "support" / "Client.java"
    subprocess.run(["javac", "-d", folder, source], check=True, timeout=120)
    return folder


def test_javas_default_client(server, tmp_path_factory):
    """It sends `Upgrade: h2c` with its first request of a connection."""
    folder = java(tmp_path_factory)
    command = ["java", "-Xshare:auto", "-cp", folder, "Client", url(server), BODY.decode()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    for line in lines:
        assert line.startswith("200 HTTP_1_1 {") and '"probabilities"' in line


def test_curl(server, tmp_path):
    curl = servers.need("curl", "curl")
    (tmp_path / "body.gz").write_bytes(gzip.compress(BODY))
    kind = ["-H", "content-type: application/json"]
    for extra in (
        ["--http2", "-d", BODY.decode()],
        ["--http1.0", "-d", BODY.decode()],
        ["-H", "expect: 100-continue", "-d", BODY.decode()],
        ["-H", "transfer-encoding: chunked", "-d", BODY.decode()],
        ["-H", "content-encoding: gzip", "--data-binary", f"@{tmp_path / 'body.gz'}"],
    ):
        command = [curl, "-sS", "--max-time", "10", *kind, *extra, url(server)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert '"probabilities"' in done.stdout, (extra, done.stdout, done.stderr)


@pytest.mark.parametrize("path", PATHS)
def test_an_upgrade_is_ignored_and_the_body_is_read(server, path):
    """RFC 9110 7.8: a server may ignore it, and replies in the protocol of the request."""
    body = b"[]"  # refused by each of the routes, so that it was read
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
    head += b"Connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for parts in ([whole], [whole[:-1], whole[-1:]], [whole[:40], whole[40:]]):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
            for part in parts + parts:  # the connection stays usable
                line.sendall(part)
                time.sleep(0.05)
            reply = line.recv(4096)
            while reply.count(b"HTTP/1.1 4") < 2:
                reply += line.recv(4096)
            assert re.findall(rb"HTTP/1.1 (\d+)", reply) in ([b"422"] * 2, [b"400"] * 2)


def test_pythons_clients(server):
    with httpx.Client() as client:
        for _ in range(3):
            reply = client.post(url(server), json={"rows": [GOOD]})
            assert reply.status_code == 200 and "predictions" in reply.json()


def test_compressed_bodies_are_read_within_the_limits(server):
    for encoding, body in (
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
        ("deflate", zlib.compress(BODY)),
    ):
        status, reply = server.ask("POST", "/predict", body, Content_Encoding=encoding)
        assert status == 200, reply
    bomb = gzip.compress(b" " * 50_000_000)
    for body, expected in ((b"no gzip", 400), (gzip.compress(BODY)[:-9], 400), (bomb, 413)):
        assert server.ask("POST", "/predict", body, Content_Encoding="gzip")[0] == expected


def ends(line, seconds=6.0):
    """What came until the server ended the connection."""
    line.settimeout(seconds)
    received = b""
    try:
        while more := line.recv(4096):
            received += more
    except ConnectionResetError:
        pass
    return received


def test_a_head_that_never_ends_is_timed_out(server):
    with ThreadPoolExecutor() as clients:
        list(clients.map(lambda sent: never_ending(server, sent), (b"", b"P", HEAD, HEAD[:40])))


def never_ending(server, sent):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        line.sendall(sent)
        assert ends(line).startswith(b"HTTP/1.1 408") == bool(sent)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        line.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert line.recv(4096).startswith(b"HTTP/1.1 200")
        for i in range(15):  # a byte now and then does not keep it open
            try:
                line.sendall(HEAD[i : i + 1])
            except OSError:
                break
            time.sleep(0.2)
        assert b"HTTP/1.1 2" not in ends(line)


def test_connections_are_bounded_and_idle_ones_make_room(server):
    lines = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(25)]
    refused = 0
    for line in lines[20:]:
        refused += ends(line, 5).startswith((b"HTTP/1.1 503", b"HTTP/1.1 200"))
    for line in lines:
        line.close()
    assert refused >= 1
    until = time.monotonic() + 10
    while True:
        try:
            assert server.ask("POST", "/predict", {"rows": [GOOD]})[0] == 200
            break
        except (AssertionError, OSError, json.JSONDecodeError):
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_body_that_nobody_reads_does_not_hold_the_connection(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        line.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        assert line.recv(4096).startswith(b"HTTP/1.1 404")
        started = time.monotonic()
        while time.monotonic() - started < 10:
            try:
                line.sendall(b"x")
                time.sleep(0.2)
            except OSError:
                break
        assert time.monotonic() - started < 6


def test_requests_are_logged_with_time_address_and_level(bundles, tmp_path, tmp_path_factory):
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    root = live.workspace(tmp_path / "w", at / "binary")
    with live.served(root, "access_log=all", "log_format=json") as server:
        server.ask("POST", "/predict", {"rows": [GOOD]})
        server.ask("GET", "/nowhere")
        lines = [json.loads(line) for line in server.stop().splitlines() if line.startswith("{")]
    one, two = (line for line in lines if line["logger"] == "modelkeep.access")
    assert (one["level"], one["path"], one["status"]) == ("info", "/predict", 200)
    assert (two["level"], two["path"], two["status"]) == ("warning", "/nowhere", 404)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", one["time"])
    assert one["client"].startswith("127.0.0.1:") and one["ms"] > 0


def test_no_client_waits_for_ever_at_the_limit_of_files(bundles, tmp_path, tmp_path_factory):
    """300 half-open connections once silenced the server at its limit of file descriptors."""
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    root = live.workspace(tmp_path / "w", at / "binary")
    with live.served(root, "head_seconds=1") as server:
        import resource

        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (200, 200))
        lines = []
        for _ in range(300):
            try:
                lines.append(socket.create_connection(("127.0.0.1", server.port), timeout=1))
            except OSError:
                break
        until, status = time.monotonic() + 15, 0
        while status != 200:
            assert time.monotonic() < until
            try:
                status = server.ask("POST", "/predict", {"rows": [GOOD]})[0]
            except OSError:
                time.sleep(0.2)
        for line in lines:
            line.close()
