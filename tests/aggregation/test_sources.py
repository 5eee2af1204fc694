"""Byte sources: ranges, changed files and missing files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.sources import ByteSource, BytesSource, FileSource, read, read_view

Make = Callable[[bytes], ByteSource]


@pytest.fixture(params=["file", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Return a function that makes a source of bytes."""

    def in_file(body: bytes) -> ByteSource:
        path = tmp_path / "source"
        path.write_bytes(body)
        return FileSource(path)

    return in_file if request.param == "file" else BytesSource


@given(
    body=st.binary(max_size=50),
    offset=st.integers(0, 60),
    length=st.integers(0, 60),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_range_is_what_slicing_gives(make: Make, body: bytes, offset: int, length: int) -> None:
    """`read` returns the bytes of a range that exist; `read_into` fills a buffer or refuses."""
    source = make(body)
    expected = body[offset : offset + length]
    assert read(source, offset, length) == expected
    assert bytes(read_view(source, offset, length)) == expected
    buffer = bytearray(length)
    if offset + length <= len(body):
        source.read_into(offset, memoryview(buffer))
        assert bytes(buffer) == expected
    elif length:
        with pytest.raises(UpdateRejected, match="ends at byte"):
            source.read_into(offset, memoryview(buffer))


def test_a_source_knows_its_size(make: Make) -> None:
    """The size is known before anything is read."""
    assert make(b"abcde").size == 5


@pytest.mark.parametrize("view", [bytes, bytearray, lambda body: memoryview(body).cast("H")])
def test_bytes_in_memory_may_be_any_buffer(view: Callable[[bytes], bytes]) -> None:
    """A source of bytes counts bytes, whatever the item size of its buffer."""
    source = BytesSource(view(b"abcdef"))
    assert (source.size, read(source, 2, 3)) == (6, b"cde")


@pytest.mark.parametrize("change", ["longer", "replaced", "touched"])
def test_a_file_that_changes_is_refused(tmp_path: Path, change: str) -> None:
    """A file that was changed or replaced since it was opened is not read."""
    path = tmp_path / "source"
    path.write_bytes(b"abcde")
    source = FileSource(path)
    if change == "longer":
        path.write_bytes(b"abcdefg")
    elif change == "replaced":
        (tmp_path / "other").write_bytes(b"ABCDE")
        (tmp_path / "other").replace(path)
    else:
        path.write_bytes(b"ABCDE")
        path.touch()
    with pytest.raises(UpdateRejected, match="'source' changed while it was read"):
        read(source, 0, 5)


def test_a_deleted_file_is_refused(tmp_path: Path) -> None:
    """A file that was deleted since it was opened is an update that is missing, not a failed round.
    A file that was deleted since it was opened is an update that is missing, not a failed round."""
    path = tmp_path / "source"
    path.write_bytes(b"abcde")
    source = FileSource(path)
    path.unlink()
    with pytest.raises(UpdateRejected, match="the file no longer exists"):
        read(source, 0, 5)
