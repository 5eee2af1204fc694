"""``python -m benchmarks.fanout.throttle PORT COUNT RATE``: proxies before a server, one for each function.

All connections of one proxy together transfer RATE bytes per second, in both directions together, as
the network of one function would. The ports are printed as JSON; the process ends with its standard input.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE_BYTES = 128 << 10

#: What was not used of the rate is available for this long: threads do not wake up in time.
BURST_SECONDS = 0.1


class RateLimit:
    """A token bucket that several threads share.

    Parameters
    ----------
    rate : float
        Bytes per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Wait until ``count`` bytes may have been transferred."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST_SECONDS) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


@contextmanager
def throttled(port: int, count: int, rate: float) -> Iterator[list[int]]:
    """Run proxies before a port of this machine, in a process of their own; yield their ports."""
    command = [sys.executable, "-m", __spec__.name, str(port), str(count), str(rate)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait()


def serve(port: int, limit: RateLimit) -> int:
    """Start a proxy before a port, and return its own port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for source, sink in ((client, server), (server, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _start(_forward, source, sink, limit)

    _start(accept)
    return int(listener.getsockname()[1])


def _forward(source: socket.socket, sink: socket.socket, limit: RateLimit) -> None:
    buffer = memoryview(bytearray(PIECE_BYTES))
    with suppress(OSError):
        while count := source.recv_into(buffer):
            limit.take(count)
            sink.sendall(buffer[:count])
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _start(target: object, *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()  # type: ignore[arg-type]


if __name__ == "__main__":
    _port, _count, _rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    print(json.dumps([serve(_port, RateLimit(_rate)) for _ in range(_count)]), flush=True)
    sys.stdin.read()
