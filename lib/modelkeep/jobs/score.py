"""Predictions of a file: read, checked, predicted and written chunk by chunk.

A chunk's predictions are renamed into place last, so a killed run goes on where it was: what is
there is done. A chunk that is logged has a time of prediction of its own, by which it is found
in the log again.
"""

import io
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate, chain, repeat, takewhile
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from joblib import Parallel, cpu_count, delayed

from modelkeep.core import files, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count
from modelkeep.data import io as tables
from modelkeep.data import schema
from modelkeep.data.io import Span
from modelkeep.jobs import batches
from modelkeep.jobs.batches import Predicted, Predictor, ScoreError
from modelkeep.predictions.log import PredictionLog, open_log
from modelkeep.registry import record, releases, store
from modelkeep.registry.store import Now, Role
from modelkeep.serving import models
from modelkeep.serving.models import Model

CHUNK = 32_768  # rows that are read, predicted and written at once
SPAN = 8 * CHUNK  # rows that a process does before it reports, at least
MANY = 1_000_000  # rows for which several processes, each with a start of its own, are worth it
OTHER = (".tsv", ".txt", ".xls", ".xlsx", ".feather", ".arrow", ".json", ".gz", ".zip")
STATE, PART, QUARANTINE = "score.json", "part-", "quarantine-"
Report = Callable[[int], None]  # called with the rows that are done


@dataclass(frozen=True)
class Scored:
    """What a run made; `resumed` are rows that an earlier run, cut off, had done."""

    out: str
    model: str
    version: str
    rows: int
    quarantined: int
    reasons: dict[str, int]  # rule: rows, the most frequent first
    resumed: int
    logged: bool
    seconds: float

    def __repr__(self) -> str:
        named = f"{self.version} ({self.model})" if self.version else self.model
        lines = [f"{count(self.rows, 'prediction')} of {named} in {self.out}"]
        if self.resumed:
            lines[0] += f"; {self.resumed:,} of the rows were done before"
        if self.quarantined:
            worst = "; ".join(f"{rule} ({n:,})" for rule, n in [*self.reasons.items()][:3])
            lines.append(f"{count(self.quarantined, 'row')} quarantined: {worst}")
        lines += ["Logged: labels, monitoring and updates follow."] if self.logged else []
        return "\n".join(lines)

    def as_dict(self) -> dict:
        """The same as plain values."""
        return asdict(self)


def score(
    root: Path,
    source: Path,
    out: Path,
    version: str = "",
    log: bool = False,
    report: Report = lambda rows: None,
    processes: int = 0,
) -> Scored:
    """Write a prediction for each row of a file, or of a folder of them, that fits the model.

    `out` is a folder of Parquet files, or a file that ends in .parquet or .csv. The model is the
    champion in service, or a `version` on record. `log` also writes each prediction to the log.
    Large Parquet files are shared by `processes`, 0 is one for each core.
    """
    started = time.perf_counter()
    if out.suffix in OTHER:
        raise ScoreError(
            f"--out: {out.name} ends in {out.suffix}; predictions are written to a folder, or to a "
            "file that ends in .parquet or .csv"
        )
    role = _role(root, version, log)
    model = models.load(releases.folder(root), Now(role), 1).champion
    single = out.suffix in (".parquet", ".csv")
    folder = out.with_name(f".{out.name}.parts") if single else out
    if single and out.exists() and not folder.exists():
        raise ScoreError(f"{out} is there already; name another file, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            job = _job(folder, source, model, log)
            task = Task(root, folder, role, job["at"], job["name"], log)
            tally = _run(task, source, report, processes or cpu_count())
            if single:
                _merge(folder, out)
    except Timeout:
        raise ScoreError(f"another run writes to {out}; wait for it") from None
    except ModelkeepError:
        if {each.name for each in folder.iterdir()} <= {"lock", STATE}:
            shutil.rmtree(folder)  # nothing is done that a later run could go on with
        raise
    reasons = dict(sorted(tally.reasons.items(), key=lambda each: -each[1]))
    names = str(out), model.name, model.version
    counts = tally.rows, sum(reasons.values()), reasons, tally.resumed
    return Scored(*names, *counts, log, round(time.perf_counter() - started, 2))


def _role(root: Path, version: str, log: bool) -> Role:
    place = releases.folder(root)
    now = store.now(place)
    if not version and now is None:
        raise ScoreError("no model is in service; `modelkeep promote VERSION`, or name a --model")
    role = now.champion if now else None
    if version:
        tag = record.read(root).find(version)
        content = record.evidence(tag)
        releases.fetch(root, tag, content)
        role = Role(content["hashes"]["bundle"], tag.version)
    if log and (now is None or role.sha256 != now.champion.sha256):
        raise ScoreError(
            f"{version} is not the champion, and the log is of the models in service; leave --log "
            "out"
        )
    if log and now.canary:
        raise ScoreError(
            "a canary is in service: rows that the champion alone predicts would bias their "
            "comparison; wait until the rollout has ended, or leave --log out"
        )
    return role


def _job(folder: Path, source: Path, model: Model, log: bool) -> dict:
    """The state of this job, made by the first run of it; ScoreError if another job's is there."""
    parts = sorted(source.iterdir()) if source.is_dir() else [source]
    found = [path for path in parts if path.is_file()]
    read = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in found]
    stated = {"source": read, "model": model.sha256, "log": log}
    stated |= {"chunk": CHUNK, "call": batches.CALL}
    path = folder / STATE
    if not path.is_file():
        if any(each.name != "lock" for each in folder.iterdir()):
            raise ScoreError(f"{folder} is a folder of something else; name another")
        began = {"at": time.time_ns() // 1000, "name": f"{int(time.time()):x}{token_hex(4)}"}
        files.write_json(path, stated | began)
    job = json.loads(path.read_bytes())
    other = [name for name, value in stated.items() if job.get(name) != value]
    if other:
        raise ScoreError(
            f"{folder} holds predictions of another {' and '.join(other)}; name another --out, or "
            "delete it"
        )
    return job


class _Tally:
    """What a run counts."""

    def __init__(self) -> None:
        self.rows, self.resumed, self.reasons = 0, 0, {}

    def add(self, done: "Done") -> None:
        self.rows += done.rows
        self.resumed += (done.rows + sum(done.reasons.values())) * done.resumed
        for rule, n in done.reasons.items():
            self.reasons[rule] = self.reasons.get(rule, 0) + n


class Task(NamedTuple):
    """What all processes of a run know."""

    root: Path
    folder: Path
    role: Role
    at: int
    name: str
    log: bool


class Done(NamedTuple):
    """What became of a chunk; `reasons` are rows by the rule that they broke."""

    rows: int
    reasons: dict[str, int]
    resumed: bool


def _run(task: Task, source: Path, report: Report, processes: int) -> _Tally:
    spans, tally, seen = [*tables.spans(source, SPAN)], _Tally(), 0
    many = sum(span.rows or 0 for span in spans) >= MANY and processes > 1 and not task.log
    for done in _by_processes(task, spans, processes) if many else _here(task, spans):
        tally.add(done)
        seen += done.rows + sum(done.reasons.values())
        report(seen)
    return tally


def _here(task: Task, spans: Sequence[Span], first: int = 0) -> Iterator[Done]:
    """The chunks of all spans one after the other; the `first` row's place among all is known."""
    predictor, log = _predictor(task), _log(task.root) if task.log else None
    written, number = None, 0
    with ThreadPoolExecutor(1) as behind:
        for span in spans:
            for table in predictor.chunks(span, CHUNK):
                part, aside = (task.folder / f"{k}{first:012d}.parquet" for k in (PART, QUARANTINE))
                if part.is_file():
                    rows, quarantine = pq.read_metadata(part).num_rows, _read(aside)
                    yield Done(rows, _rules(quarantine), True)
                else:
                    chunk = predictor.predict(table, first)
                    quarantine = chunk.quarantine
                    if len(quarantine):
                        quarantine = quarantine.assign(file=span.path.name)
                    if written is not None:
                        written.result()  # chunks are done in their order
                    if log is not None:
                        _write_log(log, predictor.model, task.at + number, chunk)
                    content = predictor.output(chunk)
                    written = behind.submit(_write, part, content, aside, quarantine)
                    yield Done(len(chunk.rows), _rules(quarantine), False)
                first, number = first + len(table), number + 1
        if written is not None:
            written.result()
    if log is not None:
        log.close()


def _by_processes(task: Task, spans: Sequence[Span], processes: int) -> Iterator[Done]:
    """The same, each span by one of several processes; a span of unknown length ends that."""
    known = [*takewhile(lambda span: span.rows is not None, spans)]
    starts = [0, *accumulate(span.rows for span in known)]
    # as long as they wait for work: a notebook lives on
    options = {"idle_worker_timeout": 10, "initializer": _follow, "initargs": (os.getpid(),)}
    share = Parallel(processes, return_as="generator", batch_size=1, pre_dispatch="all", **options)
    work = zip(repeat(task), known, starts, strict=False)
    try:
        yield from chain.from_iterable(share(delayed(_span)(*each) for each in work))
    except BrokenProcessPool:
        raise ScoreError(
            "a process of this run was killed, perhaps for want of memory; the same command goes "
            "on, with --processes 1 in less memory"
        ) from None
    yield from _here(task, spans[len(known) :], starts[-1])


def _span(task: Task, span: Span, first: int) -> list[Done]:
    return [*_here(task, [span], first)]


def _follow(parent: int) -> None:
    """End with the process that began this one, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that began it hears it too
    Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@lru_cache(1)
def _predictor(task: Task) -> Predictor:
    model = models.load(releases.folder(task.root), Now(task.role), 1).champion
    return Predictor(model, task.at, task.name)


def _rules(quarantine: pd.DataFrame) -> dict[str, int]:
    return dict(Counter(quarantine["rule"]))


def _write(part: Path, content: pa.Table, aside: Path, quarantine: pd.DataFrame) -> None:
    """The chunk's files; that of the predictions last, as it says that the chunk is done."""
    if len(quarantine):
        files.write_bytes(aside, _parquet(pa.Table.from_pandas(quarantine, preserve_index=False)))
    files.write_bytes(part, _parquet(content))


def _log(root: Path) -> PredictionLog:
    settings = workspace.params(root, "serve")
    return open_log(str(settings["log"]), durability=str(settings["durability"]), root=root)


def _parquet(table: pa.Table) -> bytes:
    # what differs in each row is not shorter by a dictionary, and numbers not by compression
    short = {c.name: "none" if pa.types.is_floating(c.type) else "snappy" for c in table.schema}
    options = {"use_dictionary": ["prediction"], "write_statistics": ["position"]}
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=short, **options)
    return buffer.getvalue()


def _read(aside: Path) -> pd.DataFrame:
    return pd.read_parquet(aside) if aside.is_file() else schema.nothing_quarantined()


def _write_log(log: PredictionLog, model: Model, at: int, chunk: Predicted) -> None:
    """Commit a chunk at once, unless a run that was killed has done so."""
    ids = chunk.rows[model.schema.id].tolist()
    if not ids:
        return
    before = log.find(ids[0])
    if any(each.record.at == at and each.record.model == model.name for each in before):
        return
    log.write([*batches.records(model, at, chunk)], ids)


def _merge(folder: Path, out: Path) -> None:
    """Put the parts into one file, which is there whole or not at all; then delete them."""
    if not out.exists():
        _join(sorted(folder.glob(f"{PART}*.parquet")), out)
    aside = sorted(folder.glob(f"{QUARANTINE}*.parquet"))
    if aside:
        _join(aside, out.with_name(f"{out.stem}.quarantine{out.suffix}"))
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()


def _join(parts: Iterable[Path], out: Path) -> None:
    beside = out.with_name(f".{out.name}.tmp")
    if out.suffix == ".csv":
        for i, part in enumerate(parts):
            frame = pd.read_parquet(part)
            frame.to_csv(beside, mode="a" if i else "w", header=not i, index=False)
    else:
        first = pq.read_schema(next(iter(parts)))
        with pq.ParquetWriter(beside, first) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part).cast(first))
    beside.replace(out)
