"""The Open Inference Protocol (V2) for clients of KServe, Triton and Seldon: tensors and rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from modelkeep.data.definitions import Schema
from modelkeep.serving.models import Model, Prediction
from modelkeep.serving.requests import ValidationError, explained

NUMBERS = ("FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8")
NUMBERS += ("UINT64", "UINT32", "UINT16", "UINT8")
RAW = {"FP64": "<f8", "FP32": "<f4", "FP16": "<f2", "BOOL": "?"}
RAW |= {"INT64": "<i8", "INT32": "<i4", "INT16": "<i2", "INT8": "<i1"}
RAW |= {"UINT64": "<u8", "UINT32": "<u4", "UINT16": "<u2", "UINT8": "<u1"}
DATATYPES = {"number": NUMBERS, "category": ("BYTES", "BOOL", *NUMBERS)}
EXTENSIONS = ("binary_tensor_data",)


class Tensor(msgspec.Struct):
    """A named column of values; `shape` is [rows] or [rows, 1]."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] = []
    parameters: dict[str, Any] = {}


class Output(msgspec.Struct):
    """A requested output."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """The body of a request to `/v2/models/NAME/infer`."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[Output] = []


def rows(body: bytes, schema: Schema, json_bytes: str = "") -> tuple[InferRequest, bytes]:
    """The request, and its rows as a body of `/predict`.

    `json_bytes`: how much of the body is JSON, where binary tensors follow. ValidationError where a
    tensor is no column of the schema.
    """
    text, binary = body, b""
    if json_bytes:
        if not (json_bytes.isascii() and json_bytes.isdigit()) or int(json_bytes) > len(body):
            place = "inference-header-content-length"
            raise ValidationError(place, "must be the size of the JSON", 400)
        text, binary = body[: int(json_bytes)], body[int(json_bytes) :]
    try:
        request = msgspec.json.decode(text, type=InferRequest)
    except msgspec.ValidationError as error:
        found = explained(error)
        raise ValidationError(found.place, found.message, 400) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValidationError("$", f"not JSON: {error}", 400) from None
    _unpack(request.inputs, binary)
    kinds = {c.name: DATATYPES[c.kind] for c in schema.columns}
    kinds |= {name: ("BYTES", *NUMBERS) for name, _ in _roles(schema)}
    columns: dict[str, list] = {}
    for i, tensor in enumerate(request.inputs):
        columns[tensor.name] = _values(tensor, f"$.inputs[{i}]", kinds, columns)
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) != 1:
        message = f"must all have the same number of rows, not {sizes or 'none'}"
        raise ValidationError("$.inputs", message)
    table = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return request, msgspec.json.encode({"rows": table})


def _unpack(tensors: Sequence[Tensor], binary: bytes) -> None:
    """Fill in the raw little-endian values that follow the JSON, tensor after tensor."""
    at = 0
    for i, tensor in enumerate(tensors):
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            continue
        place = f"$.inputs[{i}].parameters.binary_data_size"
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            message = f"must be the bytes of this tensor; {len(binary) - at} are left"
            raise ValidationError(place, message)
        tensor.data = _raw(tensor.datatype, binary[at : at + size], place)
        at += size
    if at != len(binary):
        message = f"{len(binary) - at} bytes after the JSON belong to no tensor"
        raise ValidationError("$", message, 400)


def _raw(datatype: str, raw: bytes, place: str) -> list:
    if datatype == "BYTES":
        return list(_texts(raw, place))
    if datatype not in RAW or len(raw) % np.dtype(RAW[datatype]).itemsize:
        raise ValidationError(place, f"is no whole number of values of {datatype[:20]!r}")
    values = np.frombuffer(raw, RAW[datatype])
    if np.isinf(values).any():
        raise ValidationError(place.partition(".parameters")[0], "holds an infinity")
    return [None if v != v else v for v in values.tolist()]


def _texts(raw: bytes, place: str) -> Iterator[str]:
    """Texts that each stand after their length in four bytes."""
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        at += 4 + size
        if at > len(raw):
            raise ValidationError(place, "cuts a text off")
        try:
            yield raw[at - size : at].decode()
        except UnicodeDecodeError:
            where = place.partition(".parameters")[0]
            raise ValidationError(where, "holds text that is not UTF-8") from None


def _values(tensor: Tensor, place: str, kinds: dict, before: dict) -> list:
    if tensor.name not in kinds or tensor.name in before:
        known = "is there twice" if tensor.name in before else "is no input of this model"
        message = f"{tensor.name[:60]!r} {known}; see /v2/models for the inputs"
        raise ValidationError(f"{place}.name", message)
    if tensor.datatype not in kinds[tensor.name]:
        message = f"must be one of {', '.join(kinds[tensor.name])}"
        raise ValidationError(f"{place}.datatype", message)
    data = tensor.data
    if data and all(isinstance(each, list) and len(each) == 1 for each in data):
        data = [each[0] for each in data]
    if tensor.shape not in ([len(data)], [len(data), 1]):
        message = f"must be [{len(data)}, 1], as there are {len(data)} values"
        raise ValidationError(f"{place}.shape", message)
    return data


def _roles(schema: Schema) -> list[tuple[str, str]]:
    """The optional inputs, by their names: what names, dates and groups a row."""
    roles = {schema.id: "id", schema.entity: "entity", schema.time: "time"}
    return [(name, role) for name, role in roles.items() if name]


def metadata(name: str, model: Model) -> dict:
    """The reply to `/v2/models/NAME`; inputs with the parameter `optional` may be left out."""
    schema = model.schema
    inputs: list[dict] = [
        {"name": c.name, "datatype": "FP64" if c.kind == "number" else "BYTES", "shape": [-1, 1]}
        for c in schema.columns
    ]
    inputs += [
        {
            "name": column,
            "datatype": "BYTES",
            "shape": [-1, 1],
            "parameters": {"optional": True, "role": role},
        }
        for column, role in _roles(schema)
    ]
    predicted = {"name": "prediction", "datatype": "FP64", "shape": [-1]}
    if schema.classes:
        shape = [-1, len(schema.classes)]
        predicted = {"name": "probabilities", "datatype": "FP64", "shape": shape}
    names = ("label", "id", "model") if schema.classes else ("id", "model")
    interval = {"name": "interval", "datatype": "FP64", "shape": [-1, 2]}
    predictions = [predicted, interval] if model.intervals else [predicted]
    outputs = [*predictions, *({"name": n, "datatype": "BYTES", "shape": [-1]} for n in names)]
    return {
        "name": name,
        "versions": [model.name],
        "platform": f"modelkeep_{model.manifest['serving']['engine']}",
        "inputs": inputs,
        "outputs": outputs,
    }


def response(
    request: InferRequest, name: str, model: Model, results: Sequence[Prediction | ValidationError]
) -> dict:
    """The reply to `infer`; tensors have no room for an error, so one bad row refuses them all.

    Notes on rows are the response parameter `notes`, as `0: temp is above ...; 3: ...`.
    """
    for i, each in enumerate(results):
        if isinstance(each, ValidationError):
            column = each.place.rpartition(".")[2]
            place = f"$.inputs[name={column}].data[{i}]"
            raise ValidationError(place, each.message, each.status)
    schema, n = model.schema, len(results)
    values = {
        "id": [str(r.row.id) for r in results],
        "model": [r.model.name for r in results],
    }
    if schema.classes:
        values["probabilities"] = [p for r in results for p in r.value]
        values["label"] = [schema.classes[r.best] for r in results]
    else:
        values["prediction"] = [r.value for r in results]
        values["interval"] = [float(end) for r in results for end in r.text.split(b",")[1:]]
    shapes = {o["name"]: o for o in metadata(name, model)["outputs"]}
    wanted = [o.name for o in request.outputs] or list(shapes)
    if strange := [o for o in wanted if o not in shapes]:
        message = f"{strange[0][:60]!r} is no output; there is: {', '.join(shapes)}"
        raise ValidationError("$.outputs", message)
    outputs = [
        {**shapes[o], "shape": [n, *shapes[o]["shape"][1:]], "data": values[o]} for o in wanted
    ]
    reply = {"model_name": name, "model_version": model.name, "outputs": outputs}
    notes = "; ".join(f"{i}: {', '.join(r.notes)}" for i, r in enumerate(results) if r.notes)
    reply |= {"parameters": {"notes": notes}} if notes else {}
    return reply | ({"id": request.id} if request.id else {})
