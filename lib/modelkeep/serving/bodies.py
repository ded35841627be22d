"""The body of a request: read within its limits of size and time, decompressed."""

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from modelkeep.serving.requests import ValidationError

ENCODINGS = ("gzip", "x-gzip", "deflate")
ACCEPTED = {"accept-encoding": "gzip, deflate"}


async def read(request: Request, max_kb: int, seconds: float) -> bytes:
    """The whole body: at most `max_kb` before and after decompression, within `seconds`."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in (*ENCODINGS, "identity", ""):
        message = "must be gzip, deflate or none"
        raise ValidationError("content-encoding", message, 415, headers=ACCEPTED)
    limit, stated = max_kb * 1024, request.headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > limit:
        raise _too_large(max_kb)
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise _too_large(max_kb)
    except TimeoutError:
        raise ValidationError("$", "did not arrive in time; send it whole", 408) from None
    except ClientDisconnect:  # nobody reads this reply
        raise ValidationError("$", "is cut off: the client left", 400) from None
    body = b"".join(parts)
    return decompressed(body, max_kb) if encoding in ENCODINGS else body


def decompressed(body: bytes, max_kb: int) -> bytes:
    """A body in gzip or deflate (zlib) as it was; never more than `max_kb` are made of it."""
    limit, parts, size = max_kb * 1024, [], 0
    while body:  # gzip may have several members
        decoder = zlib.decompressobj(47)  # finds out itself whether it is gzip or zlib
        try:
            parts.append(decoder.decompress(body, limit + 1 - size))
        except zlib.error as error:
            raise ValidationError("$", f"is not what its encoding says: {error}", 400) from None
        size += len(parts[-1])
        if size > limit:
            raise _too_large(max_kb)
        if not decoder.eof:
            raise ValidationError("$", "is cut off within its compression", 400)
        body = decoder.unused_data
    return b"".join(parts)


def _too_large(max_kb: int) -> ValidationError:
    return ValidationError("$", f"is larger than {max_kb} KB; send fewer rows", 413)
