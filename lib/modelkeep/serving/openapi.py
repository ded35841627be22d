"""The OpenAPI document, made from the types that decode requests, and the same as a page."""

import json
from html import escape
from typing import Any

import msgspec

from modelkeep.data.definitions import Column, Schema
from modelkeep.serving.access import Access
from modelkeep.serving.labels import Labels
from modelkeep.serving.open_inference import InferRequest
from modelkeep.serving.requests import RowReader
from modelkeep.training.engines.encoding import LARGEST

REF = "#/components/schemas/{name}"
LARGEST_LABEL = 1e300
ERRORS = {
    "400": "not JSON, or a key twice",
    "401": "no valid token",
    "404": "not there",
    "405": "another method",
    "408": "the body took too long",
    "413": "too large",
    "415": "another content type or encoding",
    "422": "a value breaks a rule; the error names the place",
    "503": "too busy, or the log cannot be written; try again",
}


class Problem(msgspec.Struct, omit_defaults=True):
    """Why there is no prediction; `place` is as in `$.rows[3].temp`."""

    message: str
    place: str = ""


class Failure(msgspec.Struct):
    """The body of an error."""

    error: Problem


class OpenInferenceFailure(msgspec.Struct):
    """The body of an error of the Open Inference Protocol."""

    error: str


class ModelName(msgspec.Struct):
    """A model that predicted."""

    version: str
    sha256: str


class Explanation(msgspec.Struct, omit_defaults=True, rename={"of": "class"}):
    """What each column adds to a prediction, from `base` to `output`; requested by `explain`."""

    scale: str
    method: str
    base: float
    output: float
    values: dict[str, float]
    of: str = ""


class ClassPrediction(msgspec.Struct, omit_defaults=True):
    """The prediction of one row by a classifier."""

    id: str
    model: str
    label: str
    probabilities: dict[str, float]
    notes: list[str] = []
    explanation: Explanation | None = None


class NumberPrediction(msgspec.Struct, omit_defaults=True):
    """The prediction of one row by a regression."""

    id: str
    model: str
    prediction: float
    interval: list[float] = []
    notes: list[str] = []
    explanation: Explanation | None = None


class Predictions(msgspec.Struct):
    """The reply to `/predict`: a prediction or an error for each row, in their order."""

    models: dict[str, ModelName]
    predictions: list[dict[str, Any]]


class Outcome(msgspec.Struct):
    """What a label was: first, same, corrected, outdated or early."""

    id: str
    outcome: str


class Outcomes(msgspec.Struct):
    """The reply to `/labels`."""

    labels: list[Outcome]


def document(name: str, reader: RowReader, access: Access) -> dict:
    """The OpenAPI 3.1 document of the server of this model."""
    schema = reader.schema
    predicted = ClassPrediction if schema.classes else NumberPrediction
    types = [reader.request, Labels, InferRequest, Predictions, predicted, Outcomes, Failure]
    _, components = msgspec.json.schema_components([*types, OpenInferenceFailure], ref_template=REF)
    components["Row"] = _row(components["Row"], reader)
    components["PostedLabel"]["properties"]["label"] = _label_type(schema)
    item = {"anyOf": [{"$ref": REF.format(name=each)} for each in (predicted.__name__, "Failure")]}
    components["Predictions"]["properties"]["predictions"]["items"] = item
    paths = _paths(name, schema)
    for path, methods in paths.items():
        for method, operation in methods.items():
            _guard(path, method, operation, access)
    info = {
        "title": f"Modelkeep: {name}",
        "version": "1",
        "description": "Rows in, predictions out.",
    }
    bearer = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": info,
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": bearer},
    }


def _paths(name: str, schema: Schema) -> dict[str, dict]:
    html, text = "text/html", "text/plain"
    paths = {
        "/": {"get": _get("This page", html)},
        "/docs": {"get": _get("This page", html)},
        "/openapi.json": {"get": _get("This document")},
        "/health": {"get": _get("Whether the server can predict and log")},
        "/health/live": {"get": _get("Whether the process is alive")},
        "/health/ready": {"get": _get("Whether the server can predict and log")},
        "/metrics": {"get": _get("Metrics for Prometheus", text)},
        "/predict": {"post": _post("Predict rows", "Rows", "Predictions", _example(schema))},
        "/labels": {"post": _post("Send labels of rows", "Labels", "Outcomes", _label(schema))},
        "/model": {"get": _get("The models in service, and their columns"), "post": _swap()},
        "/v2": {"get": _get("Open Inference Protocol: the server")},
        "/v2/health/live": {"get": _get("Open Inference Protocol: whether it is alive")},
        "/v2/health/ready": {"get": _get("Open Inference Protocol: whether it is ready")},
    }
    model = f"/v2/models/{name}"
    for path in (model, model + "/versions/{version}"):
        paths |= {
            path: {"get": _get("Open Inference Protocol: inputs and outputs")},
            f"{path}/ready": {"get": _get("Open Inference Protocol: whether the model is ready")},
            f"{path}/infer": {
                "post": _post("Open Inference Protocol: predict tensors", "InferRequest", "", None)
            },
        }
    return paths


def _guard(path: str, method: str, operation: dict, access: Access) -> None:
    """Add what is alike for many: parameters, the token, and the error of the V2 protocol."""
    if "{version}" in path:
        operation["parameters"] = [
            {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    writes = path in ("/labels", "/model") and method == "post"
    public = path.startswith("/health") or path.endswith(("/live", "/ready")) or path == "/v2"
    needed = access.writes_need_token if writes else access.reads_need_token and not public
    if needed:
        operation["security"] = [{"token": []}]
    if path.startswith("/v2"):
        ref = {"$ref": REF.format(name="OpenInferenceFailure")}
        for status, response in operation["responses"].items():
            if status != "200":
                response["content"] = {"application/json": {"schema": ref}}


def _row(row: dict, reader: RowReader) -> dict:
    """The type of a row with the rules of its columns, as far as JSON Schema has words for them."""
    schema, properties = reader.schema, row["properties"]
    for column in schema.columns:
        properties[column.name] = _column(column)
    properties[schema.id]["description"] = "names the row; made here if it is not sent"
    if schema.entity and schema.entity != schema.id:
        properties[schema.entity]["description"] = "the person or thing that the row belongs to"
    if schema.time:
        properties[schema.time] |= {"format": "date-time", "description": "when it happened"}
    if reader.extra_keys == "table":
        ignored = {"description": "ignored: not a feature of the model"}
        properties |= dict.fromkeys(sorted(reader.left_out - reader.keys), ignored)
    open_ended = reader.extra_keys == "table" and bool(schema.origin.get("features"))
    closed = not (open_ended or reader.extra_keys == "ignore")
    return row | {"properties": properties, "additionalProperties": not closed}


def _column(column: Column) -> dict:
    null = ["null"] if column.missing == "impute" else []
    if column.kind == "number":
        low = -LARGEST if column.low is None else column.low
        high = LARGEST if column.high is None else column.high
        return {"type": ["number", *null], "minimum": low, "maximum": high}
    if column.unseen == "reject":
        return {"enum": [*_values(column.categories), *([None] if null else [])]}
    text: dict = {"type": "string", "maxLength": 1000} | ({} if null else {"pattern": r"\S"})
    whole = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    kinds = [text, whole, {"type": "number"}, {"type": ["boolean", *null]}]
    return {"anyOf": kinds}


def _values(names: tuple[str, ...]) -> list:
    """Values that are read as one of these names: the text, and its number or bool."""
    known: dict[str, bool] = {"True": True, "False": False}
    values: list = [*names]
    for name in names:
        if name in known:
            values.append(known[name])
        elif name.lstrip("-").isdigit() and str(int(name)) == name:
            values.append(int(name))
    return values


def _label_type(schema: Schema) -> dict:
    if schema.classes:
        return {"enum": _values(schema.classes)}
    limits = {"exclusiveMinimum": -LARGEST_LABEL, "exclusiveMaximum": LARGEST_LABEL}
    return {"type": "number"} | limits


def _example(schema: Schema) -> dict:
    row = {c.name: c.categories[0] if c.categories else c.low or 0 for c in schema.columns}
    return {"rows": [row]}


def _label(schema: Schema) -> dict:
    label = schema.classes[0] if schema.classes else 1
    return {"labels": [{"id": "the id of a prediction", "label": label}]}


def _post(summary: str, request: str, reply: str, example: dict | None) -> dict:
    content: dict = {"schema": {"$ref": REF.format(name=request)}}
    content |= {"example": example} if example else {}
    body = {"required": True, "content": {"application/json": content}}
    schema = {"schema": {"$ref": REF.format(name=reply)}} if reply else {}
    responses = {"200": {"description": "done", "content": {"application/json": schema}}}
    responses |= {status: _error(status) for status in ERRORS}
    return {"summary": summary, "requestBody": body, "responses": responses}


def _swap() -> dict:
    """POST /model: the body is read and not used."""
    ok = {"200": {"description": "the models in service", "content": {"application/json": {}}}}
    body: dict = {"content": {"application/json": {"schema": {}}}}
    responses = ok | {status: _error(status) for status in ERRORS}
    responses["409"] = _error("422") | {"description": "the model of the pointer cannot serve"}
    summary = "Follow the store's pointer now"
    return {"summary": summary, "requestBody": body, "responses": responses}


def _get(summary: str, kind: str = "application/json") -> dict:
    responses: dict = {"200": {"description": "done", "content": {kind: {}}}}
    responses |= {status: _error(status) for status in ("401", "404", "405", "503")}
    return {"summary": summary, "responses": responses}


def _error(status: str) -> dict:
    ref = {"$ref": REF.format(name="Failure")}
    return {"description": ERRORS[status], "content": {"application/json": {"schema": ref}}}


def page(name: str, openapi: dict) -> str:
    """The document as a page that loads nothing from elsewhere."""
    from modelkeep.core import pages  # reading notebooks takes a quarter of a second to import

    blocks = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            blocks.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            blocks.append(f"<p>{escape(operation['summary'])}.</p>")
            if command := _command(path, operation):
                blocks.append(f"<pre>{escape(command)}</pre>")
                blocks += _fields(operation, openapi["components"]["schemas"])
    link = "<p>The same for programs: <a href='/openapi.json'>openapi.json</a></p>"
    body = f"<h1>{escape(name)}</h1>{link}" + "".join(blocks)
    return pages.page(f"{name} · Modelkeep", body, current=None)


def _command(path: str, operation: dict) -> str:
    """A command that sends the example."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if "example" not in content:
        return ""
    header = "-H 'content-type: application/json'"
    return f"curl localhost:8080{path} {header} \\\n  -d '{json.dumps(content['example'])}'"


def _fields(operation: dict, components: dict) -> list[str]:
    from modelkeep.core import markup

    ref = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    properties = components[ref.rpartition("/")[2]]["properties"].values()
    (items,) = (each for each in properties if "$ref" in each.get("items", {}))
    item = components[items["items"]["$ref"].rpartition("/")[2]]
    rows = [
        {
            "key": key,
            "may be": _kinds(kind),
            "must be there": "yes" if key in item["required"] else "",
            "meaning": kind.get("description", ""),
        }
        for key, kind in item["properties"].items()
    ]
    return [markup.table(rows).markup]


def _kinds(kind: dict) -> str:
    if "enum" in kind:
        return "one of " + ", ".join(map(str, kind["enum"]))
    if "anyOf" in kind:
        return " or ".join(dict.fromkeys(_kinds(each) for each in kind["anyOf"]))
    kinds = kind.get("type", "anything")
    text = kinds if isinstance(kinds, str) else " or ".join(kinds)
    low, high = kind.get("minimum"), kind.get("maximum")
    shown = low is not None and high is not None and abs(high) < LARGEST
    return text + (f", {low:g} to {high:g}" if shown else "")
