"""The Open Inference Protocol as others read it: the specification's schema, MLServer, KServe, Triton.

In an environment with mlserver, kserve, tritonclient[http], jsonschema and pyyaml:
`python open_inference.py HOST:PORT MODEL open_inference_rest.yaml specification mlserver tritons`,
the file being specification/protocol/open_inference_rest.yaml of
github.com/kserve/open-inference-protocol. `kservers` takes a process of its own: MLServer and KServe
register the same messages.
"""

import json
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import jsonschema
import numpy as np
import yaml

HOST, MODEL, SPECIFICATION, *NAMES = sys.argv[1:]
SCHEMAS = yaml.safe_load(Path(SPECIFICATION).read_text())["components"]
ROWS = 3


def ask(path: str, body: object = None) -> tuple[int, dict]:
    """Status and JSON of one request."""
    text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{HOST}{path}", text, head)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)


def conforms(name: str, value: dict) -> None:
    """Check a value against a schema of the specification."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": SCHEMAS}
    jsonschema.validate(value, schema)


def columns(metadata: dict) -> dict[str, tuple[str, list]]:
    """Values for each input that must be there."""
    values = {"FP64": [float(i) for i in range(ROWS)], "BYTES": [str(i) for i in range(ROWS)]}
    wanted = [e for e in metadata["inputs"] if not e.get("parameters", {}).get("optional")]
    return {each["name"]: (each["datatype"], values[each["datatype"]]) for each in wanted}


def plain(metadata: dict) -> dict:
    inputs = [
        {"name": name, "datatype": kind, "shape": [ROWS, 1], "data": data}
        for name, (kind, data) in columns(metadata).items()
    ]
    return {"id": "q", "inputs": inputs}


def specification(metadata: dict, address: str) -> None:
    for path in ("/v2", "/v2/"):
        status, server = ask(path)
        assert status == 200
        conforms("metadata_server_response", server)
    conforms("metadata_model_response", metadata)
    request = plain(metadata)
    conforms("inference_request", request)
    for path in (address, f"{address}/versions/{metadata['versions'][0]}"):
        assert ask(f"{path}/ready")[0] == 200
        status, reply = ask(f"{path}/infer", request)
        assert status == 200 and reply["id"] == "q"
        conforms("inference_response", reply)
    no_rows = {**request, "inputs": request["inputs"][:1]}
    bad = [{**request, "inputs": [{**request["inputs"][0], "datatype": "X"}]}, no_rows, {}, b"{"]
    bad += [{**request, "outputs": [{"name": "nothing"}]}, {**request, "inputs": []}]
    for body in bad:
        status, reply = ask(f"{address}/infer", body)
        assert 400 <= status < 500, (status, reply)
        conforms("inference_error_response", reply)
    status, reply = ask("/v2/models/none")
    assert status == 404
    conforms("metadata_model_error_response", reply)


def mlserver(metadata: dict, address: str) -> None:
    from mlserver import codecs, types

    types.MetadataModelResponse.model_validate(metadata)
    types.MetadataServerResponse.model_validate(ask("/v2")[1])
    inputs = []
    for name, (kind, data) in columns(metadata).items():
        codec = codecs.NumpyCodec if kind == "FP64" else codecs.StringCodec
        value = np.array(data)[:, None] if kind == "FP64" else data
        inputs.append(codec.encode_input(name, value))
    request = types.InferenceRequest(id="q", inputs=inputs)
    status, reply = ask(f"{address}/infer", request.model_dump_json(exclude_none=True).encode())
    assert status == 200, reply
    response = types.InferenceResponse.model_validate(reply)
    probabilities = codecs.NumpyCodec.decode_output(response.outputs[0])
    assert probabilities.shape[0] == ROWS
    ids = next(o for o in response.outputs if o.name == "id")
    assert len(codecs.StringCodec.decode_output(ids)) == ROWS
    types.InferenceErrorResponse.model_validate(ask(f"{address}/infer", {})[1])


def kservers(metadata: dict, address: str) -> None:
    import kserve
    from kserve.protocol.infer_type import InferRequest, InferResponse

    inputs = []
    for name, (kind, data) in columns(metadata).items():
        each = kserve.InferInput(name, [ROWS, 1], kind)
        dtype = np.float64 if kind == "FP64" else object
        each.set_data_from_numpy(np.array(data, dtype)[:, None], binary_data=False)
        inputs.append(each)
    body, size = InferRequest(MODEL, inputs, request_id="q").to_rest()
    assert size is None, "a request without binary tensors"
    status, reply = ask(f"{address}/infer", body)
    assert status == 200, reply
    response = InferResponse.from_rest(reply)
    assert response.id == "q" and response.outputs[0].as_numpy().shape[0] == ROWS


def tritons(metadata: dict, address: str) -> None:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(HOST)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.get_model_metadata(MODEL)["name"] == MODEL
    for binary in (True, False):
        inputs = []
        for name, (kind, data) in columns(metadata).items():
            each = triton.InferInput(name, [ROWS, 1], kind)
            dtype = np.float64 if kind == "FP64" else object
            each.set_data_from_numpy(np.array(data, dtype)[:, None], binary_data=binary)
            inputs.append(each)
        outputs = [triton.InferRequestedOutput(metadata["outputs"][0]["name"], binary_data=False)]
        found = client.infer(MODEL, inputs, outputs=outputs)
        assert found.as_numpy(metadata["outputs"][0]["name"]).shape[0] == ROWS
    message = ""
    try:
        client.infer(MODEL, inputs[:1])
    except triton.InferenceServerException as error:
        message = str(error)
    assert "lacks" in message


def main() -> None:
    address = f"/v2/models/{MODEL}"
    metadata = ask(address)[1]
    for check in (globals()[name] for name in NAMES):
        check(metadata, address)
        print(f"{check.__name__}: every request and response is as it reads them")


if __name__ == "__main__":
    main()
