"""A real server in a process of its own, and its traffic: requests by the hour, then labels."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pandas as pd

HOUR, IDLE = 3600, 2  # seconds
MOST = 900  # rows or labels in one body


class Server:
    """`modelkeep serve` in a workspace, on our clock; ended by its own pid."""

    def __init__(self, root: Path, clock: Path, errors: Path, env: Mapping[str, str]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("server.py")), str(clock)]
        with open(errors, "ab") as stderr:
            kept = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
            self.process = subprocess.Popen(command, cwd=root, env=dict(env), **kept)
        line = self.process.stdout.readline()
        if not (found := re.search(r"http://[0-9.]+:([0-9]+);", line)):
            self.process.wait()
            self.process.stdout.close()
            raise RuntimeError(f"the server did not start: {line}{errors.read_text()[-2000:]}")
        self.connection, self.used = HTTPConnection("127.0.0.1", int(found[1]), timeout=60), 0.0

    def post(self, path: str, body: object) -> tuple[int, dict]:
        """Status and body of one response."""
        text, head = json.dumps(body).encode(), {"Content-Type": "application/json"}
        if time.monotonic() - self.used > IDLE:  # the server closes an idle connection
            self.connection.close()
        self.connection.request("POST", path, text, head)
        reply = self.connection.getresponse()
        response = reply.status, json.loads(reply.read())
        self.used = time.monotonic()
        return response

    def follow(self) -> dict[str, str]:
        """Let it read the store's pointer now; the served models by role."""
        return {role: m["sha256"] for role, m in self.post("/model", {})[1]["models"].items()}

    def stop(self) -> None:
        """End it as an operator would."""
        self.connection.close()
        os.kill(self.process.pid, signal.SIGTERM)
        self.process.wait(30)
        self.process.stdout.close()


class Traffic:
    """A table's rows in order of time, requested by the hour.

    Labels follow `delay` seconds after the row, except a share `lost` of them.
    """

    def __init__(self, table: pd.DataFrame, preparing: Mapping, lost: float, seed: int = 0) -> None:
        self.id, self.label = preparing["id_column"], preparing["label"]
        self.delay = round(preparing["label_delay_days"] * 24) * HOUR
        table = table.sort_values([preparing["time_column"], self.id], ignore_index=True)
        times = table[preparing["time_column"]].astype("datetime64[s]")
        self.hour = times.astype("int64").to_numpy() // HOUR * HOUR
        self.rows = table.drop(columns=self.label).assign(
            **{preparing["time_column"]: times.dt.strftime("%Y-%m-%dT%H:%M:%S")}
        )
        truth = table[self.label].astype(object).where(table[self.label].notna(), None)
        kept = np.random.default_rng(seed).random(len(table)) >= lost
        self.truth = [
            str(t) if t is not None and k else None for t, k in zip(truth, kept, strict=True)
        ]
        self.responses: dict[
            str, tuple[str, list[float]]
        ] = {}  # responses by id: model and prediction
        self.counts: Counter = Counter()

    def hourly(self, server: Server, now: int) -> None:
        """Send the labels known at the full hour `now`, then request the rows of the hour that
        begins.
        """
        due = self._slice(now - self.delay)
        labels = [
            {"id": i, "label": t}
            for i, t in zip(self.rows[self.id].iloc[due], self.truth[due], strict=True)
            if t is not None
        ]
        for first in range(0, len(labels), MOST):
            self._label(server, labels[first : first + MOST])
        rows = self.rows.iloc[self._slice(now)].astype(object)
        rows = rows.where(rows.notna(), None).to_dict("records")
        for first in range(0, len(rows), MOST):
            self._request(server, rows[first : first + MOST])

    def _slice(self, hour: int) -> slice:
        return slice(*np.searchsorted(self.hour, [hour, hour + 1]))

    def _request(self, server: Server, rows: list[dict]) -> None:
        self.counts["requested"] += len(rows)
        status, body = server.post("/predict", {"rows": rows})
        if status != 200:
            self.counts["failed"] += len(rows)
            return
        for row, each in zip(rows, body["predictions"], strict=True):
            if each.get("id") != row[self.id] or "model" not in each:
                self.counts["failed"] += 1
                continue
            self.responses[each["id"]] = each["model"], [*each["probabilities"].values()]
            self.counts["predicted"] += 1

    def _label(self, server: Server, labels: list[dict]) -> None:
        status, body = server.post("/labels", {"labels": labels})
        self.counts["labels"] += len(labels)
        if status != 200:
            self.counts["labels refused"] += len(labels)
            return
        self.counts.update(f"label {each['outcome']}" for each in body["labels"])
