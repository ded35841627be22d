"""The Open Inference Protocol (V2): its tensors to rows and back, so that KServe's and Seldon's clients work as they are."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from modelkeep.data.schema import Schema
from modelkeep.serving.models import Model, Prediction
from modelkeep.serving.requests import ValidationError

NUMBERS = ("FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8")
NUMBERS += ("UINT64", "UINT32", "UINT16", "UINT8")
RAW = {"FP64": "<f8", "FP32": "<f4", "FP16": "<f2", "BOOL": "?"}
RAW |= {"INT64": "<i8", "INT32": "<i4", "INT16": "<i2", "INT8": "<i1"}
RAW |= {"UINT64": "<u8", "UINT32": "<u4", "UINT16": "<u2", "UINT8": "<u1"}
KINDS = {"number": NUMBERS, "category": ("BYTES", "BOOL", *NUMBERS)}


class Tensor(msgspec.Struct):
    """A named column of values; `shape` is [rows] or [rows, 1]."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] = []
    parameters: dict[str, Any] = {}


class Output(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Request(msgspec.Struct):
    """What is posted to `/v2/models/NAME/infer`."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[Output] = []


def rows(body: bytes, of: Schema, json_bytes: bytes = b"") -> tuple[Request, bytes]:
    """The request, and its rows as a body of `/predict`; ValidationError where tensors are not columns of the schema. `json_bytes`: how much of the body is JSON, where binary tensors follow."""
    text, binary = body, b""
    if json_bytes:
        if not json_bytes.isdigit() or int(json_bytes) > len(body):
            raise ValidationError(
                "inference-header-content-length", "must be the size of the JSON", 400
            )
        text, binary = body[: int(json_bytes)], body[int(json_bytes) :]
    try:
        request = msgspec.json.decode(text, type=Request)
    except msgspec.ValidationError as error:
        raise ValidationError("$", str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValidationError("$", f"not JSON: {error}", 400) from None
    _unpack(request.inputs, binary)
    kinds = {c.name: KINDS[c.kind] for c in of.columns}
    kinds |= {n: ("BYTES", *NUMBERS) for n in (of.id, of.time, of.entity) if n}
    columns: dict[str, list] = {}
    for i, tensor in enumerate(request.inputs):
        columns[tensor.name] = _values(tensor, f"$.inputs[{i}]", kinds, columns)
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) != 1:
        raise ValidationError(
            "$.inputs", f"must all have the same number of rows, not {sizes or 'none'}"
        )
    table = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return request, msgspec.json.encode({"rows": table})


def _unpack(tensors: Sequence[Tensor], binary: bytes) -> None:
    """Fill in what came as raw little-endian bytes after the JSON, tensor after tensor."""
    at = 0
    for i, tensor in enumerate(tensors):
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            continue
        place = f"$.inputs[{i}].parameters.binary_data_size"
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            raise ValidationError(
                place, f"must be the bytes of this tensor; {len(binary) - at} are left"
            )
        tensor.data = _raw(tensor.datatype, binary[at : at + size], place)
        at += size
    if at != len(binary):
        raise ValidationError(
            "$", f"{len(binary) - at} bytes after the JSON belong to no tensor", 400
        )


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
            raise ValidationError(
                place.partition(".parameters")[0], "holds text that is not UTF-8"
            ) from None


def _values(tensor: Tensor, place: str, kinds: dict, before: dict) -> list:
    if tensor.name not in kinds or tensor.name in before:
        known = "is there twice" if tensor.name in before else "is no input of this model"
        raise ValidationError(
            f"{place}.name", f"{tensor.name[:60]!r} {known}; see /v2/models for the inputs"
        )
    if tensor.datatype not in kinds[tensor.name]:
        raise ValidationError(
            f"{place}.datatype", f"must be one of {', '.join(kinds[tensor.name])}"
        )
    data = tensor.data
    if data and all(isinstance(each, list) and len(each) == 1 for each in data):
        data = [each[0] for each in data]
    if tensor.shape not in ([len(data)], [len(data), 1]):
        raise ValidationError(
            f"{place}.shape", f"must be [{len(data)}, 1], as there are {len(data)} values"
        )
    return data


def metadata(name: str, model: Model) -> dict:
    """What `/v2/models/NAME` says."""
    of = model.schema
    inputs = [
        {"name": c.name, "datatype": "FP64" if c.kind == "number" else "BYTES", "shape": [-1, 1]}
        for c in of.columns
    ]
    said = {"name": "prediction", "datatype": "FP64", "shape": [-1]}
    if of.classes:
        said = {"name": "probabilities", "datatype": "FP64", "shape": [-1, len(of.classes)]}
    outputs = [said, {"name": "label", "datatype": "BYTES", "shape": [-1]}]
    outputs = outputs if of.classes else outputs[:1]
    outputs += [{"name": n, "datatype": "BYTES", "shape": [-1]} for n in ("id", "model")]
    return {
        "name": name,
        "versions": [model.name],
        "platform": f"modelkeep_{model.manifest['serving']['engine']}",
        "inputs": inputs,
        "outputs": outputs,
    }


def response(
    request: Request, name: str, model: Model, said: Sequence[Prediction | ValidationError]
) -> dict:
    """What `infer` answers; tensors have no room for a row that is refused, so the first one refuses them all."""
    for i, each in enumerate(said):
        if isinstance(each, ValidationError):
            column = each.place.rpartition(".")[2]
            raise ValidationError(f"$.inputs[name={column}].data[{i}]", each.message, each.status)
    of, n = model.schema, len(said)
    known = {"id": [str(s.row.id) for s in said], "model": [s.model.name for s in said]}
    if of.classes:
        known["probabilities"] = [p for s in said for p in s.answer]
        known["label"] = [of.classes[s.best] for s in said]
    else:
        known["prediction"] = [s.answer for s in said]
    shapes = {o["name"]: o for o in metadata(name, model)["outputs"]}
    wanted = [o.name for o in request.outputs] or list(shapes)
    if strange := [o for o in wanted if o not in shapes]:
        raise ValidationError(
            "$.outputs", f"{strange[0][:60]!r} is no output; there is: {', '.join(shapes)}"
        )
    outputs = [
        {**shapes[o], "shape": [n, *shapes[o]["shape"][1:]], "data": known[o]} for o in wanted
    ]
    answer = {"model_name": name, "model_version": model.name, "outputs": outputs}
    return answer | ({"id": request.id} if request.id else {})
