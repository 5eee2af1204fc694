"""An S3 server on this machine, for `benchmarks.s3_task`.

This module imports nothing large; `benchmarks.children` gives the reason.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

BUCKET = "updates"
ACCESS_KEY, SECRET_KEY = "benchmark", "benchmark-benchmark"


@contextmanager
def server(python: str, directory: Path) -> Iterator[str]:
    """Run an S3 server whose buckets are the subfolders of a folder, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secrets = {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    address = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(directory)]
    process = subprocess.Popen(
        [python, "-m", "nanio", "serve", *address, "--no-access-log", "--log-level", "error"],
        env=os.environ | secrets,
    )
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, seconds: float = 20) -> None:
    deadline = monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if monotonic() > deadline:
                raise
            sleep(0.05)
