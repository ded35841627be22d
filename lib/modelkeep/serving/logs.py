"""Access and error logs of the server: a line each, as text or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime

ACCESS, SERVER = "modelkeep.access", "modelkeep.server"


class TextFormatter(logging.Formatter):
    """`2026-01-31T17:05:00.123Z INFO 127.0.0.1:52814 "GET /model" 200 0.8 ms`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; of an exception, its last line (JSON has all of it)."""
        fields = getattr(record, "request", None)
        text = _line(fields) if fields else record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + self.formatException(record.exc_info)
        return f"{_time(record)} {record.levelname} {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message; for requests also their fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields = getattr(record, "request", None)
        entry = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        entry |= fields or {"message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(form: str) -> None:
    """Send all logs of this process to standard error, as `form`: text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in (ACCESS, SERVER):
        logging.getLogger(name).setLevel(logging.INFO)


def access(
    client: tuple[str, int] | None, method: str, path: str, status: int, seconds: float
) -> None:
    """Log one request; a failure of the server is an error, one of the client a warning."""
    level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
    fields = {"client": f"{client[0]}:{client[1]}" if client else "", "method": method}
    fields |= {"path": path, "status": status, "ms": round(seconds * 1e3, 2)}
    logging.getLogger(ACCESS).log(level, "request", extra={"request": fields})


def server() -> logging.Logger:
    """The log of the server's own events and errors."""
    return logging.getLogger(SERVER)


def _line(fields: dict) -> str:
    path = fields["path"].encode("unicode_escape").decode()  # a path may hold line breaks
    return (
        f'{fields["client"]} "{fields["method"]} {path}" {fields["status"]} {fields["ms"]:.1f} ms'
    )


def _time(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
