"""A real server in a process of its own, and who asks it: rows when they happen, labels when they are known."""

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
    """`modelkeep serve` in a workspace, at a clock that we move; ended by its own pid."""

    def __init__(self, root: Path, clock: Path, said: Path, env: Mapping[str, str]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("server.py")), str(clock)]
        with open(said, "ab") as errors:
            kept = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
            self.process = subprocess.Popen(command, cwd=root, env=dict(env), **kept)
        line = self.process.stdout.readline()
        if not (found := re.search(r"http://[0-9.]+:([0-9]+);", line)):
            self.process.wait()
            self.process.stdout.close()
            raise RuntimeError(f"the server did not start: {line}{said.read_text()[-2000:]}")
        self.connection, self.used = HTTPConnection("127.0.0.1", int(found[1]), timeout=60), 0.0

    def post(self, path: str, body: object) -> tuple[int, dict]:
        """Status and answer of one request."""
        text, head = json.dumps(body).encode(), {"Content-Type": "application/json"}
        if time.monotonic() - self.used > IDLE:  # it closes a connection that rests
            self.connection.close()
        self.connection.request("POST", path, text, head)
        reply = self.connection.getresponse()
        said = reply.status, json.loads(reply.read())
        self.used = time.monotonic()
        return said

    def follow(self) -> dict[str, str]:
        """Let it look at the store's pointer now; who answers then, by role."""
        return {role: m["sha256"] for role, m in self.post("/model", {})[1]["models"].items()}

    def stop(self) -> None:
        """End it as an operator would."""
        self.connection.close()
        os.kill(self.process.pid, signal.SIGTERM)
        self.process.wait(30)
        self.process.stdout.close()


class Traffic:
    """A table's rows in the order of time, asked about by the hour; labels follow `delay` seconds after the row, a share `lost` of them never."""

    def __init__(self, table: pd.DataFrame, asked: Mapping, lost: float, seed: int = 0) -> None:
        self.id, self.label = asked["id_column"], asked["label"]
        self.delay = round(asked["label_delay_days"] * 24) * HOUR
        table = table.sort_values([asked["time_column"], self.id], ignore_index=True)
        times = table[asked["time_column"]].astype("datetime64[s]")
        self.hour = times.astype("int64").to_numpy() // HOUR * HOUR
        self.rows = table.drop(columns=self.label).assign(**{asked["time_column"]: times.dt.strftime("%Y-%m-%dT%H:%M:%S")})  # fmt: skip
        truth = table[self.label].astype(object).where(table[self.label].notna(), None)
        kept = np.random.default_rng(seed).random(len(table)) >= lost
        self.truth = [str(t) if t is not None and k else None for t, k in zip(truth, kept, strict=True)]  # fmt: skip
        self.given: dict[str, tuple[str, list[float]]] = {}  # what we were told, by id
        self.counts: Counter = Counter()

    def hourly(self, server: Server, now: int) -> None:
        """Send the labels that are known at the full hour `now`, and then ask about the rows of the hour that begins."""
        due = self._slice(now - self.delay)
        labels = [{"id": i, "label": t} for i, t in zip(self.rows[self.id].iloc[due], self.truth[due], strict=True) if t is not None]  # fmt: skip
        for first in range(0, len(labels), MOST):
            self._label(server, labels[first : first + MOST])
        rows = self.rows.iloc[self._slice(now)].astype(object)
        rows = rows.where(rows.notna(), None).to_dict("records")
        for first in range(0, len(rows), MOST):
            self._ask(server, rows[first : first + MOST])

    def _slice(self, hour: int) -> slice:
        return slice(*np.searchsorted(self.hour, [hour, hour + 1]))

    def _ask(self, server: Server, rows: list[dict]) -> None:
        self.counts["asked"] += len(rows)
        status, said = server.post("/predict", {"rows": rows})
        if status != 200:
            self.counts["failed"] += len(rows)
            return
        for row, each in zip(rows, said["predictions"], strict=True):
            if each.get("id") != row[self.id] or "model" not in each:
                self.counts["failed"] += 1
                continue
            self.given[each["id"]] = each["model"], [*each["probabilities"].values()]
            self.counts["answered"] += 1

    def _label(self, server: Server, labels: list[dict]) -> None:
        status, said = server.post("/labels", {"labels": labels})
        self.counts["labels"] += len(labels)
        if status != 200:
            self.counts["labels refused"] += len(labels)
            return
        self.counts.update(f"label {each['outcome']}" for each in said["labels"])
