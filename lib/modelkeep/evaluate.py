"""What the page of `evaluate` says: whom the candidate was compared with, and what came of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep import bundle, figures, gate, models, report, scores, tables
from modelkeep.bundle import Bundle
from modelkeep.figures import Figure
from modelkeep.report import Html, between, count, number, several
from modelkeep.schema import Schema
from modelkeep.verdicts import Verdict

SLICE_ROWS = 200  # a named slice with fewer test rows is not compared
SLICE_NAMES = 10
PARTS = {"value": "gain", "low": "low", "high": "high"}  # of a row in a forest figure
SAYS = {
    "better": "is better than",
    "not_worse": "is not worse than",
    "worse": "is worse than",
    "inconclusive": "cannot be told from",
    "insufficient": "cannot be compared yet with",
}


class ChampionError(ValueError):
    """The file models/champion.json does not name a usable bundle."""


class SliceError(ValueError):
    """A slice that cannot be cut."""


@dataclass(frozen=True)
class Opponent:
    """Whom the candidate is compared with: its answers on the test rows, and the rows that either model learned from."""

    name: str
    answers: np.ndarray
    trained_rows: np.ndarray


def opponent(root: Path, candidate: Bundle, rows: pd.DataFrame) -> Opponent:
    """The champion that `models/champion.json` names, or the better of two plain baselines."""
    named = _named(root / "models" / "champion.json")
    if not named.get("bundle"):
        name, answers = _baseline(candidate, rows)
        return Opponent(name, answers, candidate.trained_rows)
    champion = bundle.load(root / named["bundle"])
    if named.get("sha256", champion.sha256) != champion.sha256:
        raise ChampionError(
            f"{named['bundle']} holds the model {champion.name}, models/champion.json names {named['sha256'][:10]}; "
            f"`dvc checkout {named['bundle']}` brings that here"
        )
    check_comparable(champion.schema, candidate.schema)
    name = f"the champion {named.get('version') or champion.name}"
    # by its own schema: with other features a row has another hash
    gate.refuse_leaks(bundle.row_hashes(rows, champion.schema), champion.trained_rows, name)
    both = np.concatenate([candidate.trained_rows, champion.trained_rows])
    return Opponent(name, champion.predict(rows), both)


def _named(path: Path) -> dict:
    try:
        named = json.loads(path.read_text())
        if isinstance(named, dict):
            return named
        error = f"it holds {named!r}"
    except (OSError, ValueError) as found:
        error = str(found)
    raise ChampionError(
        f'models/{path.name}: not readable as {{"version": ..., "bundle": ...}} ({error}); '
        "set bundle to the champion's folder, or to null where there is none"
    )


def check_comparable(champion: Schema, candidate: Schema) -> None:
    """The test rows are clean to the candidate's schema; the champion must be able to read them."""
    for what in ("task", "label", "classes", "id", "time"):
        theirs, ours = getattr(champion, what), getattr(candidate, what)
        if theirs != ours:
            said = [several(x) if isinstance(x, tuple) else x or "none" for x in (theirs, ours)]
            raise ChampionError(
                f"models/champion.json: the champion's {what} is {said[0]}, the candidate's {said[1]}; "
                "they cannot be compared: set bundle to null to start anew"
            )
    have = {(c.name, c.kind) for c in candidate.columns}
    lost = [f"{c.name} ({c.kind})" for c in champion.columns if (c.name, c.kind) not in have]
    if lost:
        raise ChampionError(
            f"models/champion.json: the champion needs {several(lost)}, which the candidate's rows do not have; "
            "keep such columns by `features` and `rules` in params/prepare.yaml, or set bundle to null to start anew"
        )


def _baseline(candidate: Bundle, rows: pd.DataFrame) -> tuple[str, np.ndarray]:
    """The better on the test of: the share of each class (or the mean) in all rows that cross-validation asked about, and in the newest of them, as many days as the test has."""
    of = candidate.schema
    known = candidate.promise
    blocks = tables.blocks(known, of)
    newest = np.unique(blocks)[-len(np.unique(tables.blocks(rows, of))) :]
    what = "mean" if of.task == "regression" else "rate"
    choices = {
        f"always saying the {what} of the past": known,
        f"always saying the newest {what}": known[blocks >= newest[0]],
    }
    y, found = models.outcome(rows, of), {}
    for name, past in choices.items():
        outcome = models.outcome(past, of)
        if of.task == "regression":
            said = np.full(len(rows), outcome.mean())
        else:
            share = np.bincount(outcome, minlength=len(of.classes)) + 0.5
            said = np.tile(share / share.sum(), (len(rows), 1))
        found[name] = said
    first = scores.METRICS[of.task][0]
    loss = {name: scores.per_row(of.task, y, said)[first].mean() for name, said in found.items()}
    best = min(loss, key=loss.get)
    return best, found[best]


def slices(rows: pd.DataFrame, of: Schema, named: Sequence[str]) -> dict[str, np.ndarray]:
    """Which rows are in each named slice; only values with enough rows are compared."""
    known = {c.name: c for c in of.columns if c.kind == "category"}
    for name in named:
        if name not in known:
            raise SliceError(
                f"slices: {name!r} is not a category among the features; there is: {', '.join(known) or 'none'}"
            )
    chosen = named or [k for k, c in known.items() if len(c.categories) <= SLICE_NAMES]
    return {
        f"{name} {value}": (rows[name] == value).to_numpy()
        for name in chosen
        for value in known[name].categories
        if (rows[name] == value).sum() >= SLICE_ROWS
    }


def verdict(judged: gate.Verdict, against: str, checked: int) -> Verdict:
    """Whether the candidate may leave the laboratory."""
    first = judged.gains[0]
    worse = [row["slice"] for row in judged.slices if row["verdict"] == "worse"]
    sentence = (
        f"The candidate {SAYS[judged.word]} {against}, on {_seen_on(first)} that neither had seen."
    )
    if worse and not any(g.verdict == "worse" for g in judged.gains):
        sure = all(g.verdict in ("better", "not_worse") for g in judged.gains)
        in_all = "is not worse than" if sure else SAYS["inconclusive"]
        sentence = f"The candidate {in_all} {against} in all, but worse for {several(worse)}: it may not pass."
    reasons = [_gain(g) for g in judged.gains]
    if judged.word == "insufficient":
        unit, knob = ("row", "test_share") if first.blocks == first.rows else ("day", "test_days")
        reasons.append(
            f"the test has {count(first.blocks, unit)}, and {gate.MINIMUM_BLOCKS} are needed: "
            f"raise {knob}, or let a person decide"
        )
    reasons.append(f"{count(checked, 'test row')} checked against the training rows: none leaked")
    if judged.slices:
        open_ = sum(row["verdict"] == "insufficient" for row in judged.slices)
        told = f"; {open_} of them on too few days to say" if open_ else ""
        reasons.append(
            f"worse for {len(worse)} of {count(len(judged.slices), 'named slice')}{told}"
        )
    return Verdict("evaluate", judged.word, sentence, tuple(reasons), judged.as_dict())


def _seen_on(g: gate.Gain) -> str:
    rows = count(g.rows, "row")
    return rows if g.blocks == g.rows else f"{rows} of {count(g.blocks, 'day')}"


def _gain(g: gate.Gain) -> str:
    side = "worse" if g.gain < 0 else "better"
    between = f", between {number(g.low)} and {number(g.high)}" if np.isfinite(g.low) else ""
    return (
        f"{scores.NAMES[g.metric]}: {side} by {number(abs(g.gain))}{between}"
        f" (margin {number(g.margin)}): {g.verdict.replace('_', ' ')}"
    )


def gains(judged: gate.Verdict, margins: dict[str, float]) -> Figure | Html:
    """The gain in each metric as a share of its margin, so that one line is the margin of all."""
    if not all(m > 0 for m in margins.values()):
        return report.table(
            [{"metric": scores.NAMES[g.metric], "gain": g.gain} for g in judged.gains]
        )
    rows = [
        {"name": scores.NAMES[g.metric], "breach": g.verdict == "worse"}
        | {part: getattr(g, name) / g.margin for part, name in PARTS.items()}
        for g in judged.gains
    ]
    stated = ", ".join(f"{scores.NAMES[k]} {number(v)}" for k, v in margins.items())
    return figures.forest(
        rows,
        name="gain in margins; right of zero the candidate is better",
        title="Is the candidate better, and by how many margins?",
        caption=f"{_seen_on(judged.gains[0])}; one-sided limits at {judged.alpha:.0%} each; one margin is {stated}. Conclusion: {judged.word.replace('_', ' ')}.",
        margin=1,
    )


def side_by_side(
    task: str,
    y: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    blocks: np.ndarray,
    against: str,
) -> Html:
    """Each metric of both models with its interval."""
    rows = []
    for name, said in (("candidate", ours), (against, theirs)):
        found = scores.summary(task, y, said, blocks)
        shown = {scores.NAMES[k]: between(e.value, e.low, e.high) for k, e in found.items()}
        rows.append({"model": name, **shown})
    return report.table(rows)


def calibration(rows: pd.DataFrame, of: Schema, y: np.ndarray, said: np.ndarray) -> Figure | Html:
    """Predicted against observed rates of the last class on the test rows."""
    if of.task == "regression":
        return report.table(
            [], "Calibration is a question for classes; this model predicts numbers."
        )
    points = scores.calibration(y, said, tables.blocks(rows, of))
    return figures.calibration(
        points,
        name="candidate",
        title=f"How often was {of.label} = {of.classes[-1]}, where the model said so?",
    )


def calibration_csv(of: Schema, y: np.ndarray, said: np.ndarray, blocks: np.ndarray) -> str:
    """The calibration's points for `dvc plots`."""
    lines = ["predicted,observed"]
    if of.task != "regression":
        points = scores.calibration(y, said, blocks)
        lines += [f"{r['predicted']:.6g},{r['observed']:.6g}" for r in points]
    return "\n".join(lines) + "\n"


def slice_figure(judged: gate.Verdict) -> Figure | Html:
    """The gain in each named slice, worst first."""
    if not judged.slices:
        return report.table([], "No slice has enough rows to be compared by itself.")
    ordered = sorted(judged.slices, key=lambda r: r["gain"])[:20]
    rows = [
        {"name": r["slice"], "breach": r["verdict"] == "worse"}
        | {part: r[name] for part, name in PARTS.items()}
        for r in ordered
    ]
    metric = scores.NAMES[judged.gains[0].metric]
    return figures.forest(
        rows,
        name=f"gain in {metric}: right of zero the candidate is better",
        title="For whom is the candidate better or worse?",
        caption=f"{count(len(rows), 'slice')} of {len(judged.slices)}, worst first, each with at least {SLICE_ROWS} rows; 95 % intervals by block. "
        f"Worse for sure: {several([r['name'] for r in rows if r['breach']]) or 'none'}.",
    )


def design_effects(judged: gate.Verdict) -> list[dict]:
    """Per metric, how many independent rows the test rows are worth."""
    return [
        {
            "metric": scores.NAMES[g.metric],
            "rows": g.rows,
            "blocks": g.blocks,
            "design effect": g.design_effect,
            "worth so many independent rows": round(g.rows / g.design_effect)
            if g.design_effect > 0
            else None,
        }
        for g in judged.gains
    ]


def stage_metrics(task: str, y: np.ndarray, said: np.ndarray, judged: gate.Verdict) -> dict:
    """The candidate's metrics on the test rows and its gains, for `dvc metrics`."""
    found = {k: float(np.mean(v)) for k, v in scores.per_row(task, y, said).items()}
    return found | {f"gain_{g.metric}": g.gain for g in judged.gains}
