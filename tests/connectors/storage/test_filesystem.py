"""Object storage in a directory."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aggregation.errors import ObjectMissing, ProgressLost, UpdateRejected
from connectors.storage.filesystem import FileObjects
from connectors.storage.port import Orphan, PreconditionFailed, read_small

KEY = "aggregates/1/result.npz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def objects(root: Path) -> FileObjects:
    return FileObjects(root)


def put(root: Path, body: bytes, key: str = KEY) -> None:
    """Store a file as a client does: it appears at once."""
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(body)
    new.replace(path)


def read(objects: FileObjects, start: int, stop: int, *, size: int, etag: str = "") -> bytes:
    buffer = bytearray(stop - start)
    objects.source(KEY, size=size, etag=etag).read_into(start, memoryview(buffer))
    return bytes(buffer)


def test_the_metadata_of_a_file(root: Path, objects: FileObjects) -> None:
    """Size, time, and an ETag that changes when the file does."""
    put(root, b"abcde")
    found = objects.stat(KEY)
    assert found.size == 5
    assert abs(found.uploaded_on - datetime.now(UTC)) < timedelta(minutes=1)
    assert objects.stat(KEY, etag=found.etag) == found


@pytest.mark.parametrize("key", ["aggregates/1/none.npz", "aggregates/1", ""])
def test_a_missing_file_is_reported_as_missing(root: Path, objects: FileObjects, key: str) -> None:
    """A directory is not a file."""
    put(root, b"abcde")
    with pytest.raises(ObjectMissing):
        objects.stat(key)
    with pytest.raises(ObjectMissing):
        objects.source(key, size=5, etag="")


@pytest.mark.parametrize(
    "key", ["../secret.npz", "/etc/passwd", "updates/../../secret.npz", "link.npz"]
)
def test_a_key_cannot_lead_out_of_the_directory(
    tmp_path: Path, root: Path, objects: FileObjects, key: str
) -> None:
    """Dots, absolute paths and symbolic links are refused."""
    (tmp_path / "secret.npz").write_bytes(b"secret")
    root.mkdir()
    (root / "link.npz").symlink_to(tmp_path / "secret.npz")
    with pytest.raises(UpdateRejected, match="leads out"):
        objects.stat(key)
    with pytest.raises(UpdateRejected, match="leads out"):
        objects.sink(key, None)
    assert (tmp_path / "secret.npz").read_bytes() == b"secret"


def test_a_replaced_file_is_neither_inspected_nor_read(root: Path, objects: FileObjects) -> None:
    """With the ETag of the former file, nothing of the present one is returned, even of the same length."""
    put(root, b"abcde")
    etag = objects.stat(KEY).etag
    source = objects.source(KEY, size=5, etag=etag)
    source.read_into(0, memoryview(bytearray(2)))
    put(root, b"ABCDE")
    with pytest.raises(UpdateRejected, match="was replaced"):
        objects.stat(KEY, etag=etag)
    with pytest.raises(UpdateRejected, match="was replaced"):
        objects.source(KEY, size=5, etag=etag)
    with pytest.raises(UpdateRejected, match="changed while it was read"):
        source.read_into(2, memoryview(bytearray(2)))


def test_a_file_that_is_deleted_while_it_is_read_is_rejected(
    root: Path, objects: FileObjects
) -> None:
    """Its update is rejected, and the round continues."""
    put(root, b"abcde")
    source = objects.source(KEY, size=5, etag="")
    (root / KEY).unlink()
    with pytest.raises(UpdateRejected):
        source.read_into(0, memoryview(bytearray(2)))


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, 1), (9, 10), (3, 7), (5, 5)])
def test_ranges_are_read(root: Path, objects: FileObjects, start: int, stop: int) -> None:
    """A read returns exactly the bytes of its range."""
    put(root, b"0123456789")
    assert read(objects, start, stop, size=10) == b"0123456789"[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(0, 11), (9, 11), (10, 11), (50, 60)])
def test_a_range_beyond_the_end_is_rejected(
    root: Path, objects: FileObjects, start: int, stop: int
) -> None:
    """There is nothing to read beyond the end of the file."""
    put(root, b"0123456789")
    with pytest.raises(UpdateRejected, match="the object ends at byte"):
        read(objects, start, stop, size=100)


def again(objects: FileObjects, state: dict[str, Any]) -> Any:
    """Return the sink of another process that continues from a saved state."""
    return objects.sink("aggregates/1/another.npz", json.loads(json.dumps(state)))


def test_a_result_is_visible_when_complete(root: Path, objects: FileObjects) -> None:
    """Until it is complete, nothing of it can be read."""
    sink = objects.sink(KEY, None)
    for number, part in enumerate((b"1", b"2", b"3"), 1):
        sink.write_part(number, part, last=number == 3)
        with pytest.raises(ObjectMissing):
            objects.stat(KEY)
    sink.complete()
    assert (root / KEY).read_bytes() == b"123"
    assert [path.name for path in (root / KEY).parent.iterdir()] == ["result.npz"]


@pytest.mark.parametrize("kept", [1, 2])
def test_another_process_continues_after_the_last_saved_part(
    root: Path, objects: FileObjects, kept: int
) -> None:
    """Parts that were written after the state was saved are written again."""
    sink = objects.sink(KEY, None)
    for number in range(1, kept + 1):
        sink.write_part(number, b"%d" % number)
    state = sink.state()
    sink.write_part(kept + 1, b"lost")
    other = again(objects, state)
    assert other.location == KEY
    for number in range(kept + 1, 4):
        other.write_part(number, b"%d" % number, last=number == 3)
    other.complete()
    assert (root / KEY).read_bytes() == b"123"


def test_a_late_process_does_not_write_into_the_work_of_its_successor(
    root: Path, objects: FileObjects
) -> None:
    """A process that was taken for dead and is alive has a file of its own."""
    late = objects.sink(KEY, None)
    late.write_part(1, b"1")
    successor = again(objects, late.state())
    late.write_part(2, b"x")
    successor.write_part(2, b"2")
    late.write_part(3, b"x")
    successor.complete()
    assert (root / KEY).read_bytes() == b"12"


@pytest.mark.parametrize("left", [None, b""])
def test_a_missing_part_is_lost_progress(
    root: Path, objects: FileObjects, left: bytes | None
) -> None:
    """A file that is gone or too short is not continued: the result would contain zeros."""
    sink = objects.sink(KEY, None)
    sink.write_part(1, b"1")
    state = sink.state()
    (partial,) = (root / KEY).parent.iterdir()
    partial.unlink()
    if left is not None:
        partial.write_bytes(left)
    with pytest.raises(ProgressLost):
        again(objects, state).write_part(2, b"2")
    with pytest.raises(ProgressLost):
        sink.write_part(2, b"2")
    assert not (root / KEY).exists()


def test_an_aborted_result_leaves_nothing(root: Path, objects: FileObjects) -> None:
    """Neither a file nor a part of one is left, and aborting twice is allowed."""
    sink = objects.sink(KEY, None)
    sink.write_part(1, b"1")
    sink.abort()
    sink.abort()
    assert list((root / KEY).parent.iterdir()) == []


def test_orphans_are_files_and_unfinished_files(root: Path, objects: FileObjects) -> None:
    """Both are listed below the prefix, by the keys that they have or will have."""
    put(root, b"x", "updates/1/update.npz")
    put(root, b"x", "aggregates/1/orphan.npz")
    sink = objects.sink(KEY, None)
    found = list(objects.orphans("aggregates/"))
    assert [(each.key, bool(each.upload_id)) for each in found] == [
        ("aggregates/1/orphan.npz", False),
        (KEY, True),
    ]
    assert found[1].upload_id == sink.state()["upload_id"]
    for orphan in (*found, Orphan(key="aggregates/1/gone.npz", since=found[0].since)):
        objects.remove(orphan)
    assert list(objects.orphans("aggregates/")) == []
    assert (root / "updates/1/update.npz").exists()


def test_a_result_of_several_processes_is_completed_once(root: Path, objects: FileObjects) -> None:
    """Each process writes parts; a process that comes after the file was completed changes nothing."""
    state = {**objects.sink(KEY, None).begin(), "parts": 2}
    for number, data in ((2, b"2"), (1, b"1")):
        objects.sink(KEY, {**state, "parts": 0}).write_part(number, data)
    assert objects.sink(KEY, {**state, "parts": 0}).stored_parts() == {1, 2}
    for _ in range(2):
        objects.sink(KEY, state).complete()
        assert (root / KEY).read_bytes() == b"12"


def test_a_small_object_is_read_whole(root: Path, objects: FileObjects) -> None:
    """It is returned with its ETag, unless it is too large."""
    put(root, b"abcde")
    assert read_small(objects, KEY, max_bytes=5) == (b"abcde", objects.stat(KEY).etag)
    with pytest.raises(UpdateRejected, match="5 bytes, at most 4"):
        read_small(objects, KEY, max_bytes=4)


def test_a_small_object_is_replaced_only_if_it_is_the_known_one(
    root: Path, objects: FileObjects
) -> None:
    """A writer that knows the present ETag, or that there is no object, succeeds; others fail."""
    objects.replace(KEY, b"1", etag="")
    first = objects.stat(KEY).etag
    with pytest.raises(PreconditionFailed):
        objects.replace(KEY, b"2", etag="")
    objects.replace(KEY, b"2", etag=first)
    with pytest.raises(PreconditionFailed):
        objects.replace(KEY, b"3", etag=first)
    assert (root / KEY).read_bytes() == b"2"


def test_one_of_several_writers_succeeds(objects: FileObjects) -> None:
    """Of eight writers that know the same file, one replaces it and seven fail."""
    objects.replace(KEY, b"0", etag="")
    known = objects.stat(KEY).etag

    def write(number: int) -> bool:
        try:
            objects.replace(KEY, b"%d" % number * (number + 1), etag=known)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8))) == 1


def test_sources_hold_no_file_descriptors(root: Path, objects: FileObjects) -> None:
    """A round may have more updates than a process may have open files."""
    put(root, b"abcde")
    before = len(os.listdir("/proc/self/fd"))
    sources = [objects.source(KEY, size=5, etag="") for _ in range(2000)]
    buffer = bytearray(5)
    for source in sources:
        source.read_into(0, memoryview(buffer))
    assert len(os.listdir("/proc/self/fd")) == before
