"""Worker processes of `run_round --functions` for tests: with small parts, and killed in the middle."""

from __future__ import annotations

from multiprocessing.connection import Connection

from aggregation.engine import ranges
from connectors.management.worker import serve
from connectors.storage.filesystem import _PartFilesSink
from connectors.storage.s3_sink import S3Sink
from tests.killing import kill_after_storing

#: So that a small model has several parts.
PART_BYTES = 1 << 14


def serve_small_parts(connection: Connection) -> None:
    """Do tasks with small parts."""
    ranges.PART_BYTES = PART_BYTES
    serve(connection)


def serve_and_die(connection: Connection) -> None:
    """Do tasks with small parts; the first process to store the second part of its task is killed."""
    for sink in (S3Sink, _PartFilesSink):
        kill_after_storing(sink, (2, 5))
    serve_small_parts(connection)
