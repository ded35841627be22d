"""This repository as an analyst uses it: its rows, models, versions and reports."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

import pandas as pd

from modelkeep.analyst import models, registry, tables
from modelkeep.analyst.predictions import PredictionLog
from modelkeep.analyst.registry import Registry
from modelkeep.analyst.tables import RowsError
from modelkeep.core import files, verdicts, workspace
from modelkeep.core.verdicts import Verdict
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.training import baseline
from modelkeep.training.bundle import Bundle

ROWS = {
    "train": "data/prepared/train.parquet",
    "test": "data/prepared/test.parquet",
    "collected": "data/collected/rows.parquet",
    "quarantine": "data/quarantine/rows.parquet",
}


class Workspace:
    """The workspace around the current folder, or around `start`."""

    def __init__(self, start: Path | str | None = None) -> None:
        self.root = workspace.root(Path(start) if start else None)

    @property
    def schema(self) -> Schema:
        """What the columns of the table are to the model."""
        schema = models.schema(self.root)
        if schema is None:
            raise models.NotMade(f"{models.SCHEMA} is not there: `make run` makes it")
        return schema

    def rows(self, name: str) -> pd.DataFrame:
        """The rows called `train`, `test`, `collected` or `quarantine`, readable.

        `collected` rows hold predictions, too: the label is missing where it has not come yet.
        """
        if name not in ROWS:
            near = workspace.meant(name, list(ROWS))
            raise RowsError(f"there are no rows {name!r}{near}; there are: {', '.join(ROWS)}")
        rows = splits.load(self.root / ROWS[name])
        return rows if name == "quarantine" else tables.readable(rows, self.schema)

    def candidate(self) -> Bundle:
        """The model that the last run of `train` made."""
        return models.candidate(self.root)

    def champion(self) -> Bundle | None:
        """The model that is champion; None where there is none yet."""
        folder = baseline.champion_folder(self.root)
        return models.load(folder) if folder else None

    def registry(self) -> Registry:
        """The versions on record."""
        return Registry(self.root)

    def predictions(self, **window: object) -> pd.DataFrame:
        """The prediction log joined with labels; `window` is that of `PredictionLog.rows`."""
        return PredictionLog(root=self.root).rows(**window)

    def live(self, day: str) -> pd.Series:
        """Which version was champion on a day: version, since, until."""
        return self.registry().champion_at(day)

    def reports(self, version: str = "") -> pd.DataFrame:
        """The pages of a version, or those that are here: a line a stage, with its conclusion."""
        return registry.reports(self.root, version)

    def finish(self, stage: str, verdict: Verdict, metrics: Mapping[str, float]) -> None:
        """Write what a stage ends with: metrics/STAGE.json and verdicts/STAGE.json."""
        files.write_json(self.root / "metrics" / f"{stage}.json", dict(metrics))
        verdicts.write(verdict, self.root)

    def __repr__(self) -> str:
        conclusions = verdicts.read(self.root)
        lines = [f"Workspace {self.root.name}"]
        lines += [f"  {stage}: {verdict['sentence']}" for stage, verdict in conclusions.items()]
        return "\n".join(lines if conclusions else [*lines, "  no stage has run yet: `make run`"])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"
