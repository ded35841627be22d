"""What a request must look like: decode it strictly, check each row by the schema's rules, say what is wrong and where."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from modelkeep.core.errors import ModelkeepError
from modelkeep.data.columns import Column, did_you_mean
from modelkeep.data.schema import Schema
from modelkeep.evaluation.binning import Bins
from modelkeep.training.engines.encoding import LARGEST

TEXT = 1000  # characters of the longest category
NAME = 200  # characters of the longest id
PLAIN = r"^[^\x00-\x1f\x7f]*$"  # an id goes into logs and databases
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), datetime.resolution

Id = Annotated[str, Meta(min_length=1, max_length=NAME, pattern=PLAIN)]
Category = Annotated[str, Meta(max_length=TEXT)]


class RowsError(ModelkeepError, ValueError):
    """A schema whose rows cannot be sent as JSON."""


class ValidationError(ModelkeepError, ValueError):
    """A request, or one row of it, that is not answered; `place` is where, as in `$.rows[3].temp`."""

    def __init__(self, place: str, message: str, status: int = 422) -> None:
        super().__init__(f"{place}: {message}")
        self.place, self.message, self.status = place, message, status


@dataclass(frozen=True)
class ValidatedRows:
    """Rows as an engine takes them, when they happened, why some are refused (place in the batch: what is wrong), what is odd about others, and how often."""

    numbers: np.ndarray
    categories: list[Sequence[str | None]]
    times: Sequence[int | None]  # microseconds since 1970 in UTC
    refused: dict[int, ValidationError] = field(default_factory=dict)
    notes: dict[int, list[str]] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)

    def only(self, kept: Sequence[int]) -> "ValidatedRows":
        """These rows alone; what was said of them all stays behind."""
        categories = [[values[i] for i in kept] for values in self.categories]
        return ValidatedRows(self.numbers[kept], categories, [self.times[i] for i in kept])


class RowReader:
    """Reads the rows that a model of this schema answers; `bins` are of its reference, which knows what training has seen."""

    def __init__(self, of: Schema, bins: Sequence[Bins], max_rows: int) -> None:
        kinds = {k: [c for c in of.columns if c.kind == k] for k in ("number", "category")}
        self.of, self.numbers, self.categories = of, kinds["number"], kinds["category"]
        self.names = [c.name for c in (*self.numbers, *self.categories)]
        # in one order, so that two models with the same columns read each other's rows
        self.name = {name: f"c{i}" for i, name in enumerate(sorted(c.name for c in of.columns))}
        self.row = self._struct()
        rows = Annotated[list[self.row], Meta(min_length=1, max_length=max_rows)]
        whole = msgspec.defstruct("Rows", [("rows", rows)], forbid_unknown_fields=True)
        raw = Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=max_rows)]
        each = msgspec.defstruct("RawRows", [("rows", raw)], forbid_unknown_fields=True)
        self.decode_all, self.decode_each = (msgspec.json.Decoder(t).decode for t in (whole, each))
        self.decode_row = msgspec.json.Decoder(self.row).decode
        self._values = _getter([self.name[name] for name in self.names])
        known = {b.name: b for b in bins}
        seen = [(known[c.name].edges or (np.nan,)) for c in self.numbers]
        self.seen = np.array([[e[0], e[-1]] for e in seen]).reshape(-1, 2).T
        self.places = [known[c.name].places for c in self.categories]
        limits = [[-LARGEST if c.low is None else c.low for c in self.numbers]]
        limits += [[LARGEST if c.high is None else c.high for c in self.numbers]]
        self.low, self.high = np.array(limits).reshape(2, -1)
        self.usual = np.maximum(self.low, self.seen[0]), np.minimum(self.high, self.seen[1])
        self.strict = np.array([c.missing == "reject" for c in self.numbers], bool)

    def _struct(self) -> type[msgspec.Struct]:
        """A row: every feature by its name, null where its value is missing; and who, what and when, where they are known."""
        of = self.of
        for name in filter(None, (*self.name, of.id, of.time, of.entity)):
            if re.search(r'[\x00-\x1f"\\]', name):
                raise RowsError(
                    f"column {name!r} has a quote, a backslash or a control character in its name; "
                    "a server cannot read it: rename it in the table"
                )
        kinds = {"number": float | None, "category": Category | int | float | bool | None}
        fields: list[tuple] = [(self.name[c.name], kinds[c.kind]) for c in of.columns]
        rename = {short: name for name, short in self.name.items()}
        roles = {"id": (of.id, Id | int | UnsetType)}
        if of.entity and of.entity != of.id:
            roles["entity"] = (of.entity, Id | int | None | UnsetType)
        if of.time:
            roles["time"] = (of.time, Id | UnsetType)
        fields += [(role, kind, UNSET) for role, (_, kind) in roles.items()]
        rename |= {role: name for role, (name, _) in roles.items()}
        self.roles = [attrgetter(role) for role in roles]
        options: dict[str, Any] = {"rename": rename, "forbid_unknown_fields": True, "gc": False}
        return msgspec.defstruct("Row", fields, **options)

    def decode(self, body: bytes) -> tuple[list[msgspec.Struct], dict[int, ValidationError]]:
        """The rows of a body, and why some are refused; ValidationError if none can be read."""
        try:
            rows = self.decode_all(body).rows
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return self._one_by_one(body)
        if not self._keys_are_single(body, rows):
            _refuse_duplicates(body)
        return rows, {}

    def _keys_are_single(self, body: bytes, rows: Sequence[msgspec.Struct]) -> bool:
        """Whether there are just as many colons as keys: a decoder keeps the last of two equal keys without a word."""
        keys, colons = 1 + len(rows) * len(self.name), body.count(b":")
        for role in self.roles if colons != keys else ():
            given = [value for value in map(role, rows) if value is not UNSET]
            keys += len(given) + sum(v.count(":") for v in given if type(v) is str)
        return colons == keys and b"\\" not in body

    def _one_by_one(self, body: bytes) -> tuple[list[msgspec.Struct], dict[int, ValidationError]]:
        try:
            raw = self.decode_each(body).rows
        except msgspec.ValidationError as error:
            raise _explained(error, [*self.name, "rows"]) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ValidationError("$", f"not JSON: {error}; send UTF-8, without NaN", 400) from None
        _refuse_duplicates(body)
        rows, refused = [], {}
        for i, each in enumerate(raw):
            try:
                rows.append(self.decode_row(each))
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                refused[i] = _explained(error, [*self.name], f"$.rows[{i}]")
        return rows, refused

    def check(self, rows: Sequence[msgspec.Struct]) -> ValidatedRows:
        """The rows as an engine takes them, with what each rule says of them; places are of this batch."""
        columns, n = list(zip(*map(self._values, rows), strict=True)), len(self.numbers)
        numbers = np.array(columns[:n], np.float64).reshape(n, len(rows)).T
        categories, known = [], True
        for place, values in zip(self.places, columns[n:], strict=True):
            fitting = place.keys() >= set(values)
            known &= fitting
            categories.append(
                values if fitting else [v if v in place else _text(v) for v in values]
            )
        fits = (numbers >= self.usual[0]) & (numbers <= self.usual[1])
        times, refused = self._times(rows)
        if known and not refused:  # most rows are as they should be, or lack what may be lacking
            if fits.all():
                return ValidatedRows(numbers, categories, times)
            missing = np.isnan(numbers)
            if (fits | (missing & ~self.strict)).all():
                problems = {"missing": int(np.count_nonzero(missing))}
                return ValidatedRows(numbers, categories, times, problems=problems)
        strangers = ([], []) if known else self._strangers(categories)
        return self._judged(ValidatedRows(numbers, categories, times, refused), *strangers)

    def _times(
        self, rows: Sequence[msgspec.Struct]
    ) -> tuple[Sequence[int | None], dict[int, ValidationError]]:
        """When rows happened, and those whose time cannot be read."""
        texts = [row.time for row in rows] if self.of.time else []
        times, wrong = [None] * len(rows), {}
        if texts.count(UNSET) == len(texts):
            return times, wrong
        for i, text in enumerate(texts):
            try:
                times[i] = when(text)
            except ValidationError as error:
                wrong[i] = ValidationError(f".{self.of.time}", error.message)
        return times, wrong

    def _judged(self, given: ValidatedRows, unseen: list, absent: list) -> ValidatedRows:
        numbers, categories = given.numbers, given.categories
        missing, refused = np.isnan(numbers), {}
        outside = (numbers < self.seen[0]) | (numbers > self.seen[1])
        wrong = (numbers < self.low) | (numbers > self.high) | (missing & self.strict)
        for i in {*np.flatnonzero(wrong.any(axis=1)), *self._closed_rows(unseen, absent)}:
            refused[int(i)] = self._why(int(i), numbers, categories)
        count = np.count_nonzero
        counts = {"missing": int(count(missing)) + len(absent), "unseen": len(unseen)}
        counts |= {"out_of_range": int(count(outside)), "refused": len(refused)}
        notes = self._notes(numbers, outside, unseen)
        return replace(given, refused=refused | given.refused, notes=notes, problems=counts)

    def _strangers(self, categories: list) -> tuple[list, list]:
        """Where categories are that training has not seen, and where none is given: (row, column)."""
        unseen, absent = [], []
        for j, (place, values) in enumerate(zip(self.places, categories, strict=False)):
            if place.keys() >= set(values):
                continue
            for i, value in enumerate(values):
                if value not in place:
                    (absent if value is None else unseen).append((i, j))
        return unseen, absent

    def _closed_rows(self, unseen: list, absent: list) -> set[int]:
        columns = self.categories
        found = {i for i, j in unseen if columns[j].unseen == "reject"}
        return found | {i for i, j in absent if columns[j].missing == "reject"}

    def _why(self, row: int, numbers: np.ndarray, categories: list) -> ValidationError:
        """The first rule that a refused row breaks."""
        for column, value in zip(self.numbers, numbers[row].tolist(), strict=True):
            if rule := _number_rule(column, value):
                return ValidationError(f".{column.name}", rule)
        for column, values in zip(self.categories, categories, strict=False):
            if values[row] is None and column.missing == "reject":
                return ValidationError(
                    f".{column.name}", "is missing, and this column must have a value"
                )
            if values[row] not in column.categories and column.unseen == "reject":
                return ValidationError(
                    f".{column.name}", "was never seen, and this column is a closed list"
                )
        raise AssertionError(f"row {row} breaks no rule")

    def _notes(self, numbers: np.ndarray, outside: np.ndarray, unseen: list) -> dict[int, list]:
        notes: dict[int, list[str]] = {}
        for i, j in np.argwhere(outside).tolist() if outside.any() else ():
            side = "above the largest" if numbers[i, j] > self.seen[1, j] else "below the smallest"
            text = f"{self.numbers[j].name} is {side} value of the training"
            notes.setdefault(i, []).append(text)
        for i, j in unseen:
            notes.setdefault(i, []).append(f"{self.categories[j].name} was not seen in training")
        return notes


def when(text: str | UnsetType) -> int | None:
    """Microseconds since 1970 (UTC, which a time without an offset is taken for); None where no time is given."""
    if text is UNSET:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValidationError("", "is not a time (ISO 8601, as 2013-01-31T17:05:00)") from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (time - EPOCH) // MICROSECOND


def _getter(names: Sequence[str]) -> Any:
    """What takes these values out of a row, always as a tuple."""
    return attrgetter(*names) if len(names) > 1 else lambda row: (getattr(row, names[0]),)


def _text(value: str | float | bool | None) -> str | None:
    """A category as the pipeline reads it: 1.0 is "1", True is "True", blank is missing."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


def _number_rule(column: Column, value: float) -> str:
    if value != value:
        return "is missing, and this column must have a value" * (column.missing == "reject")
    low = -LARGEST if column.low is None else column.low
    high = LARGEST if column.high is None else column.high
    return "" if low <= value <= high else f"{value:g} is outside {low:g}..{high:g}"


def _explained(error: Exception, names: list[str], at: str = "") -> ValidationError:
    """A decoder's message as ours: where, the rule, and what was meant."""
    text, _, place = str(error).partition(" - at `")
    place = place.rstrip("`") or "$"
    place = at + place.removeprefix("$") if at else place
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        near = did_you_mean(unknown[1][:NAME], names) if names else ""
        near = near if "did you mean" in near else ""
        return ValidationError(place, f"has the unknown key {unknown[1][:60]!r}{near}; take it off")
    if lacking := re.fullmatch(r"Object missing required field `(.*)`", text, re.DOTALL):
        return ValidationError(
            f"{place}.{lacking[1]}", "is not there; send null if it is not known"
        )
    text = text.replace("Expected `", "must be `").replace("array", "list")
    return ValidationError(place, text[0].lower() + text[1:])


def _refuse_duplicates(body: bytes) -> None:
    def pairs(found: list[tuple]) -> dict:
        made = dict(found)
        if len(made) != len(found):
            keys = [key for key, _ in found]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValidationError("$", f"has the key {twice[:60]!r} twice; send it once", 400)
        return made

    try:
        json.loads(body, object_pairs_hook=pairs)
    except (RecursionError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise
        raise ValidationError(
            "$", "not JSON, or too deep; send rows of plain values", 400
        ) from None
