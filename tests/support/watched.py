"""Models in service for tests: replicas whose metrics are read over HTTP, and rows as a server has them."""

import threading
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

import example
import monitors
import synthetic
from modelkeep.data import schema
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.predictions import frames
from modelkeep.training import pipelines

FLIGHTS = {"label": "late", "id_column": "flight_id", "time_column": "scheduled"}


@lru_cache
def flights() -> pd.DataFrame:
    """All flights of 2013."""
    return example.table()


def flights_model(folder: Path):
    """A small model of January to 10 March, with the rest of March to come."""
    table = flights().drop(columns="tailnum")
    parts = synthetic.prepared(frame=table, as_of="2013-04-01", test_days=21, **FLIGHTS)
    return synthetic.sealed(folder, parts, learning_rate=0.5, max_depth=5)


def seen(rows: pd.DataFrame, of) -> tuple[np.ndarray, list[list]]:
    """Rows as a server has them: numbers, and the columns of categories."""
    frame = pipelines.features(rows, of)
    named = {k: [c.name for c in of.columns if c.kind == k] for k in ("number", "category")}
    texts = frame[named["category"]].astype(object)
    texts = texts.where(texts.notna(), None)
    return frame[named["number"]].to_numpy("float64"), texts.to_numpy().T.tolist()


def text(telemetry: Telemetry, now: float | None = None) -> str:
    """The page of metrics as a client that asks for nothing special reads it."""
    telemetry.settle(now)
    return telemetry.render()[0].decode()


class Replica:
    """One process that answers, as far as its metrics are concerned; what is read comes `late` seconds after the moment that it tells of."""

    def __init__(self, late: float = 0.0) -> None:
        self.late = late
        self.telemetry, self.lock = Telemetry(monitors.CONTRACT), threading.Lock()

    def page(self, path: str = "", body: bytes = b"") -> bytes:
        """What Prometheus reads."""
        with self.lock:
            said = text(self.telemetry).encode()
        time.sleep(self.late)
        return said

    def serve(self, served, role: str, version: str) -> None:
        """Put a model in service."""
        with self.lock:
            self.telemetry.serve(served, role, version=version)

    def send(self, served, rows: pd.DataFrame, version: str, turn: int = 32, **words) -> None:
        """Answer rows, so many in a turn of the loop."""
        numbers, categories = seen(rows, served.schema)
        said = frames.predictions(rows, served.schema)
        for i in range(0, len(rows), turn):
            part = slice(i, i + turn)
            with self.lock:
                now = words.get("at", time.time())
                self.telemetry.answered(
                    version,
                    "champion",
                    numbers[part],
                    [c[part] for c in categories],
                    said[part],
                    at=now,
                )
                for _ in said[part]:
                    self.telemetry.requests(
                        "predict", words.get("code", 200), words.get("seconds", 0.004)
                    )
                self.telemetry.log_committed(len(said[part]), 0.001)

    def labels(self, served, rows: pd.DataFrame, version: str, at: float) -> None:
        """Say what came true of rows that were answered at `at`."""
        of = served.schema
        truth = pipelines.outcome(rows, of).tolist()
        with self.lock:
            for answer, true in zip(
                np.atleast_2d(frames.predictions(rows, of).T).T.tolist(), truth
            ):
                if of.task == "regression":  # the ends of an interval, as the server logs them
                    answer += [answer[0] - 1, answer[0] + 1]
                self.telemetry.label("first")
                self.telemetry.truth(version, at, answer, true, now=time.time())


def answered(served, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that fit, with what the model says of them."""
    rows = schema.clean(rows, served.schema).rows
    return frames.with_predictions(rows, served.schema, served.predict(rows))
