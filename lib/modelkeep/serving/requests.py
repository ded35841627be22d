"""The rows of a request: decoded strictly, checked by the schema's rules."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from modelkeep.core.errors import ModelkeepError
from modelkeep.data.definitions import Column, Schema, did_you_mean
from modelkeep.data.written import Written
from modelkeep.evaluation.binning import Bins
from modelkeep.training.engines.encoding import LARGEST

if TYPE_CHECKING:
    import pandas as pd

MAX_TEXT = 1000  # characters of the longest category
MAX_ID = 200  # characters of the longest id
# no control characters, not even a last line feed: an id goes into logs and databases
PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*(?!\n)$"
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), datetime.resolution
DAYS_AHEAD = 366  # a row may happen so long after the server's clock
EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)  # for schemas of before, which keep no limits

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID, pattern=PLAIN)]
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Category = Annotated[str, Meta(max_length=MAX_TEXT)]


class RowsError(ModelkeepError, ValueError):
    """A schema whose rows cannot be sent as JSON."""


class ValidationError(ModelkeepError, ValueError):
    """A request, or one row of it, without a prediction; `place` is as in `$.rows[3].temp`."""

    def __init__(
        self,
        place: str,
        message: str,
        status: int = 422,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(f"{place}: {message}")
        self.place, self.message, self.status, self.headers = place, message, status, headers


@dataclass(frozen=True)
class ValidatedRows:
    """Rows as an engine takes them; keys of the dicts are positions in the batch.

    `times`: microseconds since 1970 in UTC; `refused`: rows that break a rule; `notes`: what is odd
    about the others; `problems`: how often each kind of problem occurred.
    """

    numbers: np.ndarray  # (rows, number columns), float64
    categories: list[Sequence[str | None]]  # by category column
    times: Sequence[int | None]
    refused: dict[int, ValidationError] = field(default_factory=dict)
    notes: dict[int, list[str]] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)

    def only(self, kept: Sequence[int]) -> "ValidatedRows":
        """These rows alone, without the problems of the batch."""
        categories = [[values[i] for i in kept] for values in self.categories]
        return ValidatedRows(self.numbers[kept], categories, [self.times[i] for i in kept])


class Decoded(NamedTuple):
    """The rows of a body, the refused ones by position, and how many have ignored keys."""

    rows: list[msgspec.Struct]
    refused: dict[int, ValidationError]
    ignored: int = 0
    explain: bool = False  # whether the predictions are to be explained


class RowReader:
    """Decodes and checks the rows that a model of this schema predicts.

    `bins` are those of its reference, with the range that training has seen. `extra_keys`: `table`
    ignores the label and the columns that prepare left out, `ignore` ignores all keys that are no
    column, `refuse` none.
    """

    def __init__(
        self, schema: Schema, bins: Sequence[Bins], max_rows: int, extra_keys: str = "table"
    ) -> None:
        kinds = {k: [c for c in schema.columns if c.kind == k] for k in ("number", "category")}
        self.schema, self.numbers, self.categories = schema, kinds["number"], kinds["category"]
        self.names = [c.name for c in (*self.numbers, *self.categories)]
        # in one order, so that two models with the same columns read each other's rows
        self.name = {name: f"c{i}" for i, name in enumerate(sorted(c.name for c in schema.columns))}
        self.row = self._struct(strict=True)
        self._decoders(max_rows)
        self.keys = {*self.names, *filter(None, (schema.id, schema.entity, schema.time))}
        self.left_out = {schema.label, *schema.ignored, *schema.origin.get("drop", ())}
        self.extra_keys, self.written = extra_keys, Written(schema)
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

    def _decoders(self, max_rows: int) -> None:
        limits = Meta(min_length=1, max_length=max_rows)
        closed = {"forbid_unknown_fields": True}
        explain = ("explain", bool | UnsetType, UNSET)
        whole = [("rows", Annotated[list[self.row], limits]), explain]
        raw = [("rows", Annotated[list[msgspec.Raw], limits]), explain]
        self.request = msgspec.defstruct("Rows", whole, **closed)
        each = msgspec.defstruct("RawRows", raw, **closed)
        self.decode_all = msgspec.json.Decoder(self.request).decode
        self.decode_each = msgspec.json.Decoder(each).decode
        self.decode_row = msgspec.json.Decoder(self._struct(strict=False)).decode

    def _struct(self, strict: bool) -> type[msgspec.Struct]:
        """A row: features by name, null where missing; optionally its id, entity and time."""
        schema = self.schema
        for name in filter(None, (*self.name, schema.id, schema.time, schema.entity)):
            if re.search(r'[\x00-\x1f"\\]', name):
                raise RowsError(
                    f"column {name!r} has a quote, a backslash or a control character in its name; "
                    "a server cannot read it: rename it in the table"
                )
        kinds = {"number": float | None, "category": Category | Number | float | bool | None}
        fields: list[tuple] = [(self.name[c.name], kinds[c.kind]) for c in schema.columns]
        rename = {short: name for name, short in self.name.items()}
        roles = {"id": (schema.id, Id | Number | UnsetType)}
        if schema.entity and schema.entity != schema.id:
            roles["entity"] = (schema.entity, Id | Number | None | UnsetType)
        if schema.time:
            roles["time"] = (schema.time, Id | UnsetType)
        fields += [(role, kind, UNSET) for role, (_, kind) in roles.items()]
        rename |= {role: name for role, (name, _) in roles.items()}
        self.roles = [attrgetter(role) for role in roles]
        options: dict[str, Any] = {"rename": rename, "forbid_unknown_fields": strict, "gc": False}
        return msgspec.defstruct("Row", fields, **options)

    def decode(self, body: bytes) -> Decoded:
        """The rows of a body; ValidationError if none can be decoded."""
        try:
            request = self.decode_all(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return self._one_by_one(body)
        rows, explain = request.rows, request.explain
        if not self._keys_are_single(body, rows, 1 + (explain is not UNSET)):
            refuse_duplicates(body)
        return Decoded(rows, {}, explain=explain is True)

    def _keys_are_single(self, body: bytes, rows: Sequence[msgspec.Struct], keys: int) -> bool:
        """Whether there are as many colons as keys: decoders keep the last of two equal keys.

        `keys` are those around the rows.
        """
        keys, colons = keys + len(rows) * len(self.name), body.count(b":")
        for role in self.roles if colons != keys else ():
            given = [value for value in map(role, rows) if value is not UNSET]
            keys += len(given) + sum(v.count(":") for v in given if type(v) is str)
        return colons == keys and b"\\" not in body

    def _one_by_one(self, body: bytes) -> Decoded:
        try:
            request = self.decode_each(body)
        except msgspec.ValidationError as error:
            raise explained(error) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ValidationError("$", f"not JSON: {error}; send UTF-8, without NaN", 400) from None
        objects = refuse_duplicates(body)["rows"]
        rows, refused, ignored = [], {}, 0
        for i, (text, given) in enumerate(zip(request.rows, objects, strict=True)):
            place = f"$.rows[{i}]"
            try:
                plain = None
                if isinstance(given, dict):
                    self._check_keys(given, place)
                    ignored += not given.keys() <= self.keys
                    plain = self.written.plain(given)
                rows.append(self.decode_row(msgspec.json.encode(plain) if plain else text))
            except ValidationError as error:
                refused[i] = error
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                refused[i] = explained(error, place)
        return Decoded(rows, refused, ignored, request.explain is True)

    def _check_keys(self, given: Collection[str], place: str) -> None:
        """Raise ValidationError that names all keys that may not be there, or all that lack."""
        unknown = [key for key in given if key not in self.keys and not self._may_ignore(key)]
        if unknown:
            shown = [repr(key[:60]) + self._near(key) for key in unknown[:12]]
            more = f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
            several = f"keys {', '.join(shown)}{more}; take them off"
            single = f"key {shown[0]}; take it off"
            message = f"has the unknown {single if len(unknown) == 1 else several}"
            raise ValidationError(place, message)
        lacking = [name for name in self.names if name not in given]
        if len(lacking) == 1:
            message = "is not there; send null if it is not known"
            raise ValidationError(f"{place}.{lacking[0]}", message)
        if lacking:
            names = ", ".join(map(repr, lacking))
            raise ValidationError(place, f"lacks {names}; send null where a value is not known")

    def _may_ignore(self, key: str) -> bool:
        if self.extra_keys != "table":
            return self.extra_keys == "ignore"
        # where `features` lists the columns, the schema does not know the rest of the table
        listed = bool(self.schema.origin.get("features"))
        return key in self.left_out or (listed and not self._near(key))

    def _near(self, key: str) -> str:
        near = did_you_mean(key[:MAX_ID], sorted(self.keys))
        return f" ({near.removeprefix('; ')})" if "did you mean" in near else ""

    def check(self, rows: Sequence[msgspec.Struct]) -> ValidatedRows:
        """The rows as an engine takes them, with the rules that they break."""
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

    def frame(self, rows: ValidatedRows) -> "pd.DataFrame":
        """Validated rows as a table of the model's columns."""
        import pandas as pd  # no prediction needs it

        columns = [*rows.numbers.T, *(pd.Series(c, dtype=object) for c in rows.categories)]
        return pd.DataFrame(dict(zip(self.names, columns, strict=True)))

    def _times(
        self, rows: Sequence[msgspec.Struct]
    ) -> tuple[Sequence[int | None], dict[int, ValidationError]]:
        """The times of rows, and the rows whose time is unreadable or off the time axis."""
        texts = [row.time for row in rows] if self.schema.time else []
        times, wrong = [None] * len(rows), {}
        if texts.count(UNSET) == len(texts):
            return times, wrong
        axis = time_axis(self.schema)
        for i, text in enumerate(texts):
            try:
                times[i] = when(self.written.time(text), axis)
            except ValidationError as error:
                wrong[i] = ValidationError(f".{self.schema.time}", error.message)
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
        counts |= {"out_of_range": int(count(outside)), "refused": len(refused | given.refused)}
        notes = self._notes(numbers, outside, unseen)
        return replace(given, refused=refused | given.refused, notes=notes, problems=counts)

    def _strangers(self, categories: list) -> tuple[list, list]:
        """Positions (row, column) of categories that training has not seen, and of missing ones."""
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
                known = known_values(column.categories)
                message = f"was never seen, and this column is a closed list; known are {known}"
                return ValidationError(f".{column.name}", message)
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


def time_axis(schema: Schema) -> tuple[datetime, datetime]:
    """The first and the last time that a row may have, by training and by the server's clock.

    A row may be as old as the axis that the schema learned, or as new as a year from now.
    """
    now = datetime.now(UTC)
    learned = getattr(schema, "axis", None)
    first, last = map(_moment, learned) if learned else (EARLIEST, now)
    return min(first, now), max(last, now + timedelta(days=DAYS_AHEAD))


def when(text: str | UnsetType, axis: tuple[datetime, datetime] | None = None) -> int | None:
    """Microseconds since 1970 in UTC, None where no time is given; without an offset it is UTC.

    ValidationError if it is no time, or off the `axis`.
    """
    if text is UNSET:
        return None
    try:
        moment = _moment(text)
    except (ValueError, OverflowError):
        raise ValidationError("", "is not a time (ISO 8601, as 2013-01-31T17:05:00)") from None
    if axis and not axis[0] <= moment <= axis[1]:
        span = " to ".join(f"{each:%Y-%m-%d}" for each in axis)
        raise ValidationError(
            "", f"{text[:40]} is far from the times of training and from now ({span}); leave it out"
        )
    return (moment - EPOCH) // MICROSECOND


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _getter(names: Sequence[str]) -> Any:
    """What takes these values out of a row, always as a tuple."""
    return attrgetter(*names) if len(names) > 1 else lambda row: (getattr(row, names[0]),)


def _text(value: str | float | bool | None) -> str | None:
    """A category as the pipeline reads it: 1.0 is "1", " a " is "a", blank is missing."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


def _number_rule(column: Column, value: float) -> str:
    if value != value:
        return "is missing, and this column must have a value" * (column.missing == "reject")
    low = -LARGEST if column.low is None else column.low
    high = LARGEST if column.high is None else column.high
    return "" if low <= value <= high else f"{value:g} is outside {low:g}..{high:g}"


TYPES = {  # of JSON, as msgspec calls them
    **{"str": "text", "float": "a number", "int": "a whole number", "bool": "true or false"},
    **{"array": "a list", "object": "an object", "null": "null"},
}
BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def explained(error: Exception, at: str = "") -> ValidationError:
    """A decoder's message in plain words: the place and the rule."""
    text, _, place = str(error).partition(" - at `")
    place = place.rstrip("`") or "$"
    place = at + place.removeprefix("$") if at else place
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        return ValidationError(place, f"has the unknown key {unknown[1][:60]!r}; take it off")
    if lacking := re.fullmatch(r"Object missing required field `(.*)`", text, re.DOTALL):
        return ValidationError(f"{place}.{lacking[1]}", "is not there")
    if "matching regex" in text:
        return ValidationError(place, "must be text without control characters")
    if rule := re.fullmatch(r"Expected `([^`]+)`(?:, got `(\w+)`)?(.*)", text):
        given = f", not {_types([rule[2]])}" if rule[2] else ""
        given += " with a fraction" if rule[2] == "float" else ""
        text = f"must be {_types(rule[1].split(' | '))}{given}{_bound(rule[1], rule[3])}"
    return ValidationError(place, text[0].lower() + text[1:])


def _types(names: Sequence[str]) -> str:
    """Types of JSON in words; a whole number is a number."""
    words = [TYPES.get(name, name) for name in names if name != "int" or "float" not in names]
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _bound(name: str, rule: str) -> str:
    """A limit of length or value in words."""
    found = re.fullmatch(r"( of length)? (>=|<=|>|<) (\S+)", rule)
    if not found:
        return rule
    if found[1] and found[2] == ">=" and found[3] == "1":
        return ", not empty"
    things = {"str": " characters", "array": " items"}.get(name, "") if found[1] else ""
    return f" of {BOUNDS[found[2]]} {found[3]}{things}"


def known_values(values: Sequence[str]) -> str:
    """The values that a closed list has, at most 12 of them."""
    more = f" and {len(values) - 12} more" if len(values) > 12 else ""
    return ", ".join(repr(value) for value in values[:12]) + more


def refuse_duplicates(body: bytes) -> Any:
    """The parsed body; ValidationError if an object has a key twice, or it is no JSON."""

    def unique(pairs: list[tuple]) -> dict:
        parsed = dict(pairs)
        if len(parsed) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValidationError("$", f"has the key {twice[:60]!r} twice; send it once", 400)
        return parsed

    try:
        return json.loads(body, object_pairs_hook=unique)
    except (RecursionError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise
        message = "not JSON, or too deep; send rows of plain values"
        raise ValidationError("$", message, 400) from None
