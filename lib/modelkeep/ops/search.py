"""A search for better parameters of `train`: each trial is a DVC experiment, judged in time order.

The trials are chosen by the out-of-fold rows of all folds but the last; the best one is then
compared with the present parameters on the last fold. The test rows of the gate are read by none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count, number, several
from modelkeep.data import splits
from modelkeep.evaluation import metrics
from modelkeep.ops import commits
from modelkeep.predictions import frames
from modelkeep.reports import experiments, paired
from modelkeep.reports.experiments import Run
from modelkeep.training import pipelines

if TYPE_CHECKING:
    import optuna

STAGE = "train"
AROUND = {"max_depth": 2, "trees": 4, "min_rows_leaf": 4, "learning_rate": 4, "l2": 100}
USUAL = {"forest": ("max_depth", "min_rows_leaf"), "linear": ("l2",)}  # else all of AROUND
# other rows, another judge, or no scale
FIXED = ("folds", "seed", "withhold", "recalibrate", "costs", "monotone")
SHOWN = 10  # trials, the best first
LOG_RATIO = 10  # a range whose ends are so far apart is searched by ratios
Range = tuple[float, float]
Values = dict[str, object]


class SearchError(ModelkeepError, ValueError):
    """A search that cannot be made."""


@dataclass(frozen=True)
class Trial:
    """An experiment with the values that it tried, and its loss on the rows that choose."""

    name: str
    values: Values
    loss: float | None  # None where it failed
    why: str = ""


@dataclass(frozen=True)
class Found:
    """What a search found: all trials, the best of them, and how it compares."""

    metric: str
    present: Trial
    trials: list[Trial]
    best: Trial | None  # None where no trial has a lower loss than the present parameters
    sentence: str
    state: str
    next: str

    def as_dict(self) -> dict:
        """For `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'trial':<14}{self.metric:>12}  values"]
        done = sorted((t for t in self.trials if t.loss is not None), key=lambda each: each.loss)
        for trial in [self.present, *done[:SHOWN]]:
            values = ", ".join(f"{name} {value}" for name, value in trial.values.items())
            lines.append(
                f"{trial.name:<14}{number(trial.loss):>12}  {values or 'the present ones'}"
            )
        if left := len(done) - SHOWN:
            lines += [f"{count(left, 'trial')} more"] if left > 0 else []
        failed = [trial for trial in self.trials if trial.loss is None]
        lines += [f"{each.name} failed: {each.why}" for each in failed]
        return "\n".join([*lines, "", self.sentence, "", self.next])


def search(
    root: Path,
    name: str = "search",
    trials: int = 20,
    vary: Sequence[str] = (),
    seed: int = 0,
    report: Callable[[int, float | None], None] = lambda done, best: None,
) -> Found:
    """Run trials, `name`-1 and so on, and compare the best with the present parameters.

    `vary` are texts such as `max_depth=2:8` or `model=boosting,forest`; none takes ranges `around`
    the present values. A trial that is there is not run again, so a search that was cut off goes
    on. `report` is called after each trial with their number and the least loss. SearchError.
    """
    if trials < 1:
        raise SearchError(f"--trials: {trials} is not at least 1")
    optuna, params = _library(), workspace.params(root, STAGE)
    space = parsed(vary, params) or around(params)
    folds = int(params["folds"])
    present, run = _tried(root, f"{name}-0", {}, params, folds)
    if run is None:
        raise SearchError(f"the present parameters of {STAGE} fail: {present.why}")
    metric = metrics.METRICS[run.schema.task][0]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    _start_from(study, optuna, space, params, present.loss)
    done: list[Trial] = []
    for i in range(1, trials + 1):
        suggested = study.ask()
        values = {key: _suggested(suggested, key, each, params) for key, each in space.items()}
        trial, _ = _tried(root, f"{name}-{i}", values, params, folds)
        failed = optuna.trial.TrialState.FAIL if trial.loss is None else None
        study.tell(suggested, trial.loss, state=failed)
        done.append(trial)
        report(i, min((t.loss for t in done if t.loss is not None), default=None))
    return concluded(root, metrics.NAMES[metric], present, done, folds)


def parsed(vary: Sequence[str], params: Mapping[str, object]) -> dict[str, Range | list]:
    """The space of `NAME=LOW:HIGH` (a range of numbers) and `NAME=A,B,C` (choices)."""
    space = {}
    for text in vary:
        name, _, given = text.partition("=")
        if name not in params or name in FIXED:
            able = several([each for each in params if each not in FIXED])
            raise SearchError(f"--vary {text}: {name!r} is none of what can be varied: {able}")
        ends = re.fullmatch(r"([^:]+):([^:]+)", given)
        values = [workspace.value(each) for each in (ends.groups() if ends else given.split(","))]
        numbers = all(type(each) in (int, float) for each in values)
        if ends and not (numbers and values[0] < values[1]):
            raise SearchError(f"--vary {text}: write a range as {name}=LOW:HIGH, the lower first")
        if not ends and (not given or len(values) < 2):
            raise SearchError(f"--vary {text}: write {name}=LOW:HIGH, or choices as {name}=A,B,C")
        space[name] = tuple(values) if ends else values
    return space


def around(params: Mapping[str, object]) -> dict[str, Range]:
    """The usual space of a kind of model: each value by a factor of AROUND below and above."""
    space = {}
    for name in USUAL.get(str(params["model"]), AROUND):
        value, factor = params[name], AROUND[name]
        if not value:
            continue  # 0 stands for no limit
        low, high = value / factor, value * factor
        space[name] = (max(round(low), 1), round(high)) if type(value) is int else (low, high)
    if not space:
        raise SearchError(f"--vary: no value of {params['model']} is varied by itself; name some")
    return space


def deciding(run: Run, folds: int) -> np.ndarray:
    """Which out-of-fold rows (rows,) are of the last fold: they compare, and choose nothing."""
    blocks = splits.blocks(run.predictions, run.schema)
    distinct = np.unique(blocks)
    last = max(len(distinct) // max(folds, 2), 1)
    return blocks >= distinct[-last]


def _library():
    try:
        import optuna
    except ImportError as error:
        raise SearchError(
            f"optuna is not installed ({error}); `pip install 'modelkeep[search]'`"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _start_from(
    study: "optuna.Study", optuna, space: Mapping, params: Mapping[str, object], loss: float
) -> None:
    """Let the study know the present parameters, where they lie in the space."""
    able = all(
        params[k] in each if isinstance(each, list) else each[0] <= params[k] <= each[1]
        for k, each in space.items()
    )
    if able:
        study.enqueue_trial({name: params[name] for name in space})
        first = study.ask()
        for name, each in space.items():
            _suggested(first, name, each, params)
        study.tell(first, loss)


def _suggested(
    trial: "optuna.Trial", name: str, space: Range | list, params: Mapping[str, object]
) -> object:
    if isinstance(space, list):
        return trial.suggest_categorical(name, space)
    low, high = space
    by_ratio = low > 0 and high / low >= LOG_RATIO
    if type(params[name]) is int:
        return trial.suggest_int(name, int(low), int(high), log=by_ratio)
    return float(f"{trial.suggest_float(name, low, high, log=by_ratio):.3g}")


def _tried(
    root: Path, name: str, values: Values, params: Mapping[str, object], folds: int
) -> tuple[Trial, Run | None]:
    """A trial and what it left; it is run unless there is an experiment of its name."""
    try:
        run = _read(root, name)
        if run is None:
            changes = [f"--set-param=params/{STAGE}.yaml:{k}={v}" for k, v in values.items()]
            commits.dvc(root, "exp", "run", "--temp", "--name", name, *changes, STAGE)
            run = _read(root, name)
    except commits.CommitError as error:
        return Trial(name, values, None, str(error)), None
    if run is None or run.predictions is None:
        return Trial(name, values, None, run.lost if run else "it left no experiment"), None
    for key, value in (dict(params) | values).items():
        if (there := run.params.get(f"{STAGE}.{key}")) != value:
            raise SearchError(
                f"{name} is an experiment with {key} {there!r}, and this search has {value!r}; "
                f"take another --name, or `dvc exp remove {name}`"
            )
    rows = run.predictions[~deciding(run, folds)]
    loss = metrics.per_row(
        run.schema.task, pipelines.outcome(rows, run.schema), frames.predictions(rows, run.schema)
    )
    first = metrics.METRICS[run.schema.task][0]
    return Trial(name, values, float(np.mean(loss[first]))), run


def _read(root: Path, name: str) -> Run | None:
    try:
        return experiments.read(root, name)
    except experiments.UnknownExperiment:
        return None


def concluded(root: Path, metric: str, present: Trial, done: list[Trial], folds: int) -> Found:
    """The best of the trials beside the present parameters; SearchError where all failed."""
    able = [trial for trial in done if trial.loss is not None]
    if not able:
        raise SearchError(f"all {len(done)} trials failed; the last one: {done[-1].why}")
    best = min(able, key=lambda trial: trial.loss)
    if best.loss >= present.loss:
        sentence = (
            f"None of {count(len(able), 'trial')} has a lower {metric} than the present parameters "
            f"({number(present.loss)}) on the rows of all folds but the last."
        )
        text = "The present parameters stay; `--trials` looks further, `--vary` elsewhere."
        return Found(metric, present, done, None, sentence, "done", text)
    runs = [experiments.read(root, each.name) for each in (present, best)]
    runs = [replace(run, predictions=run.predictions[deciding(run, folds)]) for run in runs]
    result = paired.compare(replace(runs[0], name="the present parameters"), runs[1])
    word = result.verdict.word if result.verdict else "insufficient"
    sentence = (
        f"{result.sentence} These are rows of the last fold: no trial was chosen by them, and none "
        "has read the test rows."
    )
    return Found(metric, present, done, best, sentence, word, _advice(word, best.name))


def _advice(word: str, name: str) -> str:
    take = f"`dvc exp apply {name} && dvc repro`"
    if word == "better":
        return f"{take} takes it; `evaluate` then judges it on the test rows."
    if word == "non_inferior":
        return f"It is within the margin, so nothing asks for it; {take} takes it all the same."
    if word == "insufficient":
        return (
            "The present parameters stay: the last fold is too short (fewer `folds`: longer ones)."
        )
    return "The present parameters stay: the rows do not show that it is better."
