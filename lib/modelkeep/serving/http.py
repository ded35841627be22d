"""HTTP around the answers: who may send what, a body within its limits, and a reply."""

import asyncio
import hmac
import ipaddress
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from modelkeep.serving.requests import ValidationError

if TYPE_CHECKING:
    import uvicorn


JSON = b"application/json"
# what a web page may send to any address without asking first
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


class Reply(NamedTuple):
    """What goes back: a status, a body, its kind, and how long to wait before trying again."""

    status: int
    body: bytes
    kind: bytes = JSON
    retry: int = 0


def refusal(status: int, place: str, message: str, retry: int = 0) -> Reply:
    """A reply that says what is wrong, and where."""
    error = {"place": place, "message": message} if place else {"message": message}
    return Reply(status, msgspec.json.encode({"error": error}), retry=retry)


def admit(writes: bool, headers: dict[bytes, bytes], host: str, token: bytes) -> None:
    """Raise ValidationError for what a web page could send by itself, an unknown encoding, or a write without the token where one is needed."""
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind in SIMPLE or (writes and kind != "application/json"):
        raise ValidationError("content-type", "must be application/json", 415)
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise ValidationError("content-encoding", "must be none: send the body as it is", 415)
    if writes and (token or not loopback(host)):
        given = headers.get(b"authorization", b"")
        if not token or not hmac.compare_digest(given, b"Bearer " + token):
            raise ValidationError("authorization", "needs the token of MODELKEEP_TOKEN", 401)


async def body(headers: dict[bytes, bytes], receive: Callable, most_kb: int, wait: float) -> bytes:
    """The whole body, at most so large, and read within `wait` seconds."""
    most, stated = most_kb * 1024, headers.get(b"content-length", b"0")
    if not stated.isdigit() or int(stated) > most:
        raise ValidationError("$", f"is larger than {most_kb} KB; send fewer rows", 413)
    message = await receive()
    if not message.get("more_body"):
        return message.get("body", b"")
    parts, size = [message["body"]], len(message["body"])
    try:
        async with asyncio.timeout(wait):
            while message.get("more_body") and size <= most:
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
    except TimeoutError:
        raise ValidationError("$", "did not arrive in time; send it whole", 408) from None
    if size > most:
        raise ValidationError("$", f"is larger than {most_kb} KB; send fewer rows", 413)
    return b"".join(parts)


async def send(send: Callable, reply: Reply, whole: bool) -> None:
    """Send a reply, or its head alone."""
    headers = [(b"content-type", reply.kind), (b"content-length", b"%d" % len(reply.body))]
    if reply.retry:
        headers.append((b"retry-after", b"%d" % reply.retry))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body if whole else b""})


def listening(
    app: object, host: str, port: int, drain_seconds: int, **more: object
) -> tuple["uvicorn.Server", socket]:
    """A server that says nothing of itself, and its socket: who connects from now on is answered."""
    import uvicorn

    more |= {"log_level": "warning", "access_log": False, "lifespan": "on"}
    more |= {"server_header": False, "proxy_headers": False}
    more |= {"timeout_graceful_shutdown": drain_seconds}
    config = uvicorn.Config(app, host=host, port=port, **more)
    bound = config.bind_socket()
    bound.listen(config.backlog)
    return uvicorn.Server(config), bound


def loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
