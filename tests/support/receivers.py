"""A webhook and a mail server on loopback that keep what they are sent, and fail when they are told to."""

import asyncio
import json
import threading
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.smtp import SMTP


@contextmanager
def webhook(failures=(), on_post=lambda: None):
    """A webhook; its first responses have the codes of `failures`. Yields its address and the list of
    (headers, body) that it took."""
    taken, codes = [], list(failures)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code = codes.pop(0) if codes else 204
            if code < 300:
                taken.append(({k.lower(): v for k, v in self.headers.items()}, body))
            on_post()
            self.send_response(code)
            if code in (301, 302):
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sent(taken):
    """The CloudEvents of what a webhook took."""
    return [json.loads(body) for _, body in taken]


@contextmanager
def mail(responses=()):
    """A mail server; its first responses are these. Yields HOST:PORT and the list of messages."""
    taken, answers = [], list(responses)

    class Handler:
        async def handle_DATA(self, server, session, envelope):
            answer = answers.pop(0) if answers else "250 OK"
            if answer.startswith("250"):
                taken.append(message_from_bytes(envelope.original_content, policy=policy.default))
            return answer

    loop = asyncio.new_event_loop()
    make = lambda: SMTP(Handler(), hostname="mail.example.org", loop=loop)  # noqa: E731
    server = loop.run_until_complete(loop.create_server(make, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", taken
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(server.wait_closed())
        loop.close()
