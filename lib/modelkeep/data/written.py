"""Values as the learned table writes them: a client may send a row as it lies there."""

import re
from collections.abc import Mapping
from datetime import datetime

from modelkeep.data.definitions import Schema, number_pattern

PLAIN = (".", "", "")  # decimal mark, mark between thousands, what is stripped


class Written:
    """How a table writes its numbers and times, by the settings that prepare read it with."""

    def __init__(self, schema: Schema) -> None:
        origin = schema.origin
        usual = origin.get("decimal") or ".", origin.get("thousands") or "", ""
        rules, names = origin.get("rules") or {}, ("decimal", "thousands", "strip")
        marks = {
            column.name: tuple(map(rules.get(column.name, {}).get, names, usual))
            for column in schema.columns
            if column.kind == "number"
        }
        self.marks = {name: each for name, each in marks.items() if each != PLAIN}
        form = origin.get("date_format") or ""
        self.date_format = form if "%" in form else ""

    def plain(self, row: Mapping) -> dict | None:
        """The row with numbers in place of texts that the table writes so; None if there is none.

        A text that is no number stays, and the rules of a request refuse it.
        """
        found = {}
        for name, (decimal, thousands, strip) in self.marks.items():
            text = row.get(name)
            if not isinstance(text, str):
                continue
            text = text.strip(f"{strip} ")
            if re.fullmatch(number_pattern(decimal, thousands), text):
                text = text.replace(thousands, "") if thousands else text
                found[name] = float(text.replace(decimal, "."))
        return {**row, **found} if found else None

    def time(self, text: str) -> str:
        """A time in the table's own format as ISO 8601; any other text as it is."""
        if not self.date_format or not isinstance(text, str):
            return text
        try:
            return datetime.strptime(text, self.date_format).isoformat()
        except ValueError:
            return text
