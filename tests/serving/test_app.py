import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

import live
import synthetic
from modelkeep.core import files
from modelkeep.predictions import log
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role

GOOD = {"size": 0.5, "weight": 100.0, "shop": "north"}
SWAPS = int(os.environ.get("MODELKEEP_SWAPS", "10"))


@pytest.fixture(scope="session")
def folders(bundles, tmp_path_factory):
    """Where the bundle of each task lies."""
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    return {task: at / task for task in synthetic.LABELS}


@pytest.fixture(scope="module")
def server(folders, tmp_path_factory):
    root = live.workspace(tmp_path_factory.mktemp("live"), folders["binary"])
    with live.served(root) as found:
        yield found


def logged(server):
    """The rows of the server's log."""
    address = "sqlite:///data/log/predictions.db"
    with closing(log.open_log(address, root=server.root)) as found:
        return [row for batch in found.read(0, 2**62) for row in batch.to_pylist()]


def test_a_row_is_answered_as_the_pipeline_answers_it(server, bundles):
    status, told = server.ask("POST", "/predict", {"rows": [GOOD | {"key": "a1"}]})
    assert status == 200
    served, (said,) = bundles["binary"], told["predictions"]
    assert told["models"] == {served.name: {"version": "", "sha256": served.sha256}}
    assert said["id"] == "a1" and said["model"] == served.name
    rows = synthetic.table().head(1).assign(**GOOD)
    expected = served.predict(rows)[0]
    assert [said["probabilities"][c] for c in ("0", "1")] == pytest.approx(expected, abs=1e-5)
    assert said["label"] == str(expected.argmax())


def test_every_answer_is_in_the_log_before_it_is_given(server):
    rows = [GOOD | {"size": i / 10} for i in range(20)]
    told = server.ask("POST", "/predict", {"rows": rows})[1]["predictions"]
    kept = {row["id"]: row for row in logged(server)}
    for row, said in zip(rows, told, strict=True):
        found = kept[said["id"]]
        assert json.loads(found["features"]) | row == json.loads(found["features"])
        assert json.loads(found["answer"]) == list(said["probabilities"].values())
        assert found["model"] == said["model"] and found["role"] == "champion"


def test_labels_find_their_answers_whenever_they_come(server):
    def post(*labels):
        posted = [{"id": i, "label": v} for i, v in labels]
        return [
            x["outcome"] for x in server.ask("POST", "/labels", {"labels": posted})[1]["labels"]
        ]

    before = server.metrics()
    assert post(("early", 1)) == ["early"]
    server.ask("POST", "/predict", {"rows": [GOOD | {"key": k} for k in ("early", "late")]})
    assert post(("late", "0"), ("late", 0), ("late", 1.0), ("nobody", 1)) == [
        "first",
        "same",
        "corrected",
        "early",
    ]
    rows = {r["id"]: r["label"] for r in logged(server)}
    assert (rows["early"], rows["late"]) == ("1", "1")
    after = server.metrics()
    grown = {k: after[k] - before[k] for k in after if after[k] != before.get(k)}
    labels = {
        k.split("=")[1]: v for k, v in grown.items() if k.startswith("modelkeep_labels_total")
    }
    assert labels == {"early": 2, "first": 2, "same": 1, "corrected": 1}
    known = [v for k, v in grown.items() if k.startswith("modelkeep_cohort_labelled_rows")]
    assert known == [2]


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ([{"id": "a", "label": 2}], "$.labels[0].label"),
        ([{"id": "a", "label": 1}, {"id": "b", "label": "x"}], "$.labels[1].label"),
        ([{"id": "a"}], "$.labels[0]"),
        ([{"id": "", "label": 1}], "$.labels[0].id"),
        ([{"id": "a\n", "label": 1}], "$.labels[0].id"),
        ([{"id": "a\x00", "label": 1}], "$.labels[0].id"),
        ([{"id": "a", "label": 1, "more": 1}], "$.labels[0]"),
        ([], "$.labels"),
    ],
)
def test_labels_that_are_none_are_refused_whole(server, labels, place):
    status, told = server.ask("POST", "/labels", {"labels": labels})
    assert status == 422 and place in f"{told['error']['place']} {told['error']['message']}"


@pytest.mark.parametrize(
    "text",
    [
        b'{"labels": [{"id": "a", "label": 1, "label": 0}]}',
        b'{"labels": [{"id": "a", "id": "b", "label": 0}]}',
        b'{"labels": [{"id": "a:b", "label": 1}, {"id": "x", "label": 1, "\\u0069d": "y"}]}',
        b'{"labels": [{"id": "x", "label": 1}], "labels": [{"id": "a", "label": 1}]}',
    ],
)
def test_keys_that_are_twice_in_a_label_are_refused(server, text):
    status, reply = server.ask("POST", "/labels", text)
    assert status == 400 and "twice" in reply["error"]["message"]
    assert server.ask("POST", "/labels", {"labels": [{"id": "a:b", "label": 1}]})[0] == 200


def test_what_is_odd_is_answered_and_told(server):
    rows = [GOOD | {"size": 99.0}, GOOD | {"shop": "moon"}, GOOD | {"size": "x"}, GOOD]
    told = server.ask("POST", "/predict", {"rows": rows})[1]["predictions"]
    assert told[0]["notes"] == ["size is above the largest value of the training"]
    assert told[1]["notes"] == ["shop was not seen in training"]
    assert told[2]["error"] == {
        "place": "$.rows[2].size",
        "message": "must be a number or null, not text",
    }
    assert "notes" not in told[3] and "label" in told[3]


def test_a_request_without_one_good_row_is_refused(server):
    status, told = server.ask(
        "POST", "/predict", {"rows": [{"size": 1, "weight": 2}, GOOD | {"size": "x"}]}
    )
    assert status == 422 and told["error"]["place"] == "$.rows[0].shop"
    status, told = server.ask("POST", "/predict", {"rows": [GOOD | {"when": "soon"}]})
    assert status == 422 and told["error"]["place"] == "$.rows[0].when"


def test_who_answers_is_told(server, bundles):
    served = bundles["binary"]
    told = server.ask("GET", "/model")[1]
    assert told["models"]["champion"]["sha256"] == served.sha256
    assert told["models"]["champion"]["engine"] == "quickscorer"
    assert {c["name"] for c in told["columns"]} == {"size", "weight", "shop"}
    assert server.ask("GET", "/health/live") == (200, {"live": True})
    status, ready = server.ask("GET", "/health/ready")
    assert status == 200 and ready["ready"] and ready["durability"].startswith("SQLite WAL")


def test_pages_need_nothing_from_elsewhere(server):
    for path in ("/", "/docs"):
        status, page, headers = server.raw("GET", path)
        assert status == 200 and headers["content-type"].startswith("text/html")
        assert b"http://" not in page and b"https://" not in page and b"weight" in page
    assert server.raw("HEAD", "/docs")[1] == b""


def test_strangers_are_kept_out(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; b=1"):
        assert server.ask("POST", "/predict", {"rows": [GOOD]}, Content_Type=kind)[0] == 415
    assert server.ask("POST", "/labels", {"labels": []}, Content_Type=None)[0] == 415
    for encoding in ("br", "compress", "gzip, gzip"):
        status, _, headers = server.raw("POST", "/predict", b"x", Content_Encoding=encoding)
        assert (status, headers["accept-encoding"]) == (415, "gzip, deflate")
    for method, path, allowed in (
        ("GET", "/predict", {"POST"}),
        ("DELETE", "/labels", {"POST"}),
        ("PUT", "/model", {"GET", "HEAD", "POST"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
    ):
        status, _, headers = server.raw(method, path)
        assert status == 405 and set(headers["allow"].split(", ")) == allowed
    for path in ("/nowhere", "/../etc/passwd", "/v2/models/other/infer", "/model/../../x", "//"):
        assert server.ask("POST", path, {})[0] in (404, 405)


def test_limits(folders, tmp_path):
    root = live.workspace(tmp_path / "w", folders["binary"])
    with live.served(root, "max_body_kb=1", "max_rows=3", "body_seconds=0.3") as server:
        assert server.ask("POST", "/predict", {"rows": [GOOD] * 3})[0] == 200
        assert server.ask("POST", "/predict", {"rows": [GOOD] * 4})[0] == 422
        assert server.ask("POST", "/predict", b" " * 2000)[0] == 413
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            slow.sendall(head + b"Content-Length: 50\r\n\r\n{")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as chunked:
            chunked.sendall(
                head
                + b"Transfer-Encoding: chunked\r\n\r\n"
                + b"400\r\n"
                + b" " * 1024
                + b"\r\n400\r\n"
                + b" " * 1024
                + b"\r\n"
            )
            assert chunked.recv(4096).startswith(b"HTTP/1.1 413")
        assert server.ask("GET", "/health/ready")[0] == 200


def test_a_token_guards_what_writes(folders, tmp_path):
    root = live.workspace(tmp_path / "w", folders["binary"])
    labels = {"labels": [{"id": "a", "label": 1}]}
    with live.served(root, MODELKEEP_TOKEN="secret") as server:
        assert server.ask("POST", "/predict", {"rows": [GOOD]})[0] == 200
        for given in (None, "Bearer wrong", "secret", "Bearer "):
            assert server.ask("POST", "/labels", labels, Authorization=given)[0] == 401
        assert server.ask("POST", "/labels", labels, Authorization="Bearer secret")[0] == 200
    with live.served(root, "host=0.0.0.0") as server:
        status, told = server.ask("POST", "/labels", labels)
        assert status == 401 and "MODELKEEP_TOKEN" in told["error"]["message"]


def test_the_open_inference_protocol(server, bundles):
    name = "/v2/models/flights"
    told = server.ask("GET", name)[1]
    assert told["versions"] == [bundles["binary"].name]
    assert {(i["name"], i["datatype"]) for i in told["inputs"]} == {
        ("size", "FP64"),
        ("weight", "FP64"),
        ("shop", "BYTES"),
        ("key", "BYTES"),
        ("when", "BYTES"),
    }
    inputs = [
        {"name": "size", "shape": [2, 1], "datatype": "FP64", "data": [0.5, 1]},
        {"name": "weight", "shape": [2], "datatype": "FP32", "data": [100, None]},
        {"name": "shop", "shape": [2, 1], "datatype": "BYTES", "data": [["north"], ["south"]]},
    ]
    status, said = server.ask("POST", f"{name}/infer", {"id": "q", "inputs": inputs})
    plain = server.ask(
        "POST", "/predict", {"rows": [GOOD, {"size": 1, "weight": None, "shop": "south"}]}
    )[1]
    outputs = {o["name"]: o for o in said["outputs"]}
    assert status == 200 and said["id"] == "q" and said["model_version"] == bundles["binary"].name
    assert outputs["probabilities"]["shape"] == [2, 2]
    flat = [p for row in plain["predictions"] for p in row["probabilities"].values()]
    assert outputs["probabilities"]["data"] == pytest.approx(flat)
    assert len(set(outputs["id"]["data"])) == 2
    asked = {"inputs": inputs, "outputs": [{"name": "label"}]}
    assert [o["name"] for o in server.ask("POST", f"{name}/infer", asked)[1]["outputs"]] == [
        "label"
    ]
    for path in ("/v2", "/v2/", "/v2/health/live", "/v2/health/ready", f"{name}/ready"):
        assert server.ask("GET", path)[0] == 200


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": "sise"}, "$.inputs[0].name"),
        ({"name": "weight"}, "$.inputs[1].name"),
        ({"datatype": "BYTES"}, "$.inputs[0].datatype"),
        ({"shape": [3]}, "$.inputs[0].shape"),
        ({"data": [1]}, "$.inputs[0].shape"),
        ({"data": ["x", 1]}, "$.inputs[name=size].data[0]"),
        ({"data": [1e300, 1]}, "$.inputs[name=size].data[0]"),
    ],
)
def test_tensors_that_are_no_columns(server, change, place):
    inputs = [
        {"name": "size", "shape": [2], "datatype": "FP64", "data": [0.5, 1]} | change,
        {"name": "weight", "shape": [2], "datatype": "FP64", "data": [1, 2]},
        {"name": "shop", "shape": [2], "datatype": "BYTES", "data": ["north", "south"]},
    ]
    status, told = server.ask("POST", "/v2/models/flights/infer", {"inputs": inputs})
    assert status == 422 and told["error"].startswith(place + ": ")


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks(task, folders, tmp_path, bundles):
    root = live.workspace(tmp_path / "w", folders[task])
    with live.served(root) as server:
        (said,) = server.ask("POST", "/predict", {"rows": [GOOD]})[1]["predictions"]
        expected = bundles[task].predict(synthetic.table(task).head(1).assign(**GOOD))[0]
        found = said["prediction"] if task == "regression" else list(said["probabilities"].values())
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
        label = 3.5 if task == "regression" else "green"
        posted = {"labels": [{"id": said["id"], "label": label}]}
        assert server.ask("POST", "/labels", posted)[1]["labels"][0]["outcome"] == "first"
        assert server.metrics()


def infer(server, *path, shop="north", **headers):
    tensors = (("size", 99.0), ("weight", 100.0), ("shop", shop))
    inputs = [
        {"name": n, "shape": [1], "datatype": "BYTES" if n == "shop" else "FP64", "data": [v]}
        for n, v in tensors
    ]
    address = "/".join(["/v2/models/flights", *path, "infer"])
    return server.ask("POST", address, {"inputs": inputs}, **headers)


def test_versions_that_are_listed_have_addresses(server):
    (version,) = server.ask("GET", "/v2/models/flights")[1]["versions"]
    address = f"/v2/models/flights/versions/{version}"
    assert server.ask("GET", address) == server.ask("GET", "/v2/models/flights")
    assert server.ask("GET", f"{address}/ready") == (200, {"name": "flights", "ready": True})
    status, reply = infer(server, "versions", version)
    assert (status, reply["model_version"]) == (200, version)
    assert reply["parameters"] == {"notes": "0: size is above the largest value of the training"}
    for path in ("", "/ready"):
        status, reply = server.ask("GET", f"/v2/models/flights/versions/other{path}")
        assert status == 404 and reply["error"].startswith("there is no version 'other'")


def test_errors_of_the_protocol_are_one_text(server):
    """`{"error": "..."}`, whatever fails: clients such as Triton's take it for an exception."""
    replies = [
        infer(server, shop={}),
        infer(server, "versions", "other"),
        infer(server, Content_Encoding="br"),
        infer(server, Content_Type="text/plain"),
        server.ask("POST", "/v2/models/flights/infer", b"{"),
        server.ask("GET", "/v2/models/nobody"),
        server.ask("GET", "/v2/models/flights/infer"),
        server.ask("DELETE", "/v2"),
    ]
    assert [status for status, _ in replies] == [422, 404, 415, 415, 400, 404, 405, 405]
    assert all(isinstance(reply["error"], str) and len(reply) == 1 for _, reply in replies)


def test_ids_times_and_groups_are_optional_inputs(server):
    inputs = {i["name"]: i for i in server.ask("GET", "/v2/models/flights")[1]["inputs"]}
    roles = {n: i["parameters"]["role"] for n, i in inputs.items() if "parameters" in i}
    assert roles == {"key": "id", "when": "time"}
    assert all(inputs[name]["parameters"]["optional"] for name in roles)


def test_rows_of_the_table_are_taken_and_their_other_columns_counted(server):
    def count():
        return server.metrics()["modelkeep_input_problems_total,problem=extra_keys"]

    before, label = count(), synthetic.LABELS["binary"]
    status, reply = server.ask("POST", "/predict", {"rows": [GOOD | {label: 1}, GOOD]})
    assert status == 200 and "error" not in str(reply["predictions"]), reply
    assert count() == before + 1


KSERVE = (  # what InferenceRESTClient of kserve 0.21 sends, with and without binary_data
    b'{"id":"q","model_name":"flights","inputs":[{"name":"size","shape":[2,1],"datatype":"FP64","data":[0.5,0.5]},'
    b'{"name":"weight","shape":[2,1],"datatype":"FP64","data":[100.0,100.0]},{"name":"shop","shape":[2,1],'
    b'"datatype":"BYTES","data":["north","north"]}]}',
    b'{"id":"q","model_name":"flights","inputs":[{"name":"size","shape":[2,1],"datatype":"FP64",'
    b'"parameters":{"binary_data_size":16}},{"name":"weight","shape":[2,1],"datatype":"FP64",'
    b'"parameters":{"binary_data_size":16}},{"name":"shop","shape":[2,1],"datatype":"BYTES",'
    b'"parameters":{"binary_data_size":18}}]}',
)


@pytest.mark.parametrize("binary", [False, True])
def test_what_the_client_of_kserve_sends_is_answered(binary, server):
    body, head = KSERVE[binary], {}
    if binary:
        head = {"inference_header_content_length": str(len(body))}
        head["content_type"] = "application/octet-stream"
        body += struct.pack("<4d", 0.5, 0.5, 100, 100) + 2 * b"\x05\x00\x00\x00north"
    status, told = server.ask("POST", "/v2/models/flights/infer", body, **head)
    expected = server.ask("POST", "/predict", {"rows": [GOOD]})[1]["predictions"][0]
    assert (status, told["id"], told["model_name"]) == (200, "q", "flights")
    found = {o["name"]: o["data"] for o in told["outputs"]}
    assert found["probabilities"] == 2 * [*expected["probabilities"].values()]
    assert found["label"] == 2 * [expected["label"]]


def test_the_pointer_is_followed_under_load_and_no_answer_mixes_two(folders, tmp_path, bundles):
    """Two models of one schema take turns; each answer is whole, and names who gave it."""
    root = live.workspace(tmp_path / "w", folders["binary"])
    other = synthetic.sealed(tmp_path / "other", synthetic.prepared(), "linear")
    expected, row = {}, synthetic.table().head(1).assign(**GOOD)
    for made in (bundles["binary"], other):
        expected[made.name] = made.predict(row)[0]
    shas = [bundles["binary"].sha256, store.add(root / "serving", tmp_path / "other")]
    with live.served(root) as server:
        wrong, names, stop = [], set(), threading.Event()

        def load():
            while not stop.is_set():
                status, told = server.ask("POST", "/predict", {"rows": [GOOD] * 3})
                if status != 200:
                    wrong.append(told)
                    continue
                used = {p["model"] for p in told["predictions"]}
                names.update(used)
                for p in told["predictions"]:
                    same = list(p["probabilities"].values()) == pytest.approx(
                        expected[p["model"]], abs=1e-5
                    )
                    if not same or len(used) != 1:
                        wrong.append(told)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(SWAPS):
            store.point(root / "serving", Now(Role(shas[1 - i % 2])))
            told = server.ask("POST", "/model", {})[1]
            assert told["models"]["champion"]["sha256"] == shas[1 - i % 2]
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == [] and names == set(expected)


def test_a_rollback_takes_effect_though_nobody_tells_the_server(folders, tmp_path):
    root = live.workspace(tmp_path / "w", folders["binary"])
    synthetic.sealed(tmp_path / "other", synthetic.prepared(), "linear")
    with live.served(root) as server:
        sha256 = store.add(root / "serving", tmp_path / "other")
        store.point(root / "serving", Now(Role(sha256, "v2")))
        until = time.monotonic() + 20
        while server.ask("GET", "/model")[1]["models"]["champion"]["version"] != "v2":
            assert time.monotonic() < until
            time.sleep(0.05)


def test_whatever_goes_wrong_with_the_next_model_the_old_one_stays(folders, tmp_path, bundles):
    root = live.workspace(tmp_path / "w", folders["binary"])
    pointer = root / "serving" / store.POINTER
    with live.served(root) as server:
        sha256, sound = store.add(root / "serving", folders["multiclass"]), pointer.read_text()
        (store.path(root / "serving", sha256) / "model.onnx").write_bytes(b"x")
        for how, champion in {"gone": "0" * 64, "tampered": sha256, "nonsense": ""}.items():
            # the server looks by itself too, so what is wrong is there from the first moment
            named = json.loads(sound)
            named["champion"]["sha256"] = champion
            named["serial"] += 1
            files.write_text(pointer, json.dumps(named) if champion else "{")
            status, told = server.ask("POST", "/model", {})
            assert status == 409 and "stays in service" in told["error"]["message"], how
            told = server.ask("POST", "/predict", {"rows": [GOOD]})
            assert told[0] == 200 and told[1]["predictions"][0]["model"] == bundles["binary"].name
        assert server.metrics()["modelkeep_model_swaps_total,result=failed"] >= 3
        # as champion a model of another task of the same columns may follow
        shutil.rmtree(store.path(root / "serving", sha256))
        store.add(root / "serving", folders["multiclass"])
        pointer.write_text(sound)
        store.point(root / "serving", Now(Role(sha256)))
        assert server.ask("POST", "/model", {})[0] == 200


def test_sigterm_drains(folders, tmp_path):
    """What was begun is answered, then the process ends by itself."""
    root = live.workspace(tmp_path / "w", folders["binary"])
    with live.served(root) as server, socket.create_connection(("127.0.0.1", server.port)) as begun:
        body = json.dumps({"rows": [GOOD | {"key": "last"}]}).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        begun.sendall(head.encode() + body[:10])
        time.sleep(0.3)
        server.process.terminate()
        time.sleep(0.3)
        begun.sendall(body[10:])
        assert begun.recv(4096).startswith(b"HTTP/1.1 200")
        assert "every answer that was given is logged" in server.end()
        assert server.process.returncode == 0
        assert "last" in {row["id"] for row in logged(server)}


def test_no_pickle_is_read_in_the_process(folders, tmp_path):
    """The interpreter itself tells of any: the server runs under an audit hook that ends it."""
    root = live.workspace(tmp_path / "w", folders["binary"])
    code = """
import os, sys
def hook(event, arguments):
    if event.startswith("pickle.") or event == "marshal.loads" and False:
        os.write(2, f"PICKLE {arguments}".encode()); os._exit(9)
sys.addaudithook(hook)
from modelkeep.cli import main
main.main(["serve", "-p", "port=0"])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = ""
        while not line.startswith("Serving "):
            line = process.stdout.readline()
            assert line and "PICKLE" not in line, line
        server = live.Server(process, live.port(line), root)
        assert server.ask("POST", "/predict", {"rows": [GOOD]})[0] == 200
        assert server.ask("GET", "/health/ready")[0] == 200
        (root / "serving" / store.POINTER).touch()
        assert "PICKLE" not in server.stop()
    finally:
        process.kill()
        process.communicate()


def test_nothing_to_serve_is_told(tmp_path, folders):
    root = live.workspace(tmp_path / "w", folders["binary"])
    (root / "models" / "candidate" / "manifest.json").unlink()
    for told in ("no readable manifest.json", "nothing to serve"):
        done = subprocess.run(
            [sys.executable, "-m", "modelkeep", "serve"], cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
        shutil.rmtree(root / "models" / "candidate", ignore_errors=True)


def wire(server, *parts, wait=0.05):
    """What comes back on one connection to bytes that are sent in parts; it is closed at the end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        for part in parts:
            line.sendall(part)
            time.sleep(wait)
        line.shutdown(socket.SHUT_WR)
        found = b""
        while more := line.recv(65536):
            found += more
        return found


def post(body, path="/predict", extra=""):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_the_short_way_and_the_long_way_answer_alike(server):
    """The same request, whole under a known head, cut at every place, pipelined, and among others."""
    body = json.dumps({"rows": [GOOD | {"key": "same"}]}).encode()
    whole = post(body)
    first, again = wire(server, whole, b""), wire(server, whole, b"")
    assert first == again and first.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/json")
    for cut in range(1, len(whole), 23):
        assert wire(server, whole[:cut], whole[cut:], b"", wait=0.02) == first
    assert wire(server, whole + whole + whole, b"", wait=0.3) == first * 3
    assert wire(server, whole, whole[:50], whole[50:], whole, b"", wait=0.1) == first * 3
    mixed = wire(
        server, whole, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", whole, b"", wait=0.1
    )
    assert (
        mixed.count(b"HTTP/1.1 200 OK") == 3 and mixed.startswith(first) and mixed.endswith(first)
    )
    close = wire(server, post(body, extra="Connection: close\r\n"), b"")
    assert close.split(b"\r\n\r\n")[1] == first.split(b"\r\n\r\n")[1]
    chunked = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    assert (
        wire(server, chunked % (len(body), body), b"").split(b"\r\n\r\n")[1]
        == first.split(b"\r\n\r\n")[1]
    )


def test_the_short_way_refuses_as_the_long_way_does(server):
    bad = json.dumps({"rows": [GOOD | {"size": "x"}]}).encode()
    for body, status in ((bad, 422), (b"{", 400), (b"", 400)):
        for _ in range(2):
            assert wire(server, post(body), b"").startswith(b"HTTP/1.1 %d" % status)
    good = json.dumps({"rows": [GOOD]}).encode()
    for extra in ("Content-Type: text/plain\r\n", "Content-Encoding: br\r\n"):
        for _ in range(2):
            assert wire(server, post(good, extra=extra), b"").startswith(b"HTTP/1.1 415")
    assert wire(server, post(b" " * 5_000_000), b"", wait=0.5).startswith(b"HTTP/1.1 413")
    assert wire(server, post(good)[:-1], b"", wait=0.2) == b""


def binary(*tensors):
    """A request of the protocol's binary extension: JSON, then raw tensors."""
    inputs, raws = [], []
    for name, kind, shape, raw in tensors:
        size = {"binary_data_size": len(raw)}
        inputs.append({"name": name, "datatype": kind, "shape": shape, "parameters": size})
        raws.append(raw)
    text = json.dumps({"inputs": inputs}).encode()
    return text + b"".join(raws), {"Inference_Header_Content_Length": str(len(text))}


TENSORS = (
    ("size", "FP64", [2, 1], struct.pack("<dd", 0.5, 1.0)),
    ("weight", "FP32", [2, 1], struct.pack("<ff", 100.0, float("nan"))),
    ("shop", "BYTES", [2, 1], b"\x05\0\0\0north\x05\0\0\0south"),
)


def test_binary_tensors_are_the_same_rows(server):
    body, head = binary(*TENSORS)
    told = server.ask("POST", "/v2/models/flights/infer", body, **head)[1]
    rows = [GOOD, {"size": 1, "weight": None, "shop": "south"}]
    plain = server.ask("POST", "/predict", {"rows": rows})[1]["predictions"]
    found = {o["name"]: o["data"] for o in told["outputs"]}
    assert found["probabilities"] == [p for row in plain for p in row["probabilities"].values()]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (("size", "FP64", [2, 1], b"\0" * 15), "no whole number of values"),
        (("size", "FP64", [2, 1], struct.pack("<dd", 0.5, float("inf"))), "holds an infinity"),
        (("size", "FP128", [2, 1], b"\0" * 16), "no whole number of values"),
        (("size", "BYTES", [2, 1], b"\xff\xff\xff\xff"), "cuts a text off"),
        (("size", "BYTES", [2, 1], b"\x01\0\0\0\xff\x01\0\0\0\xff"), "not UTF-8"),
        (("size", "FP64", [3, 1], struct.pack("<dd", 0.5, 1.0)), "must be [2, 1]"),
    ],
)
def test_binary_tensors_that_are_none(server, change, rule):
    body, head = binary(change, *TENSORS[1:])
    status, told = server.ask("POST", "/v2/models/flights/infer", body, **head)
    assert status == 422 and rule in told["error"]
    for stated in ("x", "99999", "-1", "3"):
        head = {"Inference_Header_Content_Length": stated}
        assert server.ask("POST", "/v2/models/flights/infer", body, **head)[0] in (400, 422)
    assert server.ask("POST", "/v2/models/flights/infer", body)[0] == 400


def cohorts(server):
    """What is known of answers by their age: rows, labelled rows, sums."""
    found = server.metrics()
    return {k: v for k, v in found.items() if k.startswith("modelkeep_cohort_") and v}


def test_a_restart_forgets_nothing_of_the_quality(folders, tmp_path):
    root = live.workspace(tmp_path / "w", folders["binary"])
    with live.served(root) as server:
        rows = [GOOD | {"key": f"k{i}", "size": i / 30} for i in range(60)]
        assert server.ask("POST", "/predict", {"rows": rows})[0] == 200
        labels = [{"id": f"k{i}", "label": i % 2} for i in range(40)]
        assert server.ask("POST", "/labels", {"labels": labels})[0] == 200
        before = cohorts(server)
        server.stop()
    assert sum(v for k, v in before.items() if k.startswith("modelkeep_cohort_labelled_rows")) == 40
    with live.served(root) as server:
        until = time.monotonic() + 20
        while cohorts(server) != pytest.approx(before):
            assert time.monotonic() < until, (before, cohorts(server))
            time.sleep(0.1)


def test_who_would_wait_too_long_is_sent_away(folders, tmp_path):
    root = live.workspace(tmp_path / "w", folders["binary"])
    with live.served(root, "max_wait_ms=1") as server:
        body, found = post(json.dumps({"rows": [GOOD] * 500}).encode()), []

        def ask():
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
                for _ in range(10):
                    line.sendall(body)
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += line.recv(65536)
                    head, _, rest = head.partition(b"\r\n\r\n")
                    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(
                        rest
                    )
                    while size > 0:
                        size -= len(line.recv(65536))
                    found.append(head)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sent_away = [head for head in found if head.startswith(b"HTTP/1.1 503")]
        assert len(found) == 80 and 0 < len(sent_away) < 80
        assert all(b"retry-after: 1" in head for head in sent_away)
        assert {head[:12] for head in found} == {b"HTTP/1.1 200", b"HTTP/1.1 503"}


def test_sigterm_is_heeded_from_the_first_moment_on(folders, tmp_path):
    root = live.workspace(tmp_path / "w", folders["binary"])
    for pause in (0, 0.2):
        with live.served(root) as server:
            time.sleep(pause)
            server.process.terminate()
            assert server.process.wait(30) == 0


def test_numbers_have_intervals_that_follow_the_labels(folders, tmp_path):
    root = live.workspace(tmp_path / "w", folders["regression"])
    row = {"size": 0.5, "weight": 80.0, "shop": "north"}

    def predict(server, first, n=200):
        rows = [row | {"key": f"{first}-{i}"} for i in range(n)]
        return server.ask("POST", "/predict", {"rows": rows})[1]["predictions"]

    def width(prediction):
        low, high = prediction["interval"]
        assert low < prediction["prediction"] < high
        return high - low

    with live.served(root, "intervals=0.9") as server:
        before = predict(server, "a")
        single = predict(server, "single", 1)[0]
        assert width(single) == pytest.approx(width(before[0]))
        kept = {each["id"]: json.loads(each["answer"]) for each in logged(server)}
        assert kept["a-3"] == [before[3]["prediction"], *before[3]["interval"]]
        far = before[0]["prediction"] + 3 * width(before[0])
        labels = [{"id": each["id"], "label": far} for each in before]
        server.ask("POST", "/labels", {"labels": labels})
        assert width(predict(server, "b", 1)[0]) > 1.5 * width(before[0])
        shown = server.metrics()
        named = {k.split(",")[0]: v for k, v in shown.items() if "cohort=0" in k.split(",")}
        assert named["modelkeep_cohort_interval_rows"] == 200
        assert named["modelkeep_cohort_covered_rows"] == 0
        tensors = {name: [value] for name, value in row.items()}
        inputs = [
            {"name": k, "datatype": "BYTES" if k == "shop" else "FP64", "shape": [1], "data": v}
            for k, v in tensors.items()
        ]
        told = server.ask("POST", "/v2/models/flights/infer", {"inputs": inputs})[1]
        outputs = {each["name"]: each for each in told["outputs"]}
        assert outputs["interval"]["shape"] == [1, 2]
        assert outputs["interval"]["data"][0] < outputs["prediction"]["data"][0]
    with live.served(root) as server:  # without the setting, and with a log that has intervals
        assert "interval" not in predict(server, "c", 1)[0]
