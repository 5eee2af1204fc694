"""Temporary files for what cannot be read by ranges where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregation.errors import SpoolFull, UpdateRejected
from aggregation.formats import Spool
from aggregation.sources import read


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A file of the spool is read by ranges after it is written, and deleted after the context."""
    with Spool(directory=tmp_path) as spool:
        with spool.new_file() as file:
            file.write(b"abc")
            file.write(memoryview(b"def"))
            source = file.source()
        assert source.size == 6
        assert read(source, 2, 3) == b"cde"
    assert list(tmp_path.iterdir()) == []


def test_the_limit_counts_all_files(tmp_path: Path) -> None:
    """No more than the limit is on disk at any time."""
    with Spool(5, tmp_path) as spool:
        with spool.new_file() as file:
            file.write(b"abc")
        with pytest.raises(SpoolFull, match="5 bytes"), spool.new_file() as file:
            file.write(b"def")


def _write(spool: Spool, *pieces: bytes) -> None:
    with spool.new_file() as file:
        for piece in pieces:
            file.write(piece)


def test_a_file_that_failed_makes_room(tmp_path: Path) -> None:
    """A file that was being written when an error occurred is deleted and does not count."""
    with Spool(5, tmp_path) as spool:
        with pytest.raises(UpdateRejected, match="more than 5 bytes to unpack"):
            _write(spool, b"abcde", b"f")
        _write(spool, b"abcde")


def test_a_file_that_is_not_kept_makes_room(tmp_path: Path) -> None:
    """A file that is not kept is deleted at the end of its context and does not count."""
    with Spool(5, tmp_path) as spool:
        for _ in range(3):
            with spool.new_file(keep=False) as file:
                file.write(b"abcde")


def test_by_default_the_disk_is_the_limit(tmp_path: Path) -> None:
    """Without a limit, a spool stops before the disk is full."""
    assert Spool(directory=tmp_path).max_bytes > 0


def test_a_spool_is_used_only_in_its_context() -> None:
    """Outside its context a spool has no directory."""
    with pytest.raises(ValueError, match="in its context"), Spool().new_file():
        pass
