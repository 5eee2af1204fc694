"""Byte sources: ranges, changed files and missing files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.sources import ByteSource, BytesSource, FileSource, OpenFile, read, read_view

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
    """A file that was deleted since it was opened is an update that is missing, not a failed round."""
    path = tmp_path / "source"
    path.write_bytes(b"abcde")
    source = FileSource(path)
    path.unlink()
    with pytest.raises(UpdateRejected, match="the file no longer exists"):
        read(source, 0, 5)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, OpenFile]]:
    """Return a file of five bytes, and a source that holds it open."""
    path = tmp_path / "source"
    path.write_bytes(b"abcde")
    with ExitStack() as stack:
        source = FileSource(path).held_open(stack)
        assert isinstance(source, OpenFile)
        yield path, source


def test_a_file_that_is_held_open_is_read(held: tuple[Path, OpenFile]) -> None:
    """It has the bytes, the size and the errors of the file."""
    _, source = held
    assert (source.size, source.local, read(source, 1, 3)) == (5, True, b"bcd")
    with pytest.raises(UpdateRejected, match="ends at byte"):
        source.read_into(3, memoryview(bytearray(3)))


@pytest.mark.parametrize("change", ["longer", "replaced", "touched", "deleted"])
def test_a_check_finds_changes_of_a_file_that_is_held_open(
    held: tuple[Path, OpenFile], change: str
) -> None:
    """A check refuses what opening the file again would refuse."""
    path, source = held
    if change == "longer":
        path.write_bytes(b"abcdefg")
    elif change == "replaced":
        path.with_suffix(".other").write_bytes(b"ABCDE")
        path.with_suffix(".other").replace(path)
    elif change == "touched":
        os.utime(path, ns=(0, 0))
    else:
        path.unlink()
    with pytest.raises(UpdateRejected, match=r"changed while it was read|no longer exists"):
        source.check()


def test_a_shortened_file_that_is_held_open_has_changed(held: tuple[Path, OpenFile]) -> None:
    """A read beyond the new end gives the change as the reason."""
    path, source = held
    os.truncate(path, 2)
    with pytest.raises(UpdateRejected, match="changed while it was read"):
        read(source, 0, 5)


def test_a_new_link_to_a_file_is_no_change(held: tuple[Path, OpenFile], tmp_path: Path) -> None:
    """A file that got a second name has the same bytes."""
    path, source = held
    (tmp_path / "link").hardlink_to(path)
    source.check()
    assert read(source, 0, 5) == b"abcde"


def test_a_missing_file_is_refused_when_it_is_read(tmp_path: Path) -> None:
    """A file that no longer exists when it would be held open is refused by the first read."""
    path = tmp_path / "source"
    path.write_bytes(b"abcde")
    source = FileSource(path)
    path.unlink()
    with ExitStack() as stack, pytest.raises(UpdateRejected, match="no longer exists"):
        read(source.held_open(stack), 0, 5)
