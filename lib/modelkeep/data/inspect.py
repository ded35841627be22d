"""What is doubtful about a table, each with the params that settle it. Pure: reads and writes no
file.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from modelkeep.data import columns
from modelkeep.data.columns import DATE, UNFIT_NAME, as_numbers, as_text, as_times
from modelkeep.data.definitions import number_pattern

ENOUGH = 0.95  # of the values must look alike
# A column that leaves less of the label's error than this nearly decides it. On 25 public tables
# leaks leave at most .053, and of honest columns the best leave .056 (iris) and .116.
ALONE = 0.05
SAMPLE, CELLS = 20_000, 2_000_000  # rows on which that is tried, and fewer where columns are many
NAMES_OF_LOG = ("prediction", "answered_by", "labelled_at")  # `predictions.frames` adds them
NAMES_OF_MISSING = ("NA", "N/A", "NULL", "null", "None", "nan", "NaN")  # by pandas
MARKS = ((".", ","), (",", "."), (",", ""), (",", "'"), (".", "'"), (".", " "), (",", " "))
FORMATS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y%m%d"),
    *("%d %b %Y", "%d %B %Y", "%b %d, %Y"),
)
# A currency before, a unit after: letters that stand directly before digits make a code.
AFFIXED = r"^\s*([^\w\s+\-.,]{0,3}|[A-Z]{3}(?= ))\s*([+-]?[\d.,' ]*\d)\s*(\D{0,12}?)\s*$"
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p")


@dataclass(frozen=True)
class Roles:
    """The columns that are no features, by role; '' where there is none."""

    label: str
    time: str = ""
    id: str = ""
    entity: str = ""


@dataclass(frozen=True)
class Doubt:
    """Something that a person should decide, and the params of prepare that settle it."""

    column: str
    sentence: str
    settings: Mapping[str, object] = field(default_factory=dict)
    safe: bool = False  # `--yes` takes it

    @property
    def line(self) -> str:
        """The line of params/prepare.yaml, or '' if nothing there settles it."""
        return "; ".join(
            f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in self.settings.items()
        )


def doubts(table: pd.DataFrame, roles: Roles) -> list[Doubt]:
    """All doubts about a table that was read with `raw=True`, first those of label and time."""
    found = [*_of_label(table[roles.label], roles), *_of_time(table, roles)]
    features = [name for name in table.columns if name not in vars(roles).values()]
    for name in features:
        if re.search(UNFIT_NAME, str(name)):
            found.append(_dropped(name, "no request can hold its name; rename or drop it", True))
            continue
        if name in NAMES_OF_LOG:
            found.append(_dropped(name, "the prediction log has a column of this name", True))
            continue
        found += next((each for check in CHECKS if (each := check(table[name]))), [])
        found += _variants(table[name])
    settled = {doubt.column for doubt in found if "drop" in doubt.settings}
    found += _alone(table, roles, [name for name in features if name not in settled])
    return found


def hints(table: pd.DataFrame, roles: Roles, rules: Mapping[str, object]) -> list[str]:
    """Sentences about columns of text that look like numbers, of a table as prepare reads it."""
    some = table if len(table) <= SAMPLE else table.sample(SAMPLE, random_state=0)
    names = [n for n in table.columns if n not in vars(roles).values() and n not in rules]
    found = [doubt for name in names for doubt in _numbers(some[name])]
    return [f"{d.column}: {d.sentence}; params/prepare.yaml: {d.line}" for d in found]


def merged(found: list[Doubt]) -> dict[str, object]:
    """The settings of several doubts as one: lists add up, rules are joined by column."""
    out: dict = {}
    for doubt in found:
        for name, value in doubt.settings.items():
            if isinstance(value, Mapping):
                out[name] = out.get(name, {}) | dict(value)
            elif isinstance(value, list):
                out[name] = [*dict.fromkeys([*out.get(name, []), *value])]
            else:
                out[name] = value
    return out


def _dropped(name: str, sentence: str, safe: bool = False) -> Doubt:
    return Doubt(name, sentence, {"drop": [name]}, safe)


def _texts(values: pd.Series) -> pd.Series:
    """What is there, as text; nothing for a column that was typed as something else."""
    known = values.dropna()
    if not isinstance(known.dtype, pd.StringDtype | pd.CategoricalDtype) and known.dtype != object:
        return pd.Series([], dtype="str")
    text = as_text(known).dropna().str.strip()
    return text[~text.isin(NAMES_OF_MISSING)]


def _share(mask: pd.Series) -> float:
    return float(mask.astype(bool).mean()) if len(mask) else 0.0


def _example(text: pd.Series, mask: pd.Series | None = None) -> str:
    return repr(str((text if mask is None else text[mask.astype(bool)]).iloc[0]))


def _empty(values: pd.Series) -> list[Doubt]:
    text = as_text(values).dropna()
    if text.empty:
        return [_dropped(str(values.name), "every value is missing", True)]
    if text.nunique() == 1 and len(text) == len(values):
        return [_dropped(str(values.name), f"every value is {_example(text)}", True)]
    return []


def _codes(values: pd.Series) -> list[Doubt]:
    text = _texts(values)
    leading = text.str.fullmatch(r"0\d+")
    if _share(text.str.fullmatch(r"\d+")) < ENOUGH or not leading.any():
        return []
    return [
        Doubt(
            str(values.name),
            f"digits with leading zeros ({_example(text, leading)}): a code and no number",
            {"rules": {str(values.name): {"kind": "category"}}},
            safe=True,
        )
    ]


def _numbers(values: pd.Series) -> list[Doubt]:
    """Numbers that are written in a way of their own: marks, units, currency, per cent."""
    text, name = _texts(values), str(values.name)
    if text.empty or _share(text.str.fullmatch(number_pattern(".", ""))) >= ENOUGH:
        return []
    core = text.str.extract(AFFIXED)
    if core[1].isna().mean() > 1 - ENOUGH:
        return []
    around = {mark for mark in pd.concat([core[0], core[2]]).dropna().unique() if mark}
    units = [mark for mark in around if any(map(str.isalpha, mark))]
    if len(around) > 5 or len(units) > 1:  # 1st and 2nd, 3 kg and 200 g: no numbers of one kind
        return []
    strip = around.pop() if len(around) == 1 else "".join(sorted(set("".join(around))))
    plain = core[1].dropna()
    for decimal, thousands in ((".", ""), *MARKS):
        if thousands and plain.str.match(rf"[+-]?0{re.escape(thousands)}").any():
            continue  # 0,496 has no group of thousands: the comma is its decimal mark
        if _share(plain.str.fullmatch(number_pattern(decimal, thousands))) >= ENOUGH:
            break
    else:
        return []
    rule = {"decimal": decimal} if decimal != "." else {}
    rule |= (
        {"thousands": thousands}
        if thousands and plain.str.contains(thousands, regex=False).any()
        else {}
    )
    rule |= {"strip": strip} if strip else {}
    sure = decimal == "," or not plain.str.fullmatch(r"[+-]?\d{1,3},\d{3}").all()
    how = "" if sure else "; if 1,234 is a little more than one, it is the decimal mark"
    sentence = f"numbers written as text ({_example(text)}){how}"
    return [Doubt(name, sentence, {"rules": {name: rule}}, safe=sure)] if rule else []


def _dates(values: pd.Series) -> list[Doubt]:
    text = _texts(values)
    if _share(text.str.fullmatch(DATE)) < ENOUGH and not _formats(text):
        return []
    sentence = f"dates ({_example(text)}); a model learns nothing from a date as it is"
    return [_dropped(str(values.name), sentence, True)]


def _missing_name(values: pd.Series) -> list[Doubt]:
    """`NA` among short codes is a name (Namibia, sodium) that pandas takes for missing."""
    if not isinstance(values.dtype, pd.StringDtype):
        return []
    text, n = _texts(values), int((values == "NA").sum())
    codes = _share(text.str.fullmatch(r"[A-Za-z]{1,3}"))
    if not n or codes < ENOUGH or text.nunique() < 2:
        return []
    kept = [name for name in NAMES_OF_MISSING if name != "NA"]
    two = _share(text.str.fullmatch(r"[A-Z]{2}")) >= ENOUGH and text.nunique() > 5
    sentence = f"{n:,} values are 'NA': missing for pandas, and perhaps a name as the others are"
    return [Doubt(str(values.name), sentence, {"na_values": kept}, safe=two)]


def _unique(values: pd.Series) -> list[Doubt]:
    text, name = _texts(values), str(values.name)
    if text.empty:
        whole = pd.api.types.is_integer_dtype(values.dtype)
        text = as_text(values).dropna() if whole else text
    if len(text) < 20 or text.nunique() < 0.5 * len(text):
        return []
    numbers, bad = as_numbers(text)
    steps = np.diff(numbers)
    if not bad.any() and not ((numbers % 1 == 0).all() and (steps > 0).all()):
        return []  # a measurement: most of its values differ
    what = "a counter" if not bad.any() else "an id or free text"
    sentence = (
        f"{text.nunique():,} different values in {len(text):,} rows ({_example(text)}): {what}"
    )
    return [_dropped(name, sentence, True)]


def _variants(values: pd.Series) -> list[Doubt]:
    text = _texts(values).drop_duplicates()
    if len(text) > columns.MAX_NAMES:
        return []
    same = text.groupby(text.str.casefold().str.replace(r"\s+", " ", regex=True))
    twice = same.filter(lambda names: len(names) > 1)
    if twice.empty:
        return []
    names = ", ".join(repr(name) for name in sorted(twice)[:4])
    return [
        Doubt(
            str(values.name), f"names that differ by case or space only ({names}); mend the table"
        )
    ]


CHECKS: tuple[Callable[[pd.Series], list[Doubt]], ...] = (
    *(_empty, _codes, _numbers, _dates, _missing_name, _unique),
)


def _of_label(values: pd.Series, roles: Roles) -> Iterator[Doubt]:
    if re.search(UNFIT_NAME, roles.label):
        yield Doubt(roles.label, "the label's name has a quote or control character; rename it")
    yield from _numbers(values)
    yield from _missing_name(values)
    yield from _variants(values)
    missing = float(as_text(values).isna().mean())
    if missing > 0.2:
        yield Doubt(roles.label, f"{missing:.0%} of the rows have no label: they train nothing")
    text = as_text(values).dropna()
    changes = int((text.to_numpy()[1:] != text.to_numpy()[:-1]).sum())
    if not roles.time and 1 < text.nunique() <= 50 and changes < 2 * text.nunique():
        sentence = "the rows are sorted by the label: test rows must be drawn, not cut by order"
        yield Doubt(roles.label, sentence, {"shuffle": True}, safe=True)


def _of_time(table: pd.DataFrame, roles: Roles) -> Iterator[Doubt]:
    if not roles.time:
        return
    values = table[roles.time]
    text = as_text(values).dropna().str.strip()
    if values.dtype.kind == "M" or text.empty:
        return
    for digits, form in ((10, "s"), (13, "ms")):
        if _share(text.str.fullmatch(rf"\d{{{digits}}}")) >= ENOUGH:
            sentence = f"times are numbers since 1970 ({_example(text)})"
            yield Doubt(roles.time, sentence, {"date_format": form}, safe=True)
            return
    if _share(~pd.Series(as_times(text)[1])) >= ENOUGH:
        return
    forms = _formats(text)
    if not forms:
        sentence = f"times are of no format that is known ({_example(text)}); set date_format"
        yield Doubt(roles.time, sentence)
        return
    ways = f"; {forms[1]} fits too" if len(forms) > 1 else ""
    sentence = f"times are not ISO 8601 ({_example(text)}){ways}"
    yield Doubt(roles.time, sentence, {"date_format": forms[0]}, safe=not ways)


def _formats(text: pd.Series) -> list[str]:
    """The formats that nearly all of the texts have, likeliest first."""
    if text.empty or not text.str.contains(r"\d").iloc[0] or text.str.len().max() > 30:
        return []
    some = text.iloc[:: max(len(text) // 2000, 1)]
    fits = [
        form + clock
        for form in FORMATS
        for clock in CLOCKS
        if pd.to_datetime(some, format=form + clock, errors="coerce").notna().mean() >= ENOUGH
    ]
    plain = some.str.fullmatch(r"\d+")
    return [] if plain.all() and fits != ["%Y%m%d"] else fits


def alone(rows: pd.DataFrame, label: str, features: Sequence[str]) -> dict[str, float]:
    """How much of the label's error each column leaves alone, least first: a tree on that column,
    by two-fold cross-validation, over a constant (share of wrong classes, or squared error).

    A copy of the label leaves 0, noise about 1. Empty where rows are too few to say.
    """
    rows = rows[as_text(rows[label]).notna()]
    most = min(SAMPLE, max(CELLS // max(len(features), 1), 2_000))
    if len(rows) > most:
        rows = rows.sample(most, random_state=0)
    y, bad = as_numbers(rows[label])
    classes = bad.any() or pd.Series(y).nunique() <= 20
    rows, y = (rows, as_text(rows[label]).to_numpy()) if classes else _usable(rows, y)
    kinds = len(set(y))
    if len(rows) < 40 or kinds < 2 or (classes and kinds > len(y) / 4):
        return {}
    left = {name: _error_left(rows[name], y, classes) for name in features}
    return dict(sorted(left.items(), key=lambda each: each[1]))


def decides(label: str, left: float) -> str:
    """The doubt about a column that leaves so little of the label's error."""
    share = f"{left:.1%} of the error is left"
    return f"nearly decides {label} alone ({share}): known too late, or a copy?"


def _alone(table: pd.DataFrame, roles: Roles, features: list[str]) -> list[Doubt]:
    return [
        _dropped(name, f"{decides(roles.label, left)} If so, drop it")
        for name, left in alone(table, roles.label, features).items()
        if left < ALONE
    ]


def _usable(rows: pd.DataFrame, y: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows whose number to predict can be squared."""
    usable = np.abs(y) <= columns.LARGEST  # neither missing nor infinite
    return rows[usable], y[usable]


def _error_left(values: pd.Series, y: np.ndarray, classes: bool) -> float:
    """The error of a tree on one column over that of a constant, on rows it was not fitted to."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    numbers, bad = as_numbers(values)
    if bad.any():
        codes = pd.Series(pd.factorize(as_text(values))[0])
        if codes.nunique() > len(codes) / 10:
            return 1.0
        numbers = codes.to_numpy("float64")
    x = np.nan_to_num(numbers, nan=-1e30, posinf=1e30, neginf=-1e30)[:, None]
    fold = np.random.default_rng(0).integers(0, 2, len(y))
    kind = DecisionTreeClassifier if classes else DecisionTreeRegressor
    wrong = base = 0.0
    for k in (0, 1):
        tree = kind(min_samples_leaf=5, random_state=0).fit(x[fold != k], y[fold != k])
        actual, predicted = y[fold == k], tree.predict(x[fold == k])
        if classes:
            usual = pd.Series(y[fold != k]).mode()[0]
            wrong, base = wrong + (actual != predicted).sum(), base + (actual != usual).sum()
        else:
            usual = y[fold != k].mean()
            wrong, base = (
                wrong + ((actual - predicted) ** 2).sum(),
                base + ((actual - usual) ** 2).sum(),
            )
    return float(wrong / base) if base else 1.0


def is_time(values: pd.Series) -> bool:
    """Whether nearly all values are dates or times."""
    if values.dtype.kind == "M":
        return True
    text = _texts(values)
    return _share(text.str.fullmatch(DATE)) >= ENOUGH or bool(_formats(text))
