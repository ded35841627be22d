"""The prediction log as a DataFrame: predictions joined with the labels that have come."""

from contextlib import closing
from html import escape
from pathlib import Path

import pandas as pd

from modelkeep.analyst import models, tables
from modelkeep.core import workspace
from modelkeep.jobs import forget as erasing
from modelkeep.jobs import score as scoring
from modelkeep.jobs import trace as tracing
from modelkeep.jobs.forget import Forgotten
from modelkeep.jobs.score import Scored
from modelkeep.jobs.trace import Trace
from modelkeep.monitoring import sources
from modelkeep.predictions.log import open_log
from modelkeep.training.bundle import Bundle

EVERYTHING_DAYS = 36_500.0


class PredictionLog:
    """The prediction log at a URL; the workspace's own (params/serve.yaml) where none is given."""

    def __init__(self, url: str = "", *, root: Path | None = None, model: Bundle | None = None):
        self.root = root or workspace.root()
        self.url = url or str(workspace.params(self.root, "serve")["log"])
        self.model = model

    def rows(self, *, days: float = EVERYTHING_DAYS, until: str = "", model: str = ""):
        """Predictions with their labels, a line each: id, time, features, label, prediction.

        `days` before `until` (default: the newest prediction); `model` takes those of one model by
        its short name. `answered_by` names the model, `labelled_at` says when the label came;
        `result.attrs["quarantined"]` counts the rows that do not fit its schema.
        """
        schema = (self.model or models.candidate(self.root)).schema
        collected = sources.logged(self.url, self.root, schema, days, until, model)
        table = tables.readable(collected.rows, schema)
        table.attrs["quarantined"] = len(collected.quarantine)
        return table

    def newest(self) -> pd.Timestamp | None:
        """When the newest prediction was given (UTC)."""
        with closing(open_log(self.url, root=self.root, create=False)) as log:
            newest = log.newest()
        return None if newest is None else pd.Timestamp(newest, unit="us")

    def __repr__(self) -> str:
        try:
            state = f"newest prediction {self.newest() or 'none'}"
        except RuntimeError as error:
            state = str(error)
        return f"PredictionLog {self.url.split('@')[-1]}\n  {state}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def trace(id: str, *, explain: bool = False, root: Path | None = None) -> list[Trace]:
    """The predictions of a row's id, oldest first, each with all that it rests on.

    Row, notes, role, model, version, evidence, labels; the bundle in the store predicts it again.
    `explain` adds what each column adds to the prediction.
    """
    return tracing.trace(root or workspace.root(), id, explain=explain)


def forget(entity: str, *, dry_run: bool = True, root: Path | None = None) -> Forgotten:
    """What log, history and cache hold of an entity, and which versions learned from it.

    With `dry_run=False` its rows are removed, and a search proves it.
    """
    return erasing.forget(root or workspace.root(), entity, dry_run=dry_run)


def score_file(
    source: Path | str,
    out: Path | str,
    *,
    version: str = "",
    log: bool = False,
    root: Path | None = None,
) -> Scored:
    """Write the predictions of the rows of a file, or of a folder of files, to `out`.

    By the champion, or by a `version`; `log` also writes them to the prediction log.
    """
    return scoring.score(root or workspace.root(), Path(source), Path(out), version, log)
