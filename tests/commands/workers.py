"""Worker processes of `run_round --functions` for tests: with small parts, and killed in the middle."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aggregation.engine import ranges
from connectors.management.worker import serve
from connectors.storage.filesystem import _PartFilesSink
from connectors.storage.s3_sink import S3Sink

#: So that a small model has several parts.
PART_BYTES = 1 << 14

#: Environment variable: file that is created by the one process which is killed.
KILLED = "TEST_KILLED"


def serve_small_parts(connection: Connection) -> None:
    """Do tasks with small parts."""
    ranges.PART_BYTES = PART_BYTES
    serve(connection)


def serve_and_die(connection: Connection) -> None:
    """Do tasks with small parts; the first process to store the second part of its task is killed."""
    for sink in (S3Sink, _PartFilesSink):
        _kill_after_storing(sink)
    serve_small_parts(connection)


def _kill_after_storing(sink: Any) -> None:
    store = sink.write_part

    def store_and_die(self: Any, number: int, *data: Any, **options: Any) -> None:
        store(self, number, *data, **options)
        if number in (2, 5):
            try:
                Path(os.environ[KILLED]).touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    sink.write_part = store_and_die
