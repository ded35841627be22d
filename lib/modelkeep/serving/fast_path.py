"""The fast path of /predict: a protocol that does not parse a known head again.

A client sends the same head with each request of the same length, and uvicorn spends half of a
prediction's time on its objects around one. Whatever is not a whole `POST /predict` under a known
head takes the usual path. `fast_path: false` in params/serve.yaml leaves this module out.
"""

import time
from functools import cache
from http import HTTPStatus

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from modelkeep.serving.listener import END, Connection
from modelkeep.serving.requests import ValidationError
from modelkeep.serving.responses import Reply

BEGINS = b"POST /predict HTTP/1.1\r\n"
MAX_HEADS = 4096  # known heads
LONGEST = 8192  # bytes of a known head
UNUSUAL = (b"transfer-encoding", b"expect", b"connection", b"upgrade", b"content-encoding")


class FastConnection(Connection):
    """One connection."""

    pending = False  # a request of the fast path waits for its reply
    leaving = False  # the connection closes with the next reply
    began = 0.0  # when the newest request of the fast path arrived
    later = b""  # bytes that arrived meanwhile

    def data_received(self, data: bytes) -> None:
        """Take the fast path if the whole request is here and nothing else is under way."""
        if self.pending:
            self.later += data
            self.flow.pause_reading()
            return
        at = data.find(END) if data.startswith(BEGINS) and not self.head else -1
        free = not self.within and (self.cycle is None or self.cycle.response_complete)
        if at < 0 or not free or self.pipeline or self.flow.write_paused:
            return super().data_received(data)
        length = self.app.known_heads.get(data[:at])
        if length is None:
            length = self._learn(data[:at])
        if length != len(data) - at - 4:
            return super().data_received(data)
        if self.timer is not None:
            self._cancel_timer()
        self.pending, self.began = True, time.perf_counter()
        self.app.predict(data[at + 4 :], self._respond)

    def _learn(self, head: bytes) -> int:
        """The length of the body under a head, -1 if it must take the usual path."""
        length, heads = _length(head, self.app), self.app.known_heads
        if len(heads) >= MAX_HEADS:
            heads.clear()
        if len(head) <= LONGEST:
            heads[head] = length
        return length

    def _respond(self, reply: Reply) -> None:
        seconds = time.perf_counter() - self.began
        self.app.record("predict", "POST", "/predict", reply.status, seconds, self.client)
        self.pending = False
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
        """Close an idle connection; to set a timer for each request costs more than to look."""
        left = self.began + self.timeout_keep_alive - time.perf_counter()
        self.timeout_keep_alive_task = None
        if self.pending or left > 0:
            self._expire(max(left, 1.0))
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Finish the pending request, then close."""
        if self.pending:
            self.leaving = True
        else:
            super().shutdown()


class _Head:
    """The headers that httptools parses."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def _length(head: bytes, app: object) -> int:
    parsed = _Head()
    try:
        HttpRequestParser(parsed).feed_data(head + END)
        headers = dict(parsed.headers)
        app.access.check(headers, writes=False)
    except (HttpParserError, HttpParserUpgrade, ValidationError):
        return -1
    stated = headers.get(b"content-length", b"")
    unusual = len(headers) != len(parsed.headers) or any(name in headers for name in UNUSUAL)
    most = app.settings.max_body_kb * 1024
    return -1 if unusual or not stated.isdigit() or int(stated) > most else int(stated)


@cache
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()


def _bytes(reply: Reply, last: bool) -> bytes:
    extra = b"".join(b"%b: %b\r\n" % (k.encode(), v.encode()) for k, v in reply.headers.items())
    close = b"connection: close\r\n" if last else b""
    kind, size = reply.media_type.encode(), len(reply.body)
    parts = (_status_line(reply.status), kind, size, extra, close, reply.body)
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % parts
