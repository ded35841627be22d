"""Who may send what: tokens, and the content types that a web page cannot send by itself."""

import hmac
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from modelkeep.serving.requests import ValidationError
from modelkeep.serving.settings import ServerError

TOKEN, TOKEN_FILE = "MODELKEEP_TOKEN", "MODELKEEP_TOKEN_FILE"
# content types that a web page may send to any address without a preflight request
SIMPLE_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
CHALLENGE = 'Bearer realm="modelkeep"'


class Tokens:
    """The tokens that clients may send: of the environment, and the lines of a file.

    While a token is replaced, both the old and the new one are valid: separate them by commas or
    spaces. The file is read again when it changes, without a restart.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._fixed = environment.get(TOKEN, "").replace(",", " ").split()
        self._path = Path(environment[TOKEN_FILE]) if environment.get(TOKEN_FILE) else None
        self._stamp: tuple[int, int, int] | None = None
        self.values: tuple[bytes, ...] = tuple(each.encode() for each in self._fixed)
        self.refresh()

    def refresh(self) -> bool:
        """Read the file again if it changed; whether the tokens changed."""
        if self._path is None:
            return False
        try:
            state = self._path.stat()
            stamp = state.st_mtime_ns, state.st_ino, state.st_size
            if stamp == self._stamp:
                return False
            lines = self._path.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise ServerError(
                f"{TOKEN_FILE}: {self._path} cannot be read ({error}); write one token a line"
            ) from None
        before, self._stamp = self.values, stamp
        self.values = tuple(each.encode() for each in [*self._fixed, *lines])
        return self.values != before

    def __len__(self) -> int:
        return len(self.values)

    def match(self, authorization: bytes) -> bool:
        """Whether an Authorization header holds one of the tokens; its scheme has any case."""
        scheme, _, token = authorization.partition(b" ")
        given = token.strip()
        fits = [hmac.compare_digest(given, each) for each in self.values]
        return scheme.lower() == b"bearer" and any(fits)


class Access:
    """The policy `auth` of params/serve.yaml for one server."""

    def __init__(self, policy: str, host: str, tokens: Tokens) -> None:
        if policy == "all" and not tokens:
            raise ServerError(
                f"auth: all needs a token: set {TOKEN}, or {TOKEN_FILE} to a file of one token a "
                "line, or set auth: labels in params/serve.yaml"
            )
        self.tokens = tokens
        guarded = bool(tokens) or not loopback(host)
        self.writes_need_token = policy == "all" or (policy == "labels" and guarded)
        self.reads_need_token = policy == "all"

    def check(self, headers: Mapping[bytes, bytes], *, writes: bool, posts: bool = True) -> None:
        """Raise ValidationError unless these headers may pass; `headers` have lower-case names."""
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if posts and (kind in SIMPLE_TYPES or (writes and kind != "application/json")):
            raise ValidationError("content-type", "must be application/json", 415)
        needed = self.writes_need_token if writes else self.reads_need_token
        if needed and not self.tokens.match(headers.get(b"authorization", b"")):
            sent = b"authorization" in headers
            problem = ', error="invalid_token"' if sent else ""
            raise ValidationError(
                "authorization",
                f"needs a token of {TOKEN} or {TOKEN_FILE}, as `Authorization: Bearer TOKEN`",
                401,
                headers={"www-authenticate": CHALLENGE + problem},
            )


def loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
