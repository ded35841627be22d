"""What a schema is, as plain data: a server reads it without pandas."""

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from modelkeep.core.errors import ModelkeepError

FORMAT = 1


class SchemaError(ModelkeepError, ValueError):
    """A table, a column or a rule cannot be brought to one schema."""


@dataclass(frozen=True)
class Column:
    """One feature; `low` and `high` are the smallest and the largest value accepted."""

    name: str
    kind: str  # "number" | "category"
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    missing: str = "impute"  # "impute" | "reject"
    unseen: str = "other"  # "other" | "reject": then `categories` holds every value seen
    integer: bool = False


@dataclass(frozen=True)
class Schema:
    """What the columns of a table are to the model."""

    task: str  # "binary" | "multiclass" | "regression"
    label: str
    classes: tuple[str, ...]  # () for regression; binary: (negative, positive)
    columns: tuple[Column, ...]
    id: str
    time: str | None
    entity: str | None
    ignored: dict[str, str]  # column -> why it is not a feature
    origin: dict = field(default_factory=dict)  # the parameters of prepare, verbatim
    axis: tuple[str, str] | None = None  # the first and last time that a row may have
    quarantined_share: float = 0.0  # of the known rows when the schema was learned


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x'?", or which names there are."""
    known = [str(each) for each in names]
    near = difflib.get_close_matches(str(name), known, n=1)
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"; did you mean {near[0]!r}?" if near else f"; there is: {shown}"


def number_pattern(decimal: str, thousands: str) -> str:
    """A regular expression of numbers that are written so; thousands stand in groups of three."""
    mark, point = re.escape(thousands), re.escape(decimal)
    whole = rf"(?:\d+|\d{{1,3}}(?:{mark}\d{{3}})+)" if thousands else r"\d+"
    return rf"[+-]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?"


def to_json(schema: Schema) -> str:
    """Return `schema` as JSON text, the same bytes for the same schema."""
    text = json.dumps({"format": FORMAT, **asdict(schema)}, indent=1, ensure_ascii=False)
    return text + "\n"


def from_json(text: str) -> Schema:
    """Read what `to_json` wrote; raise SchemaError for any other text."""
    try:
        found = json.loads(text)
        if (stored := found.pop("format")) != FORMAT:
            raise SchemaError(
                f"schema.json: format is {stored} and not {FORMAT}; run prepare again"
            )
        learned = [
            Column(**each | {"categories": tuple(each["categories"])}) for each in found["columns"]
        ]
        lists = {"columns": tuple(learned), "classes": tuple(found["classes"])}
        lists |= {"axis": tuple(found["axis"])} if found.get("axis") else {}
        return Schema(**found | lists)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise SchemaError(f"schema.json is not a schema ({error!r}); run prepare again") from error
