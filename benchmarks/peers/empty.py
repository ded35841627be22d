"""An ASGI app that does nothing: reads the body, and answers the same two bytes."""

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
}
BODY = {"type": "http.response.body", "body": b"{}"}


async def app(scope, receive, send):
    """Answer; nothing is read but the body."""
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send(BODY)
