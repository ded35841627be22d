"""Whatever is sent: an answer below 500, the process alive, and good rows answered as before."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hostile
import live

PATHS = ("/predict", "/labels", "/model", "/v2/models/flights/infer")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,unsupported_method,"
    "response_schema_conformance,response_headers_conformance,negative_data_rejection"
)
GENERATED = int(os.environ.get("MODELKEEP_GENERATED", "12"))  # examples an operation


@pytest.fixture(scope="module")
def server(bundles, tmp_path_factory):
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    with live.served(live.workspace(tmp_path_factory.mktemp("hostile"), at / "binary")) as found:
        yield found


@pytest.fixture(autouse=True)
def unharmed(server):
    """After each test the server answers a good row as it did before."""
    good = server.ask("POST", "/predict", hostile.rows())[1]["predictions"][0]["probabilities"]
    yield
    status, told = server.ask("POST", "/predict", hostile.rows())
    assert status == 200 and told["predictions"][0]["probabilities"] == good
    assert server.process.poll() is None
    assert (
        sum(v for k, v in server.metrics().items() if re.search(r"requests_total.*code=5", k)) == 0
    )


@pytest.mark.parametrize("path", PATHS)
def test_hostile_bodies(server, path):
    assert len(hostile.BODIES) >= 100
    for body in hostile.BODIES:
        status, text, headers = server.raw("POST", path, body)
        assert status < 500, (path, body[:100], text)
        assert headers["content-type"] == "application/json"
        if status != 200:
            assert (
                b'"error"' in text and b"Traceback" not in text and b"modelkeep" not in text.lower()
            )


def test_hostile_heads(server):
    good = hostile.rows()
    heads = [
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"
        + good,
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(20_000)) + b"\r\n",
        b"GET /%00%ff%2e%2e HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Type: \xff\xfe\r\n\r\n",
    ]
    import socket

    for head in heads:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as wire:
            wire.settimeout(1)
            try:
                wire.sendall(head)
                said = wire.recv(4096)
            except OSError:  # it was cut off, or left to wait
                continue
            assert not re.match(rb"HTTP/1.1 5", said), (head[:80], said)


def test_generated_requests(server, tmp_path):
    """Schemathesis reads the OpenAPI document and sends what fits it, and what does not."""
    schema = f"http://127.0.0.1:{server.port}/openapi.json"
    command = [
        str(Path(sys.executable).with_name("st")),
        "run",
        schema,
        f"--checks={CHECKS}",
    ]
    command += [f"--max-examples={GENERATED}", "--seed=0", "--mode=all", "--no-color"]
    command += ["--suppress-health-check=all", "--exclude-path=/metrics"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    sent = {k: v for k, v in server.metrics().items() if "requests_total" in k and v}
    print(f"{sum(sent.values()):,.0f} requests: {sent}")
    assert sum(v for k, v in sent.items() if "predict" in k) >= GENERATED
    assert not [k for k in sent if "code=5" in k], sent
