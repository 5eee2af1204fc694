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
def server(python: str, directory: Path, certificate: Path | None = None) -> Iterator[str]:
    """Run an S3 server whose buckets are the subfolders of a folder, and yield its address.

    Parameters
    ----------
    python : str
        The interpreter of the server's environment.
    directory : Path
    certificate : Path, optional
        A certificate with its key in PEM format, with which the server speaks TLS.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "uvicorn", "nanio.app:build_app", "--factory"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "error"]
    if certificate:
        command += ["--ssl-certfile", str(certificate)]
    settings = {
        "NANIO_ACCESS_KEY": ACCESS_KEY,
        "NANIO_SECRET_KEY": SECRET_KEY,
        "NANIO_DATA_DIR": str(directory),
    }
    process = subprocess.Popen(command, env=os.environ | settings)
    try:
        _wait_for(port)
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
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
