"""How the server runs: what params/serve.yaml holds, where each line says what it means."""

from dataclasses import dataclass

from modelkeep.core.errors import ModelkeepError


class ServerError(ModelkeepError, ValueError):
    """Settings that the server cannot run with."""


@dataclass(frozen=True)
class Settings:
    """The values of params/serve.yaml."""

    name: str = "flights"
    host: str = "127.0.0.1"
    port: int = 8080
    store: str = "serving"
    log: str = "sqlite:///data/log/predictions.db"
    durability: str = "full"
    on_log_failure: str = "refuse"
    max_body_kb: int = 4096
    max_rows: int = 1000
    max_wait_ms: float = 10.0
    body_seconds: float = 10.0
    drain_seconds: float = 10.0
