"""What one column must look like: read its values, learn it, fit values to it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from modelkeep.data.definitions import Column, SchemaError, did_you_mean

RARE = 0.001  # a category below this share of the learning rows, or seen once, is "other"
MISFITS = 0.05  # up to this share of the values of a column of numbers may not be numbers
LARGEST = 1e100  # so that squares and their sums stay finite
COUNTER = 20  # so many whole numbers that only go up are a row number
MAX_NAMES = 1000  # the longest closed list of categories or classes
BLANK = (
    "",
    "na",
    "n/a",
    "nan",
    "null",
    "none",
)  # texts that mean "missing" among numbers
DATE = r"\s*(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})(?:[ T].*)?"
MOMENTS = (
    "date",
    "time",
    "datetime",
    "datetime64",
    "timedelta",
    "timedelta64",
    "period",
)
WHEN = "a date or time: the model learns from numbers and categories"
RULES = {"kind": ("number", "category"), "missing": ("impute", "reject")}
RULES |= {"unseen": ("other", "reject"), "low": (), "high": ()}
WRITTEN = ("decimal", "thousands", "strip")  # how a CSV file writes the numbers of one column
UNFIT_NAME = r'["\\\x00-\x1f\x7f]'  # what a request cannot name plainly


@dataclass(frozen=True)
class Fault:
    """Positions in a table that break one rule, and the reason at each."""

    rule: str
    reasons: pd.Series  # position -> sentence


def with_column(rows: pd.DataFrame, name: str, values: object) -> pd.DataFrame:
    """The rows with a column of any name new or replaced; `DataFrame.assign` takes no `self`."""
    rows = rows.copy(deep=False)
    rows[name] = values
    return rows


def as_text(values: pd.Series) -> pd.Series:
    """Return `values` as str, NaN for missing and blank; 1.0 is "1" and True is "True"."""
    kind, at, name = values.dtype, values.index, values.name
    if isinstance(kind, pd.CategoricalDtype):
        texts = as_text(pd.Series(kind.categories)).array
        return pd.Series(texts.take(values.cat.codes.to_numpy(), allow_fill=True), at, name=name)
    if _is_number(values) or pd.api.types.is_bool_dtype(kind):
        return pd.Series(_number_text(values), at, "str", name)
    if not isinstance(kind, pd.StringDtype):
        values = values.astype(object).map(_one_text, na_action="ignore")
    text = values.astype("str")
    blank = text.str.isspace() | (text == "")
    return text.mask(blank) if blank.any() else text


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_any_real_numeric_dtype(values.dtype)


def _one_text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number_text(values: pd.Series) -> np.ndarray:
    numbers = pa.array(values, from_pandas=True)
    if pa.types.is_boolean(numbers.type):
        return pc.if_else(numbers, "True", "False").to_pandas().array
    if not pa.types.is_floating(numbers.type):
        return numbers.cast(pa.string()).to_pandas().array
    floats = values.to_numpy("float64", na_value=np.nan)
    whole = (floats == np.floor(floats)) & (np.abs(floats) < 2**53)
    counts = pa.array(np.where(whole, floats, 0).astype("int64")).cast(pa.string())
    return pc.if_else(pa.array(whole), counts, numbers.cast(pa.string())).to_pandas().array


def as_numbers(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return `values` as float64 with NaN for missing, and which of them are not numbers."""
    if _is_number(values) or pd.api.types.is_bool_dtype(values.dtype):
        return values.to_numpy("float64", na_value=np.nan), np.zeros(len(values), bool)
    text = as_text(values).str.strip()
    text = text.mask(text.str.lower().isin(BLANK))
    numbers = pd.to_numeric(text, errors="coerce").to_numpy("float64")
    return numbers, np.isnan(numbers) & text.notna().to_numpy()


def as_times(values: pd.Series) -> tuple[pd.Series, np.ndarray]:
    """Return `values` as naive datetime64[us], in UTC if zoned, and which are not ISO 8601."""
    text = values if values.dtype.kind == "M" else as_text(values).str.strip()
    times = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
    times = times.dt.tz_localize(None).astype("datetime64[us]")
    return times, (times.isna() & text.notna()).to_numpy()


def check_rules(name: str, rules: Mapping[str, object]) -> None:
    """Raise SchemaError for a rule of the column `name` that is unknown or cannot hold."""
    for rule, value in rules.items():
        where = f"rules.{name}.{rule}"
        if rule in WRITTEN and isinstance(value, str):
            continue
        if rule not in RULES:
            raise SchemaError(f"{where}: no such rule{did_you_mean(rule, (*RULES, *WRITTEN))}")
        if RULES[rule] and value not in RULES[rule]:
            raise SchemaError(f"{where}: {value!r} is not one of {', '.join(RULES[rule])}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not RULES[rule] and value is not None and not (number and math.isfinite(value)):
            raise SchemaError(f"{where}: {value!r} is not a finite number; leave it out")
    low, high = rules.get("low"), rules.get("high")
    if low is not None and high is not None and low > high:
        raise SchemaError(f"rules.{name}: low {low} is above high {high}; swap them")


def check_name(role: str, name: str) -> None:
    """Raise SchemaError for a name that a request to the server cannot hold plainly."""
    if re.search(UNFIT_NAME, name):
        raise SchemaError(
            f"{role}: the column {name!r} has a quote, a backslash or a control character in its "
            "name, which no request can name; rename it in the table, or add it to `drop`"
        )


def stated_kind(rules: Mapping[str, object]) -> object:
    """The kind that rules state: how its numbers are written makes a column a number."""
    written = any(rule in rules for rule in WRITTEN)
    return rules.get("kind", "number" if written else None)


def learn_column(values: pd.Series, rules: Mapping[str, object]) -> Column | str:
    """Return the column as a feature, or the reason why it is none; a stated kind keeps it."""
    kind, why = _guess(values)
    if why and not stated_kind(rules):
        return why
    stated = {rule: value for rule, value in rules.items() if rule not in ("kind", *WRITTEN)}
    stated |= {rule: float(stated[rule]) for rule in ("low", "high") if rule in stated}
    kind, name = stated_kind(rules) or kind, str(values.name)
    for rule in {"number": ("unseen",), "category": ("low", "high")}[kind]:
        if rule in stated:
            raise SchemaError(f"rules.{name}.{rule}: the column is a {kind}; take the rule off")
    if kind == "number":
        numbers = as_numbers(values)[0]
        whole = bool(np.all(numbers[np.isfinite(numbers)] % 1 == 0))
        return Column(name, kind, integer=whole, **stated)
    return Column(name, kind, categories=_categories(values, stated.get("unseen")), **stated)


def _guess(values: pd.Series) -> tuple[str, str]:
    """Return the kind of a column, and why it cannot be a feature ("" if it can)."""
    if _is_number(values):
        return "number", _why_no_number(as_numbers(values)[0])
    if values.dtype.kind in "mM" or pd.api.types.infer_dtype(values, skipna=True) in MOMENTS:
        return "category", WHEN
    counts = as_text(values).value_counts()
    texts, enough = pd.Series(counts.index), (1 - MISFITS) * counts.sum()
    if counts.empty:
        return "category", "every value is missing"
    named = isinstance(values.dtype, pd.CategoricalDtype)  # whoever made it meant categories
    if not named and counts[~as_numbers(texts)[1]].sum() >= enough:
        return "number", _why_no_number(as_numbers(values)[0])
    if counts[texts.str.fullmatch(DATE).to_numpy(bool)].sum() >= enough:
        return "category", WHEN
    return "category", _why_no_category(counts, len(values))


def _why_no_number(numbers: np.ndarray) -> str:
    if np.isnan(numbers).all():
        return "every value is missing"
    if not np.isfinite(numbers).all():
        return ""
    if numbers.min() == numbers.max():
        return f"constant: every value is {numbers[0]:g}"
    if len(numbers) >= COUNTER and np.all(np.diff(numbers) > 0) and np.all(numbers % 1 == 0):
        return "a counter: it goes up from row to row, so it tells when and not what"
    return ""


def _why_no_category(counts: pd.Series, rows: int) -> str:
    if len(counts) == 1 and counts.sum() == rows:
        return f"constant: every value is {counts.index[0]!r}"
    if counts.iloc[0] < _enough(rows):
        return "free text or an identifier: no value has 0.1 % of the rows"
    return ""


def _enough(rows: int) -> float:
    return max(RARE * rows, 2)


def _categories(values: pd.Series, unseen: object) -> tuple[str, ...]:
    counts = as_text(values).value_counts()
    kept = counts.index if unseen == "reject" else counts.index[counts >= _enough(len(values))]
    if len(kept) > MAX_NAMES:
        raise SchemaError(
            f"rules.{values.name}.unseen: 'reject' needs a closed list and the column has "
            f"{len(kept)} values (at most {MAX_NAMES}); use 'other'"
        )
    return tuple(sorted(kept))


def fit(values: pd.Series, column: Column) -> tuple[pd.Series, list[Fault]]:
    """Return `values` as float64 or str, and the faults against the rules of `column`."""
    if column.kind == "number":
        return _fit_number(values, column)
    text, found = as_text(values), []
    if column.unseen == "reject":
        unseen = text.notna() & ~text.isin(column.categories)
        found += faults(values, unseen, "was never seen")
    if column.missing == "reject":
        found += faults(values, text.isna(), "is missing")
    return text, found


def _fit_number(values: pd.Series, column: Column) -> tuple[pd.Series, list[Fault]]:
    numbers, bad = as_numbers(values)
    found = faults(values, bad, "is not a number")
    size = np.abs(numbers)
    found += faults(values, np.isinf(numbers), "is not finite")
    found += faults(values, (size > LARGEST) & (size < math.inf), f"is beyond {LARGEST:g}")
    low = -math.inf if column.low is None else column.low
    high = math.inf if column.high is None else column.high
    outside = (numbers < low) | (numbers > high)
    found += faults(values, outside, f"is outside {low:g}..{high:g}")
    if column.missing == "reject":
        found += faults(values, np.isnan(numbers) & ~bad, "is missing")
    return pd.Series(numbers, values.index, name=values.name), found


def faults(values: pd.Series, mask: np.ndarray | pd.Series, what: str) -> list[Fault]:
    """Return where `mask` is true, if anywhere, as in "temp: 'abc' is not a number"."""
    at = np.flatnonzero(np.asarray(mask))
    if not len(at):
        return []
    shown = as_text(values.iloc[at])
    known = shown.notna().to_numpy()
    quoted = "'" + shown.str.slice(0, 40) + "' "
    shown = (shown + " " if _is_number(values) else quoted).where(known, "")
    reasons = f"{values.name}: " + shown.astype("str") + what
    return [Fault(f"{values.name}: {what}", reasons.set_axis(at))]
