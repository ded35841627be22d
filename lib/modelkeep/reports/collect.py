"""The page of `collect`: predictions, their labels with delays, and quarantined rows."""

import numpy as np
import pandas as pd

from modelkeep.core import markup
from modelkeep.core.markup import Html, count, number
from modelkeep.core.verdicts import Verdict
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.monitoring.sources import Collected
from modelkeep.predictions import frames
from modelkeep.reports import figures
from modelkeep.reports.figures import Figure

EXCESS = 0.005  # more quarantined than this above training's share: somebody must look
DAY = np.timedelta64(1, "D")


def counts(collected: Collected, schema: Schema) -> dict:
    """Where the collected rows went: rows_in = labelled + unlabelled + quarantined."""
    rows, aside = collected.rows, collected.quarantine
    labelled = int(rows[schema.label].notna().sum())
    out = {"rows_in": len(rows) + len(aside), "rows": len(rows), "labelled": labelled}
    out |= {"unlabelled": len(rows) - labelled, "quarantined": len(aside)}
    reasons = {rule: int(n) for rule, n in aside["rule"].value_counts().items()}
    return out | {"reasons": reasons}


def verdict(collected: Collected, schema: Schema) -> Verdict:
    """Numbers of predictions, labels and quarantined rows, and whether they need a person."""
    log, c = collected.rows, counts(collected, schema)
    problems = findings(collected, schema)
    if log.empty:
        earlier = (
            "a moment before the newest rows" if schema.time else "fewer rows than the table has"
        )
        remedy = collected.remedy or f"set as_of in params/prepare.yaml to {earlier}"
        why = collected.empty or "there are no rows after as_of to predict."
        if c["quarantined"]:
            why = f"none of {count(c['rows_in'], 'row')} fits the schema."
        sentence = f"Nothing was collected: {why}"
        return Verdict("collect", "investigate", sentence, tuple(problems or [remedy]), c)
    when = ""
    if schema.time:
        when = f" from {log[schema.time].min():%Y-%m-%d} to {log[schema.time].max():%Y-%m-%d}"
    share = f"{c['labelled']:,} have a label ({c['labelled'] / len(log):.1%})"
    aside = f"; {count(c['quarantined'], 'row')} quarantined" if c["quarantined"] else ""
    sentence = f"{count(len(log), 'prediction')}{when}, of which {share}{aside}."
    reasons, wait = problems or _named(c["reasons"]), frames.delays(log, schema)
    if len(wait):
        half, most = (number(np.quantile(wait, q)) for q in (0.5, 0.9))
        reasons.append(f"half of the labels came within {half} days, nine of ten within {most}")
    return Verdict("collect", "investigate" if problems else "ok", sentence, tuple(reasons), c)


def findings(collected: Collected, schema: Schema) -> list[str]:
    """What needs a person: more rows quarantined than in training, new classes, predictions that
    end.
    """
    c, aside = counts(collected, schema), collected.quarantine
    found, share = [], c["quarantined"] / max(c["rows_in"], 1)
    if share > schema.quarantined_share + EXCESS:
        found.append(
            f"{share:.1%} of {count(c['rows_in'], 'row')} do not fit the schema, of the training "
            f"rows {schema.quarantined_share:.1%}; mend the source, or state rules and prepare "
            "again"
        )
        found += _named(c["reasons"])
    if schema.classes and schema.label in aside:
        strange = aside.loc[aside["rule"].str.startswith(f"{schema.label}: "), schema.label]
        new = strange.dropna().value_counts()
        if len(new):
            names = markup.several([f"{name!r} ({n:,} rows)" for name, n in new.items()])
            found.append(
                f"{schema.label} has {count(len(new), 'new class').replace('classs', 'classes')} "
                f"that training never saw: {names}; prepare again once there are enough of them"
            )
    until, rows = collected.source_until, collected.rows
    if until is not None and schema.time and len(rows):
        newest = rows[schema.time].max()
        if until.floor("D") - newest.floor("D") >= DAY:
            found.append(
                f"predictions end on {newest:%Y-%m-%d} and the source goes on until "
                f"{until:%Y-%m-%d}; find out why its rows are not predicted"
            )
    return found


def _named(reasons: dict[str, int]) -> list[str]:
    return [f"quarantined: {n:,} for {why}" for why, n in list(reasons.items())[:5]]


def quarantine(collected: Collected) -> Html:
    """How many rows were quarantined for which reason, with an example of each."""
    aside = collected.quarantine
    first = aside.drop_duplicates("rule").set_index("rule")["reason"]
    rows = [
        {"rule": rule, "rows": int(n), "for example": first[rule]}
        for rule, n in aside["rule"].value_counts().items()
    ]
    return markup.table(rows, "No row was quarantined.")


def arrived(log: pd.DataFrame, schema: Schema) -> Figure | Html:
    """Predictions by week, with and without a label."""
    if log.empty:
        return markup.table([], "There is nothing to draw.")
    week, index = splits.weeks(log, schema)
    known = log[schema.label].notna().to_numpy()
    parts = {
        "label known": np.bincount(index[known], minlength=len(week)),
        "not known": np.bincount(index[~known], minlength=len(week)),
    }
    return figures.timeline(
        week,
        {"not known": parts["not known"], "label known": parts["label known"]},
        title="Predictions by week, with and without a label",
        caption=f"{len(log):,} predictions, {known.sum():,} with a label ({known.mean():.0%}); "
        "the others cannot be judged yet.",
    )


def waiting(log: pd.DataFrame, schema: Schema) -> Figure | Html:
    """How many of the labels had come after so many days."""
    wait = frames.delays(log, schema)
    if not len(wait):
        return markup.table([], "No label has a time of arrival.")
    return figures.waiting(
        wait,
        title="Share of labels received, by days since the prediction",
        caption=f"{len(wait):,} labels that have come, nine of ten within "
        f"{number(np.quantile(wait, 0.9))} days: no decline can be shown sooner.",
    )


def mean_prediction(log: pd.DataFrame, schema: Schema) -> Figure | Html:
    """The mean prediction by week."""
    if log.empty:
        return markup.table([], "There is nothing to draw.")
    week, index = splits.weeks(log, schema)
    value = frames.predictions(log, schema)
    value = value if value.ndim == 1 else value[:, -1]
    n = np.bincount(index, minlength=len(week))
    mean = np.bincount(index, weights=value, minlength=len(week)) / np.where(n > 0, n, np.nan)
    name = (
        "mean prediction"
        if not schema.classes
        else f"mean p({schema.label} = {schema.classes[-1]})"
    )
    return figures.course(
        week,
        mean,
        name=name,
        title="Mean prediction by week",
        caption=f"{len(log):,} predictions; from {number(np.nanmin(mean))} to "
        f"{number(np.nanmax(mean))}. The monitor's page says if that is more than chance.",
        share=bool(schema.classes),
    )


def example(log: pd.DataFrame, schema: Schema) -> Html:
    """One line of the log, column by column."""
    if log.empty:
        return markup.table([], "There is no line yet.")
    first = log.iloc[0]
    return markup.table([{"column": name, "holds": number(first[name])} for name in log.columns])
