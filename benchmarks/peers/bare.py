"""A bare ASGI app with ONNX Runtime: JSON to arrays to the model, one call a request; no checks, metrics or log."""

import json
import os
from pathlib import Path

import msgspec
import numpy as np

from modelkeep.training.engines.onnx import Onnx

PLAN = json.loads(Path(os.environ["BENCHMARK_MODEL"]).with_name("encoding.json").read_bytes())
ENGINE = Onnx(PLAN, Path(os.environ["BENCHMARK_ONNX"]).read_bytes())
NUMBERS = [f["name"] for f in PLAN["features"] if "categories" not in f]
CATEGORIES = [f["name"] for f in PLAN["features"] if "categories" in f]
DECODE, ENCODE = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode


async def app(scope, receive, send):
    """Answer the rows of one body."""
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    rows = DECODE(body)["rows"]
    numbers = np.array([[row[name] for name in NUMBERS] for row in rows], np.float64)
    categories = [[row[name] for row in rows] for name in CATEGORIES]
    said = ENCODE({"answers": ENGINE.predict(numbers, categories).tolist()})
    length = (b"content-length", str(len(said)).encode())
    headers = [(b"content-type", b"application/json"), length]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})
