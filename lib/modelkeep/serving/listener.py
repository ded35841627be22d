"""Listening: the socket, and connections that no client can hold or confuse.

uvicorn's protocol answers HTTP/1.1. Around it, a head is collected before it is parsed: it has a
limit of size and of time, and `Upgrade` (h2c, WebSocket) is ignored, as RFC 9110 7.8 allows.
"""

import errno
import re
import resource
import socket
from asyncio import BaseTransport, TimerHandle
from typing import TYPE_CHECKING, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelkeep.serving.settings import ServerError

if TYPE_CHECKING:
    import uvicorn


END = b"\r\n\r\n"
MAX_HEAD = 65_536  # bytes of a request's line and headers
LINGER = 2.0  # seconds in which a client may finish a body that nobody reads
SPARE_FILES = 64  # file descriptors for everything but connections
UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)
IGNORED = b"\r\nx-ignored-upgrade:"
REFUSALS = {
    "408 Request Timeout": b"the head of the request did not arrive in time",
    "431 Request Header Fields Too Large": b"the head of the request is larger than 64 KB",
    "503 Service Unavailable": b"too many connections; try again",
}


class Limits(NamedTuple):
    """The limits of one listener."""

    connections: int = 1000
    head_seconds: float = 10.0


class Connection(HttpToolsProtocol):
    """One connection."""

    head = b""  # the part of a head that has arrived
    within = False  # uvicorn's parser is inside a message
    body_left: int | None = 0  # bytes of its body that are to come; None if they are not stated
    timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Accept the connection, or refuse it where there are too many."""
        super().connection_made(transport)
        self.limits: Limits = self.config.limits
        if len(self.connections) > self.limits.connections:
            self._refuse("503 Service Unavailable")
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give whole heads, and the bodies after them, to uvicorn's parser."""
        while data and not self.transport.is_closing():
            if self.within:
                data = self._body(data)
                continue
            self.head += data
            end = self.head.find(END)
            if end < 0 and not self.head.lstrip(b"\r\n")[:1].isalpha() and len(self.head) > 4:
                return super().data_received(self.head)  # no HTTP: the parser refuses it
            if end < 0:
                return self._partial()
            head, data, self.head = self.head[: end + 4], self.head[end + 4 :], b""
            self._cancel_timer()
            super().data_received(UPGRADE.sub(IGNORED, head))
            stated = [value for name, value in self.headers or () if name == b"content-length"]
            self.body_left = int(stated[0]) if self.within and stated else None

    def _body(self, data: bytes) -> bytes:
        """Feed the part of the data that belongs to this message; the rest."""
        size = len(data) if self.body_left is None else min(self.body_left, len(data))
        if self.body_left is not None:
            self.body_left -= size
        super().data_received(data[:size])
        return data[size:]

    def _partial(self) -> None:
        if len(self.head) > MAX_HEAD:
            self._refuse("431 Request Header Fields Too Large")
            return
        self._unset_keepalive_if_required()
        if self.timer is None:
            self._expect_head()

    def _expect_head(self) -> None:
        self.timer = self.loop.call_later(self.limits.head_seconds, self._head_overdue)

    def _head_overdue(self) -> None:
        if self.head:
            self._refuse("408 Request Timeout")
        else:
            self.transport.close()

    def _cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _refuse(self, status: str) -> None:
        body = b'{"error":{"message":"%b"}}' % REFUSALS[status]
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n" % status.encode()
        head += b"content-length: %d\r\nconnection: close\r\n" % len(body)
        head += b"retry-after: 1\r\n" if status.startswith("503") else b""
        self.transport.write(head + b"\r\n" + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """From here on the parser is inside a message."""
        self.within = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """The parser is between two messages again."""
        self.within = False
        self._cancel_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Close the connection soon if the client still sends a body that nobody reads."""
        super().on_response_complete()
        if self.within:
            self._cancel_timer()
            self.timer = self.loop.call_later(LINGER, self.transport.close)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: what follows CONNECT cannot be parsed, so the connection ends with its reply."""
        if self.cycle is not None:
            self.cycle.keep_alive = False


def listen(
    app: object,
    host: str,
    port: int,
    *,
    drain_seconds: int,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    protocol: type[Connection] = Connection,
) -> tuple["uvicorn.Server", socket.socket]:
    """A server of this app and its socket: who connects from now on is answered."""
    import uvicorn

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=drain_seconds,
    )
    config.limits = Limits(_affordable(limits.connections), limits.head_seconds)
    bound = _bind(host, port)
    bound.listen(config.backlog)
    return uvicorn.Server(config), bound


def _affordable(connections: int) -> int:
    """So many connections, or as many as this process may open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE_FILES
    if soft < needed and soft != resource.RLIM_INFINITY:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return min(connections, max(1, most - SPARE_FILES))
    return connections


def _bind(host: str, port: int) -> socket.socket:
    """A socket at this address; ServerError says what is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise ServerError(_trouble(host, port, error)) from None
    bound.set_inheritable(True)
    return bound


def _trouble(host: str, port: int, error: Exception) -> str:
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return (
                f"port {port} of {host} is in use; end the process that listens there "
                f"(`ss -ltnp 'sport = :{port}'` names it), or set another `port` (0: a free one)"
            )
        case errno.EACCES:
            return f"port {port} needs the rights of root; set a `port` above 1023"
    return f"host {host!r}, port {port}: {error}; set `host` to an address of this machine"
