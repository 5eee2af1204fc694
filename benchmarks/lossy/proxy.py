"""A proxy for HTTP that loses connections: what a client on a bad link experiences, with exact counts.

It cuts the first attempts of each part of an upload, answers 503 to a share of the requests, and loses a
share of the connections, before or after the server has acted.
"""

from __future__ import annotations

import http.client
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

#: Headers of one connection only: RFC 9110, section 7.6.1.
HOP_BY_HOP = {"connection", "proxy-connection", "keep-alive", "transfer-encoding"}

_PART = re.compile(r"/(updates/[^?]+)\?(?:.*&)?partNumber=(\d+)")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What a link does to requests.

    Parameters
    ----------
    cuts : int
        How often the upload of each part is cut, at a random byte, before it may succeed.
    refused : float
        The share of the other requests that is answered with 503.
    lost : float
        The share of the other requests whose connection is lost: half of them before the server has the
        request, half of them in its answer.
    seed : int
    """

    cuts: int = 2
    refused: float = 0.1
    lost: float = 0.05
    seed: int = 0


@dataclass(kw_only=True)
class Part:
    """The attempts to send one part of an update.

    Parameters
    ----------
    fates : Counter
        What happened to the attempts.
    received : int
        Bytes that the proxy received in all attempts.
    lost : int
        Those of attempts that did not reach storage.
    stored : list of int
        Bytes of each attempt that storage accepted.
    """

    fates: Counter[str] = field(default_factory=Counter)
    received: int = 0
    lost: int = 0
    stored: list[int] = field(default_factory=list)


class Traffic:
    """What passed the proxy, and what it did.

    Attributes
    ----------
    parts : dict
        By key and number.
    requests : Counter
        By what happened: "passed", "cut", "refused", "lost before", "lost after".
    downloaded : int
        Bytes of answers to GET requests of storage that were passed on.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        # What happens to parts does not depend on how often a waiting client asks for news.
        self._random = {
            of_part: random.Random(f"{faults.seed} {of_part}") for of_part in (True, False)
        }
        self._lock = threading.Lock()
        self._cuts: Counter[tuple[str, int]] = Counter()
        self.parts: dict[tuple[str, int], Part] = {}
        self.requests: Counter[str] = Counter()
        self.downloaded = 0

    def decide(self, part: tuple[str, int] | None) -> tuple[str, float]:
        """Return what happens to a request, and after which share of its bytes."""
        with self._lock:
            chance = self._random[part is not None]
            share = chance.random()
            if part and self._cuts[part] < self._faults.cuts:
                self._cuts[part] += 1
                fate = "cut"
            else:
                fate = self._draw(chance)
            self.requests[fate] += 1
            return fate, share

    def _draw(self, chance: random.Random) -> str:
        drawn = chance.random()
        if drawn < self._faults.refused:
            return "refused"
        if drawn < self._faults.refused + self._faults.lost:
            return chance.choice(("lost before", "lost after"))
        return "passed"

    def record(
        self, part: tuple[str, int] | None, fate: str, received: int, *, is_stored: bool
    ) -> None:
        """Count an attempt to send a part, before it is answered."""
        if part is None:
            return
        with self._lock:
            found = self.parts.setdefault(part, Part())
            found.fates[fate] += 1
            found.received += received
            if is_stored:
                found.stored.append(received)
            else:
                found.lost += received

    def record_download(self, sent: int) -> None:
        """Count bytes of an answer."""
        with self._lock:
            self.downloaded += sent


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    traffic: Traffic

    def _pass_on(self) -> None:
        match = _PART.search(self.path)
        part = (match[1], int(match[2])) if match and self.command == "PUT" else None
        fate, share = self.traffic.decide(part)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(int(share * length) if fate == "cut" else length)
        reaches = fate in ("passed", "lost after") and len(body) == length
        status, headers, answer = self._ask(body) if reaches else (503, {}, b"")
        self.traffic.record(part, fate, len(body), is_stored=status == http.client.OK)
        if fate == "refused" or (reaches and fate == "passed"):
            self._send(status, headers, answer)
        elif reaches and answer:
            self._send(status, headers, answer[: int(share * len(answer))])
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = _pass_on  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Return the answer of the server that the request is for."""
        url = urlsplit(self.path)
        server = http.client.HTTPConnection(url.netloc, timeout=60)
        try:
            headers = {n: v for n, v in self.headers.items() if n.lower() not in HOP_BY_HOP}
            server.request(self.command, f"{url.path}?{url.query}", body or None, headers)
            answer = server.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            server.close()

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and "X-Amz-" in self.path:
            self.traffic.record_download(len(body))
        self.wfile.write(body)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # The client went away.
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the requests are counted."""


@contextmanager
def lossy_proxy(faults: Faults) -> Iterator[tuple[str, Traffic]]:
    """Run the proxy on a free port; yield its URL, for the variable ``http_proxy``, and its counts."""
    traffic = Traffic(faults)
    handler = type("Handler", (_Handler,), {"traffic": traffic})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", traffic
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
