"""A proxy before moto that delays, refuses, resets or truncates requests as a test demands."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

#: Headers that are about one connection only: RFC 9110, section 7.6.1.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to S3.

    Parameters
    ----------
    method : str
    key : str
        Of the object, without the bucket.
    range : tuple of int or None
        First and last byte.
    part : int or None
        Number of the part that is uploaded.
    """

    method: str
    key: str
    range: tuple[int, int] | None
    part: int | None


class Proxy:
    """A proxy that passes requests on, unless a fault is set.

    Attributes
    ----------
    requests : list of Request
        All requests so far.
    fault : callable
        Given a request, does something about it: sleeps, or returns one of `refuse`, `reset` and
        `truncate`. None passes it on.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.endpoint = ""
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Fault | None] = lambda request: None


Fault = Callable[["_Handler", Request], None]


def slow(seconds: float) -> Callable[[Request], None]:
    """Delay every request for bytes."""

    def wait(request: Request) -> None:
        if request.range:
            time.sleep(seconds)

    return wait


def at_first(count: int, fault: Fault) -> Callable[[Request], Fault | None]:
    """Let every request for an object fail this many times before it succeeds."""
    seen: Counter[Request] = Counter()

    def look(request: Request) -> Fault | None:
        seen[request] += 1
        return fault if request.key and seen[request] <= count else None

    return look


def outage(count: int, fault: Fault, *, only: str) -> Callable[[Request], Fault | None]:
    """Let the next requests for objects with this key prefix fail."""
    left = iter(range(count))
    return lambda request: (
        fault if request.key.startswith(only) and next(left, None) is not None else None
    )


def refuse(status: int, code: str) -> Fault:
    """Respond with an error of S3."""

    def answer(handler: _Handler, request: Request) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        handler.answer(status, {"Content-Type": "application/xml"}, body.encode())

    return answer


def reset(handler: _Handler, request: Request) -> None:
    """Reset the connection before a response."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def truncate(handler: _Handler, request: Request) -> None:
    """Execute the request, and truncate the response."""
    status, headers, body = handler.ask()
    handler.answer(status, headers, body, cut_to=len(body) // 2)
    handler.close_connection = True


def swallow(handler: _Handler, request: Request) -> None:
    """Execute the request, and send no response."""
    handler.ask()
    reset(handler, request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # The client went away, or we did.
            self.close_connection = True

    def _pass_on(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = self._parsed()
        self.proxy.requests.append(request)
        fault = self.proxy.fault(request)
        if fault:
            fault(self, request)
        else:
            self.answer(*self.ask())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def _parsed(self) -> Request:
        url = urlsplit(self.path)
        part = parse_qs(url.query).get("partNumber")
        wanted = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        return Request(
            method=self.command,
            key=unquote(url.path).lstrip("/").partition("/")[2],
            range=(int(wanted[0]), int(wanted[2])) if wanted[0] else None,
            part=int(part[0]) if part else None,
        )

    def ask(self) -> tuple[int, Mapping[str, str], bytes]:
        """Return the response of moto."""
        target = http.client.HTTPConnection(urlsplit(self.proxy.target).netloc)
        try:
            target.request(self.command, self.path, self._body, dict(self.headers))
            answer = target.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            target.close()

    def answer(
        self, status: int, headers: Mapping[str, str], body: bytes, cut_to: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut_to])


@contextmanager
def s3_proxy() -> Iterator[Proxy]:
    """A proxy before the endpoint that the environment names, on a free port."""
    proxy = Proxy(os.environ["AWS_ENDPOINT_URL"])
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
