"""Who may call what: docs/serving.md has the same table."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

import live
from modelkeep.serving.access import Access, Tokens
from modelkeep.serving.requests import ValidationError
from modelkeep.serving.settings import ServerError, Settings

GOOD = {"size": 0.5, "weight": 100.0, "shop": "north"}
LABELS = {"labels": [{"id": "a", "label": 1}]}
REFUSED = (401, 'Bearer realm="modelkeep"')
JSON = {b"content-type": b"application/json"}


@pytest.fixture
def root(bundles, tmp_path, tmp_path_factory):
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    return live.workspace(tmp_path / "w", at / "binary")


def allowed(access, writes, token=None):
    headers = JSON | ({b"authorization": token} if token else {})
    try:
        access.check(headers, writes=writes)
    except ValidationError as error:
        return (error.status, error.headers["www-authenticate"][:24]) != REFUSED
    return True


@pytest.mark.parametrize(
    ("policy", "host", "tokens", "reads", "writes", "with_token"),
    [
        ("labels", "127.0.0.1", "", True, True, True),
        ("labels", "127.0.0.1", "one", True, False, True),
        ("labels", "0.0.0.0", "", True, False, False),
        ("labels", "::", "one", True, False, True),
        ("all", "127.0.0.1", "one", False, False, True),
        ("none", "0.0.0.0", "one", True, True, True),
    ],
)
def test_the_table_of_the_docs(policy, host, tokens, reads, writes, with_token):
    access = Access(policy, host, Tokens({"MODELKEEP_TOKEN": tokens}))
    assert (allowed(access, False), allowed(access, True)) == (reads, writes)
    assert allowed(access, True, b"Bearer one") == with_token


def test_the_scheme_has_any_case_and_there_may_be_several_tokens():
    access = Access("labels", "127.0.0.1", Tokens({"MODELKEEP_TOKEN": "old, new"}))
    for header in (b"Bearer old", b"bearer new", b"BEARER  new "):
        assert allowed(access, True, header)
    for header in (
        b"Basic old",
        b"Bearer ol",
        b"Bearer",
        b"old",
        b"Bearer old, new",
        b"Bearer \xff",
    ):
        assert not allowed(access, True, header)


def test_policy_all_without_a_token_does_not_start():
    with pytest.raises(ServerError, match="auth: all needs a token: set MODELKEEP_TOKEN"):
        Access("all", "127.0.0.1", Tokens({}))
    with pytest.raises(ServerError, match="MODELKEEP_TOKEN_FILE: .* cannot be read"):
        Tokens({"MODELKEEP_TOKEN_FILE": "/nowhere/tokens"})


@pytest.mark.parametrize("fast", ["true", "false"])
def test_tokens_are_replaced_without_a_restart(root, tmp_path, fast):
    """Under policy `all`, /predict too: its fast path must not remember a head of before."""
    path = tmp_path / "tokens"
    path.write_text("old\n")

    def statuses(server):
        return [
            server.ask("POST", "/predict", {"rows": [GOOD]}, Authorization=f"bearer {token}")[0]
            for token in ("old", "new", "old", "new")
        ]

    changes = ("auth=all", f"fast_path={fast}")
    with live.served(root, *changes, MODELKEEP_TOKEN_FILE=str(path)) as server:
        for path_ in ("/", "/metrics", "/model", "/openapi.json", "/v2/models/flights"):
            status, _, headers = server.raw("GET", path_)
            assert status == 401 and headers["www-authenticate"] == 'Bearer realm="modelkeep"'
        for path_ in ("/health/live", "/health/ready", "/v2/health/ready"):
            assert server.ask("GET", path_)[0] == 200
        assert statuses(server) == [200, 401, 200, 401]
        for text, expected in (("old\nnew\n", [200] * 4), ("new\n", [401, 200, 401, 200])):
            other = tmp_path / "other"
            other.write_text(text)
            os.replace(other, path)
            until = time.monotonic() + 20
            while statuses(server) != expected:
                assert time.monotonic() < until
                time.sleep(0.1)
        path.unlink()  # the tokens of before stay
        time.sleep(0.6)
        assert statuses(server) == [401, 200, 401, 200]


def test_errors_that_tell_nothing_of_the_schema(root):
    rows = [GOOD | {"size": "x"}, GOOD | {"shop": "moon"}, GOOD | {"size": 1e300}, {"sise": 1}]
    with live.served(root, "errors=brief") as server:
        replies = [server.raw("POST", "/predict", {"rows": rows})]
        replies += [server.raw("POST", "/predict", {"rows": [row]}) for row in rows]
        replies += [server.raw("POST", "/predict", b"{"), server.raw("POST", "/labels", LABELS)]
        tensor = {"name": "sise", "shape": [1], "datatype": "FP64", "data": [1]}
        replies.append(server.raw("POST", "/v2/models/flights/infer", {"inputs": [tensor]}))
        assert [status for status, _, _ in replies] == [200, 422, 200, 422, 422, 400, 200, 422]
        for _, body, _ in replies:
            assert not any(name in body for name in (b"size", b"weight", b"shop", b"training"))
        first = json.loads(replies[0][1])["predictions"]
        assert first[0]["error"] == {"place": "$.rows[0]", "message": "is not valid"}
        assert "size" in server.stop()  # the log of the server says more


def test_a_port_that_is_in_use_is_told_with_its_remedy(root):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        for port, sentence in (
            (taken, f"port {taken} of 127.0.0.1 is in use; end the process"),
            (70_000, "port: 70000 is not between 0 (a free one) and 65535"),
        ):
            command = [sys.executable, "-m", "modelkeep", "serve", "-p", f"port={port}"]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
            assert done.returncode == 2 and sentence in done.stderr
            assert "Traceback" not in done.stderr


def test_settings_are_checked_at_once():
    with pytest.raises(ServerError, match=r"auth: 'some' is not one of .*; max_rows: 0 must be"):
        Settings(auth="some", max_rows=0)


def test_a_setting_of_before_is_told_its_new_name(root):
    command = [sys.executable, "-m", "modelkeep", "serve", "-p", "unlogged=serve"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "`unlogged` is renamed to `on_log_failure`" in done.stderr
