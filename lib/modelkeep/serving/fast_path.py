"""The short way of a prediction: uvicorn's protocol, which does not parse again a head that it has parsed before.

A client sends the same head with each request of the same length, and uvicorn needs half of the time that an answer takes for its objects
around one. Whatever is not a whole `POST /predict` under a known head goes uvicorn's own way.
"""

import time
from functools import cache
from http import HTTPStatus

from httptools import HttpParserError, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelkeep.serving import http
from modelkeep.serving.http import Reply
from modelkeep.serving.requests import ValidationError

BEGINS = b"POST /predict HTTP/1.1\r\n"
END = b"\r\n\r\n"
HEADS = 4096  # known heads that are kept
LONGEST = 8192  # bytes of a head that may become known
UNUSUAL = (b"transfer-encoding", b"expect", b"connection", b"upgrade")


class Protocol(HttpToolsProtocol):
    """One connection."""

    heads: dict[bytes, int] = {}  # head -> length of the body that follows, of all connections
    asked = False  # an answer of the short way is awaited
    within = False  # uvicorn's parser is inside a message
    leaving = False  # the connection closes with the next answer
    began = 0.0  # when the newest request of the short way came
    later = b""  # what came meanwhile

    def data_received(self, data: bytes) -> None:
        """Take the short way if the whole request is there, and nothing else is under way."""
        if self.asked:
            self.later += data
            self.flow.pause_reading()
            return
        at = data.find(END) if data.startswith(BEGINS) else -1
        free = not self.within and (self.cycle is None or self.cycle.response_complete)
        if at < 0 or not free or self.pipeline or self.flow.write_paused:
            return super().data_received(data)
        length = self.heads.get(data[:at])
        if length is None:
            length = self._learn(data[:at])
        if length != len(data) - at - 4:
            return super().data_received(data)
        self.asked, self.began = True, time.perf_counter()
        self.app.predict(data[at + 4 :], self._answered)

    def _learn(self, head: bytes) -> int:
        """The length of the body under a head, -1 if it must go uvicorn's way."""
        length = _length(head, self.app)
        if len(self.heads) >= HEADS:
            self.heads.clear()
        if len(head) <= LONGEST:
            self.heads[head] = length
        return length

    def _answered(self, reply: Reply) -> None:
        self.app.telemetry.requests("predict", reply.status, time.perf_counter() - self.began)
        self.asked = False
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.transport.write(_bytes(reply, self.leaving))
        if self.leaving:
            self.transport.close()
            return
        self.flow.resume_reading()
        later, self.later = self.later, b""
        if later:
            self.data_received(later)
        elif self.timeout_keep_alive_task is None:
            self._expire(self.timeout_keep_alive)

    def _expire(self, seconds: float) -> None:
        handler = self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(seconds, handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it rested; to set a clock for each request costs more than to look again."""
        left = self.began + self.timeout_keep_alive - time.perf_counter()
        self.timeout_keep_alive_task = None
        if self.asked or left > 0:
            self._expire(max(left, 1.0))
        else:
            super().timeout_keep_alive_handler()

    def on_message_begin(self) -> None:
        """From here on the parser holds a part of a request."""
        self.within = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """The parser is between two requests again."""
        self.within = False
        super().on_message_complete()

    def shutdown(self) -> None:
        """Finish what was asked, then close."""
        if self.asked:
            self.leaving = True
        else:
            super().shutdown()


class _Head:
    """What httptools finds in a head."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def _length(head: bytes, app: object) -> int:
    found = _Head()
    try:
        HttpRequestParser(found).feed_data(head + END)
        headers = dict(found.headers)
        http.admit(False, headers, app.settings.host, app.token)
    except (HttpParserError, ValidationError):
        return -1
    stated = headers.get(b"content-length", b"")
    unusual = len(headers) != len(found.headers) or any(name in headers for name in UNUSUAL)
    most = app.settings.max_body_kb * 1024
    return -1 if unusual or not stated.isdigit() or int(stated) > most else int(stated)


@cache
def _begun(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()


def _bytes(reply: Reply, last: bool) -> bytes:
    retry = b"retry-after: %d\r\n" % reply.retry if reply.retry else b""
    close = b"connection: close\r\n" if last else b""
    parts = (_begun(reply.status), reply.kind, len(reply.body), retry, close, reply.body)
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % parts
