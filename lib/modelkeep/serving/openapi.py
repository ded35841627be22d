"""What the server takes and gives, as an OpenAPI document made from the model's schema, and as a page."""

import json
from html import escape

from modelkeep.data.schema import Schema
from modelkeep.serving.requests import NAME, TEXT

ERROR = {"type": "object", "properties": {"error": {"type": "object"}}, "required": ["error"]}
REFUSALS = {
    "400": "not JSON",
    "404": "not there",
    "405": "another method",
    "408": "the body took too long",
    "413": "too large",
    "415": "not JSON by its header",
    "422": "a value breaks a rule; the answer says where",
    "503": "too busy, or the log cannot be written; try again",
}


def document(name: str, of: Schema, max_rows: int) -> dict:
    """The OpenAPI 3.1 document of the server of this model."""
    rows = {"type": "array", "minItems": 1, "maxItems": max_rows, "items": _row(of)}
    paths = {
        "/predict": {"post": _post("Answer rows", {"rows": rows}, _example(of))},
        "/labels": {
            "post": _post("Say what came true", {"labels": _labels(of, max_rows)}, _label(of))
        },
        "/model": {"get": _get("Which models answer, and what they read")},
        "/health/live": {"get": _get("Whether the process is alive")},
        "/health/ready": {"get": _get("Whether it can answer and log")},
        "/metrics": {"get": _get("Metrics for Prometheus", "text/plain")},
        f"/v2/models/{name}": {"get": _get("Open Inference Protocol: inputs and outputs")},
        f"/v2/models/{name}/infer": {"post": _infer(of)},
    }
    info = {"title": f"Modelkeep: {name}", "version": "1", "description": "Rows in, answers out."}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def page(name: str, found: dict) -> str:
    """The document as a page that needs nothing from elsewhere."""
    blocks = []
    for path, methods in found["paths"].items():
        for method, told in methods.items():
            blocks.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            blocks.append(f"<p>{escape(told['summary'])}.</p>")
            if example := _shown(path, told):
                blocks.append(f"<pre>{escape(example)}</pre>")
            for content in told.get("requestBody", {}).get("content", {}).values():
                blocks += _fields(content["schema"])
    body = f"<h1>{escape(name)}</h1><p>The same for programs: <a href='/openapi.json'>openapi.json</a></p>"
    from modelkeep.core import pages  # what reads notebooks takes a quarter of a second to import

    return pages.page(f"{name} · Modelkeep", body + "".join(blocks), current=None)


def _shown(path: str, told: dict) -> str:
    """A command that sends the example."""
    content = told.get("requestBody", {}).get("content", {}).get("application/json", {})
    if "example" not in content:
        return ""
    header = "-H 'content-type: application/json'"
    return f"curl localhost:8080{path} {header} \\\n  -d '{json.dumps(content['example'])}'"


def _fields(schema: dict) -> list[str]:
    items = next(iter(schema["properties"].values()))["items"]
    rows = [
        {
            "key": key,
            "may be": _kinds(kind),
            "must be there": "yes" if key in items["required"] else "",
        }
        for key, kind in items["properties"].items()
    ]
    from modelkeep.core import markup

    return [markup.table(rows).markup]


def _kinds(kind: dict) -> str:
    if "enum" in kind:
        return "one of " + ", ".join(map(str, kind["enum"]))
    kinds = kind.get("type", "anything")
    text = kinds if isinstance(kinds, str) else " or ".join(kinds)
    low, high = kind.get("minimum"), kind.get("maximum")
    return text + (f", {low} to {high}" if low is not None and high is not None else "")


def _row(of: Schema) -> dict:
    properties: dict[str, dict] = {}
    for column in of.columns:
        absent = ["null"] if column.missing == "impute" else []
        if column.kind == "number":
            limits = {"minimum": column.low, "maximum": column.high}
            limits = {k: v for k, v in limits.items() if v is not None}
            properties[column.name] = {"type": ["number", *absent], **limits}
        else:
            properties[column.name] = {"type": ["string", *absent], "maxLength": TEXT}
            if column.unseen == "reject":
                properties[column.name]["description"] = (
                    "a closed list: only values of the training"
                )
    features = list(properties)
    text = {"type": "string", "minLength": 1, "maxLength": NAME}
    properties[of.id] = text | {"description": "names the row; made here if it is not sent"}
    if of.entity and of.entity != of.id:
        properties[of.entity] = text | {"description": "whom or what the row is about"}
    if of.time:
        properties[of.time] = text | {"format": "date-time", "description": "when it happened"}
    return {
        "type": "object",
        "properties": properties,
        "required": features,
        "additionalProperties": False,
    }


def _labels(of: Schema, most: int) -> dict:
    value = {"enum": list(of.classes)} if of.classes else {"type": "number"}
    row = {"id": {"type": "string", "minLength": 1, "maxLength": NAME}, "label": value}
    items = {"type": "object", "properties": row, "required": ["id", "label"]}
    return {"type": "array", "minItems": 1, "maxItems": most, "items": items | _CLOSED}


_CLOSED = {"additionalProperties": False}


def _example(of: Schema) -> dict:
    row = {c.name: c.categories[0] if c.categories else 0 for c in of.columns}
    return {"rows": [row]}


def _label(of: Schema) -> dict:
    return {"labels": [{"id": "the id of an answer", "label": of.classes[0] if of.classes else 1}]}


def _post(summary: str, properties: dict, example: dict | None) -> dict:
    schema = {"type": "object", "properties": properties, "required": [*properties]} | _CLOSED
    content = {"schema": schema} | ({"example": example} if example else {})
    body = {"required": True, "content": {"application/json": content}}
    return {"summary": summary, "requestBody": body, "responses": _responses()}


def _get(summary: str, kind: str = "application/json") -> dict:
    ok = {"200": {"description": "it is so", "content": {kind: {}}}}
    return {"summary": summary, "responses": ok | {"503": _refusal("503")}}


def _infer(of: Schema) -> dict:
    tensor = {
        "name": {"enum": [c.name for c in of.columns]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array"},
    }
    items = {"type": "object", "properties": tensor, "required": [*tensor]}
    inputs = {"inputs": {"type": "array", "items": items}}
    told = _post("Open Inference Protocol: answer tensors", inputs, None)
    told["requestBody"]["content"]["application/json"]["schema"].pop("additionalProperties")
    return told


def _responses() -> dict:
    ok = {"200": {"description": "answered", "content": {"application/json": {}}}}
    return ok | {code: _refusal(code) for code in REFUSALS}


def _refusal(code: str) -> dict:
    return {"description": REFUSALS[code], "content": {"application/json": {"schema": ERROR}}}
