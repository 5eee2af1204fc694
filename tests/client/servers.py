"""Servers on this machine that answer as storage does, or as it should not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Handle = Callable[[BaseHTTPRequestHandler], None]


def answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> None:
    """Send a whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve requests until the end of the block; the server's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def handling(get: Handle | None = None, post: Handle | None = None) -> Iterator[str]:
    """Serve with functions for GET and POST; the body of a POST has been read."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert get
            get(self)

        def do_POST(self) -> None:
            assert post
            self.rfile.read(int(self.headers["Content-Length"]))
            post(self)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with serving(Handler) as url:
        yield url


@contextmanager
def answering(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serve the same answer to every request."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, status, body, headers)

    with handling(reply, reply) as url:
        yield url
