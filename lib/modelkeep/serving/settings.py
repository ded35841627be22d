"""The settings of the server: the values of params/serve.yaml, where each line has its meaning."""

from dataclasses import dataclass

from modelkeep.core.errors import ModelkeepError

CHOICES = {
    "follow": ("pointer", "record", "remote"),
    "durability": ("full", "normal"),
    "on_log_failure": ("refuse", "serve"),
    "auth": ("labels", "all", "none"),
    "extra_keys": ("table", "ignore", "refuse"),
    "errors": ("full", "brief"),
    "access_log": ("none", "errors", "all"),
    "log_format": ("text", "json"),
}


class ServerError(ModelkeepError, ValueError):
    """Settings that the server cannot run with."""


@dataclass(frozen=True)
class Settings:
    """The values of params/serve.yaml."""

    name: str = "flights"
    purpose: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    store: str = "serving"
    follow: str = "pointer"
    log: str = "sqlite:///data/log/predictions.db"
    durability: str = "full"
    on_log_failure: str = "refuse"
    keep_days: float = 0.0
    auth: str = "labels"
    extra_keys: str = "table"
    errors: str = "full"
    access_log: str = "errors"
    log_format: str = "text"
    intervals: float = 0.0
    fast_path: bool = True
    max_connections: int = 1000
    max_body_kb: int = 4096
    max_rows: int = 1000
    explain_rows: int = 100
    max_wait_ms: float = 10.0
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    drain_seconds: float = 10.0

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {getattr(self, name)!r} is not one of {', '.join(values)}"
            for name, values in CHOICES.items()
            if getattr(self, name) not in values
        ]
        if not 0 <= self.port <= 65535:
            problems.append(f"port: {self.port} is not between 0 (a free one) and 65535")
        if not 0 <= self.intervals < 1:
            problems.append(f"intervals: {self.intervals} is not from 0 (none) to below 1 (as 0.9)")
        if self.keep_days < 0:
            problems.append(f"keep_days: {self.keep_days} is below 0; 0 keeps every row")
        positive = ("max_connections", "max_body_kb", "max_rows", "head_seconds", "body_seconds")
        problems += [
            f"{name}: {getattr(self, name)} must be above 0"
            for name in positive
            if not getattr(self, name) > 0
        ]
        if problems:
            raise ServerError("params/serve.yaml: " + "; ".join(problems))
