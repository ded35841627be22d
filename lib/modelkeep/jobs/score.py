"""Predictions of a file: read, checked, predicted and written chunk by chunk.

A chunk's predictions are renamed into place last, so a killed run goes on where it was: what is
there is done. A chunk that is logged has a time of prediction of its own, by which it is found
in the log again.
"""

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from modelkeep.core import files, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count
from modelkeep.data import columns, schema, time_axis
from modelkeep.data import io as tables
from modelkeep.data.columns import Fault, as_text, as_times, stated_kind, with_column
from modelkeep.data.io import READING
from modelkeep.data.schema import MADE_IDS, Schema
from modelkeep.predictions import frames
from modelkeep.predictions.log import PredictionLog, open_log
from modelkeep.predictions.records import CHAMPION, Group
from modelkeep.registry import record, releases, store
from modelkeep.registry.store import Now, Role
from modelkeep.serving import models
from modelkeep.serving.models import Model
from modelkeep.serving.requests import MAX_ID
from modelkeep.training.engines import decision
from modelkeep.training.engines.encoding import LARGEST

CHUNK = 32_768  # rows that are read, predicted and written at once
CALL = 512  # rows of one call of the model, and of one record of the log
STATE, QUARANTINE = "score.json", "quarantine"
CONTROLS = r"[\x00-\x1f\x7f-\x9f]"
Report = Callable[[int], None]  # called with the rows that are done


class ScoreError(ModelkeepError, ValueError):
    """A file that cannot be scored so."""


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


class Predicted(NamedTuple):
    """The predictions of a chunk; the arrays are of the rows that fit."""

    rows: pd.DataFrame
    times: np.ndarray  # microseconds since 1970, or None
    numbers: np.ndarray
    categories: list[np.ndarray]
    values: np.ndarray
    quarantine: pd.DataFrame


def score(
    root: Path,
    source: Path,
    out: Path,
    version: str = "",
    log: bool = False,
    report: Report = lambda rows: None,
) -> Scored:
    """Write a prediction for each row of a file, or of a folder of them, that fits the model.

    `out` is a folder of Parquet files, or a file that ends in .parquet or .csv. The model is the
    champion in service, or a `version` on record. `log` also writes each prediction to the log.
    """
    started = time.perf_counter()
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
            tally = _run(root, source, folder, model, job, report)
            if single:
                _merge(folder, out)
    except Timeout:
        raise ScoreError(f"another run writes to {out}; wait for it") from None
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
    stated = {"source": read, "model": model.sha256, "chunk": CHUNK, "log": log}
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

    def add(self, rows: int, quarantine: pd.DataFrame, resumed: bool) -> None:
        self.rows += rows
        self.resumed += (rows + len(quarantine)) * resumed
        for rule, n in quarantine["rule"].value_counts().items():
            self.reasons[rule] = self.reasons.get(rule, 0) + int(n)


def _run(root: Path, source: Path, folder: Path, model: Model, job: dict, report: Report) -> _Tally:
    tally, first, written = _Tally(), 0, None
    reader = _Reader(model, job)
    log = _log(root) if job["log"] else None
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as behind:
        for i, (name, table) in enumerate(_prefetched(ahead, reader.chunks(source))):
            part, aside = (folder / f"{each}{i:06d}.parquet" for each in ("part-", QUARANTINE))
            done = part.is_file()
            if done:
                rows, quarantine = pq.read_metadata(part).num_rows, _read(aside)
            else:
                chunk = reader.predict(table, first)
                rows, quarantine = len(chunk.rows), chunk.quarantine.assign(file=name)
                if written is not None:
                    written.result()  # chunks are done in their order
                if log is not None:
                    _write_log(log, model, job["at"] + i, chunk)
                content = reader.output(chunk)
                written = behind.submit(_write, part, content, aside, quarantine)
            tally.add(rows, quarantine, done)
            first += len(table)
            report(first)
        if written is not None:
            written.result()
    if log is not None:
        log.close()
    return tally


def _log(root: Path) -> PredictionLog:
    settings = workspace.params(root, "serve")
    return open_log(str(settings["log"]), durability=str(settings["durability"]), root=root)


def _prefetched(pool: ThreadPoolExecutor, chunks: Iterator) -> Iterator:
    """The same chunks; the next one is read while one is at work."""
    coming = pool.submit(next, chunks, None)
    while (chunk := coming.result()) is not None:
        coming = pool.submit(next, chunks, None)
        yield chunk


class _Reader:
    """Reads, checks and predicts rows for a model, as the server does."""

    def __init__(self, model: Model, job: dict) -> None:
        self.model, self.job, learned = model, job, model.schema
        self.ids = bool(learned.origin.get("id_column")) or learned.id not in MADE_IDS
        limits = {"number": (-LARGEST, LARGEST), "category": (None, None)}
        bounded = [
            replace(
                c,
                low=limits[c.kind][0] if c.low is None else c.low,
                high=limits[c.kind][1] if c.high is None else c.high,
            )
            for c in learned.columns
        ]
        # a time may be missing, as in a request: it is checked apart
        self.checked = replace(learned, columns=tuple(bounded), time=None, axis=None)
        now = np.datetime64(job["at"], "us")
        self.axis = time_axis.of_log(learned.axis, now, now)

    def chunks(self, source: Path) -> Iterator[tuple[str, pd.DataFrame]]:
        """The columns of the model in a file, chunk by chunk."""
        learned = self.model.schema
        origin, rules = learned.origin, learned.origin.get("rules") or {}
        roles = [name for name in (learned.id, learned.time, learned.entity) if name]
        wanted = [*roles, *(c.name for c in learned.columns)]
        texts = [
            learned.id,
            learned.entity,
            *(c.name for c in learned.columns if c.kind != "number"),
        ]
        texts = [*filter(None, texts), *(name for name in rules if stated_kind(rules[name]))]
        reading = {k: origin[k] for k in READING if k in origin}
        reading |= {"rules": rules, "time_column": learned.time or ""}
        return tables.stream(source, wanted, texts, CHUNK, **reading)

    def predict(self, table: pd.DataFrame, first: int) -> Predicted:
        """The predictions of a chunk whose first row is the `first` of all."""
        learned = self.model.schema
        table = table.set_axis(range(first, first + len(table)))
        if self.ids and learned.id not in table:
            raise ScoreError(f"id_column: the file has no column {learned.id!r}; name one so")
        if not self.ids:
            table = with_column(table, learned.id, [f"{self.job['name']}-{i}" for i in table.index])
        entity = learned.entity if learned.entity in table else None
        times, faults = self._times(table)
        faults += _id_faults(table[learned.id])
        checked = replace(self.checked, entity=entity)
        cleaned = schema.clean(table, checked, unique=False, also=faults)
        rows = cleaned.rows
        numbers, categories = _arrays(rows, learned)
        values = self._values(numbers, categories)
        kept = rows.index.to_numpy() - first
        known = np.full(len(rows), None, object) if times is None else times[kept]
        aside = cleaned.quarantine.rename(columns={"row": "position", "row_": "row"})
        return Predicted(rows, known, numbers, categories, values, aside)

    def _times(self, table: pd.DataFrame) -> tuple[np.ndarray | None, list[Fault]]:
        name = self.model.schema.time
        if not name or name not in table:
            return None, []
        times, bad = as_times(table[name])
        faults = columns.faults(table[name], bad, "is not a date (ISO 8601, as 2013-01-31 17:05)")
        span = " to ".join(str(each)[:10] for each in self.axis)
        odd = time_axis.outside(times, self.axis)
        faults += columns.faults(table[name], odd, f"is far from training and now ({span})")
        known = times.astype("int64").astype(object).mask(times.isna(), None)
        return known.to_numpy(), faults

    def _values(self, numbers: np.ndarray, categories: Sequence[np.ndarray]) -> np.ndarray:
        # in the calls that the log records: a sum may depend on the rows beside it
        parts = [
            self.model.engine.predict(numbers[i : i + CALL], [c[i : i + CALL] for c in categories])
            for i in range(0, len(numbers), CALL)
        ]
        shape = (0, len(self.model.schema.classes)) if self.model.schema.classes else (0,)
        return np.concatenate(parts) if parts else np.zeros(shape)

    def output(self, chunk: Predicted) -> pa.Table:
        """The predictions as they are written."""
        learned, names = self.model.schema, frames.prediction_columns(self.model.schema)
        made = {"position": chunk.rows.index.to_numpy(), learned.id: chunk.rows[learned.id]}
        if learned.classes:
            classes = pa.array(learned.classes, pa.string())
            chosen = decision.decide(self.model.manifest.get("operating", {}), chunk.values)
            best = pa.array(chosen, pa.int32())
            made["prediction"] = pa.DictionaryArray.from_arrays(best, classes)
            made |= dict(zip(names, chunk.values.T, strict=True))
        else:
            made["prediction"] = chunk.values
        return pa.table({name: pa.array(values) for name, values in made.items()})


def _id_faults(ids: pd.Series) -> list[Fault]:
    text = as_text(ids)
    long = (text.str.len() > MAX_ID).fillna(False)
    faults = columns.faults(ids, long, f"is longer than {MAX_ID} characters")
    odd = text.str.contains(CONTROLS, regex=True).fillna(False)
    return faults + columns.faults(ids, odd, "has a control character")


def _arrays(rows: pd.DataFrame, learned: Schema) -> tuple[np.ndarray, list[np.ndarray]]:
    """Numbers (rows, columns) and the texts of each category column, None for missing."""
    named = [[c.name for c in learned.columns if c.kind == k] for k in ("number", "category")]
    numbers = rows[named[0]].to_numpy(np.float64).reshape(len(rows), -1)
    texts = []
    for name in named[1]:
        codes, known = pd.factorize(rows[name])  # a text in memory once, not once a row
        texts.append(np.array([*known, None], dtype=object)[codes])
    return numbers, texts


def _write(part: Path, content: pa.Table, aside: Path, quarantine: pd.DataFrame) -> None:
    """The chunk's files; that of the predictions last, as it says that the chunk is done."""
    if len(quarantine):
        files.write_bytes(aside, _parquet(pa.Table.from_pandas(quarantine, preserve_index=False)))
    files.write_bytes(part, _parquet(content))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, use_dictionary=["prediction"])  # ids and numbers differ
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
    log.write([*_groups(model, at, chunk, ids)], ids)


def _groups(model: Model, at: int, chunk: Predicted, ids: list[str]) -> Iterator[Group]:
    """The calls of a chunk as the log stores them."""
    encode, entity = msgspec.json.encode, model.schema.entity
    known = entity in chunk.rows and entity != model.schema.id
    entities = chunk.rows[entity].astype(object) if known else pd.Series(ids, dtype=object)
    entities = entities.where(entities.notna(), ids).tolist()
    values = chunk.values if chunk.values.ndim == 2 else chunk.values[:, None]
    for i in range(0, len(ids), CALL):
        call = slice(i, i + CALL)
        lists = [*chunk.numbers[call].T.tolist(), *(c[call].tolist() for c in chunk.categories)]
        own = ids[call], entities[call], chunk.times[call].tolist()
        features = encode(dict(zip(model.reader.names, lists, strict=True)))
        texts = [encode(each).decode() for each in own]
        yield Group(
            *(at, model.name, CHAMPION, None, None, None),
            *texts,
            features,
            encode(values[call].tolist()),
        )


def _merge(folder: Path, out: Path) -> None:
    """Put the parts into one file, which is there whole or not at all; then delete them."""
    if not out.exists():
        _join(sorted(folder.glob("part-*.parquet")), out)
    aside = sorted(folder.glob(f"{QUARANTINE}*.parquet"))
    if aside:
        _join(aside, out.with_name(f"{out.stem}.{QUARANTINE}{out.suffix}"))
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
