"""Parts of a result that are too large for the memory are written to disk."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregation.engine import Resources, combine
from aggregation.engine.combine import combine_steps
from aggregation.engine.output import FileSink, MemorySink
from aggregation.engine.parts import (
    MemoryPart,
    PartData,
    Piece,
    body_of,
    check_part_size,
    pieces_of,
)
from aggregation.engine.ranges import MAX_PART_BYTES, MAX_PARTS, part_bytes_of, part_ends
from aggregation.errors import OutOfTime, PartTooLarge
from aggregation.layout import Tensor, TensorLayout
from tests.aggregation.engine.engine_tools import run, work_of

MIB = 1 << 20
TIB = 1 << 40

#: A model of 80,000 bytes has parts of 20,000 bytes, where larger ones than 8,000 are on disk.
PART_BYTES, PARTS, LARGE_PART_BYTES = 8_000, 4, 20_000


@pytest.fixture
def large_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small model have as many parts as object stores accept."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", PART_BYTES)
    monkeypatch.setattr("aggregation.engine.ranges.MAX_PARTS", PARTS)


def models(n: int = 4) -> list[dict[str, Any]]:
    """Return models of 80,000 bytes."""
    generator = np.random.default_rng(0)
    return [{"w": generator.normal(size=20_000).astype(np.float32)} for _ in range(n)]


def whole(work: Any, format: str = "safetensors") -> bytes:
    """Return the result of some work, computed in parts of the usual size."""
    sink = MemorySink()
    combine(work, sink, format=format)
    return sink.data


class PartKinds(MemorySink):
    """A sink that notes which parts it received as files."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[bool] = []

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        self.files.append(not isinstance(data, bytes | bytearray | MemoryPart))
        super().write_part(number, data, last=last)


@pytest.mark.parametrize("format", ["safetensors", "npz", "json"])
def test_large_parts_have_the_same_bytes(format: str, request: pytest.FixtureRequest) -> None:
    """The size of the parts is not part of the result, in any format."""
    work = work_of("weighted_mean", models())
    expected = whole(work, format)
    request.getfixturevalue("large_parts")
    sink = PartKinds()
    combine(work, sink, format=format)
    assert sink.data == expected
    assert sink.files == [True] * PARTS


@pytest.mark.parametrize("format", ["safetensors", "npz", "json"])
@pytest.mark.usefixtures("large_parts")
def test_work_that_stops_within_a_large_part_repeats_that_part(format: str, tmp_path: Path) -> None:
    """Work that is stopped after some chunks of a part resumes at the beginning of the part."""
    work = work_of("weighted_mean", models())
    expected = whole(work, format)
    resources = Resources(memory_bytes=100_000)
    path = tmp_path / f"result.{format}"
    resume: Any = None
    begins = []
    while not path.exists():
        kept: list[Any] = []
        chunks_after_a_part = iter(range(3))

        def stop(kept: list[Any] = kept, left: Any = chunks_after_a_part) -> bool:
            return bool(kept) and next(left, None) is None

        begins.append(resume["progress"]["next_element"] if resume else 0)
        try:
            combine(
                work,
                FileSink(path, resume["progress"]["sink"] if resume else None),
                format=format,
                resources=resources,
                resume=resume,
                checkpoint=kept.append,
                out_of_time=stop,
            )
        except OutOfTime:
            resume = json.loads(json.dumps(kept[-1]))
    assert path.read_bytes() == expected
    assert len(begins) > 1
    assert set(begins) <= {0, *part_ends(work.layout)}


@pytest.mark.usefixtures("large_parts")
def test_some_large_parts_are_those_of_the_whole() -> None:
    """A process that computes two parts of four writes their bytes, and no others."""
    work = work_of("weighted_mean", models())
    sink = PartKinds()
    expected, combined = run(work)
    selection = combined.selection
    combine_steps(work, selection, sink, 1, 3, part_bytes=LARGE_PART_BYTES)
    assert sink.files == [True, True]
    begin = len(expected) - 80_000 + LARGE_PART_BYTES
    assert sink.data == expected[begin : begin + 2 * LARGE_PART_BYTES]


def test_memory_does_not_grow_with_the_size_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 32 MiB are written in the memory that a budget of 8 MiB allows."""
    monkeypatch.setattr("aggregation.engine.ranges.MAX_PARTS", 2)
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", MIB)
    update = {"w": np.ones(16 * MIB, np.float32)}
    work = work_of("weighted_mean", [update, update])
    sink = FileSink(tmp_path / "result.safetensors")
    tracemalloc.start()
    try:
        combine(work, sink, resources=Resources(memory_bytes=8 * MIB))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * MIB


@pytest.mark.usefixtures("large_parts")
def test_a_part_that_exceeds_the_disk_is_refused_before_anything_is_read() -> None:
    """The error names both sizes and what to change; no update is read for it."""
    work = work_of("krum", models(5), f=1)
    read: list[int] = []
    resources = Resources(disk_bytes=LARGE_PART_BYTES - 1)
    with pytest.raises(PartTooLarge, match=r"20000 bytes.*space for 19999.*EphemeralStorageMb"):
        combine(work, MemorySink(), resources=resources, on_bytes=read.append)
    assert not read


@pytest.mark.usefixtures("large_parts")
def test_a_disk_for_one_part_holds_one_part() -> None:
    """While a part is stored nothing is read for the next one, if the disk cannot hold both."""
    work = work_of("weighted_mean", models())
    header = len(whole(work)) - 80_000
    counted: list[int] = []
    read_while_storing: list[int] = []

    class SlowSink(MemorySink):
        def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
            before = sum(counted)
            time.sleep(0.02)
            super().write_part(number, data, last=last)
            read_while_storing.append(sum(counted) - before)

    combine(
        work,
        SlowSink(),
        resources=Resources(disk_bytes=LARGE_PART_BYTES + header, memory_bytes=100_000, workers=1),
        on_bytes=counted.append,
    )
    chunk = max(counted)
    assert len(read_while_storing) == PARTS
    assert max(read_while_storing) <= chunk  # The one that ended the part is counted afterwards.


def test_parts_in_memory_need_no_disk() -> None:
    """Parts of the usual size are the same whatever the disk holds."""
    assert check_part_size(12 * MIB, disk_bytes=0) == 2


@pytest.mark.parametrize(("disk", "at_once"), [(100, 1), (199, 1), (200, 2), (10_000, 2)])
def test_the_disk_decides_how_many_large_parts_there_are(disk: int, at_once: int) -> None:
    """As many as fit, up to two."""
    assert check_part_size(100 * MIB, disk_bytes=disk * MIB) == at_once


def layout_of(nbytes: int) -> TensorLayout:
    """Return the layout of a float32 model of this size."""
    return TensorLayout((Tensor("w", np.dtype("<f4"), (nbytes // 4,)),))


@pytest.mark.parametrize("nbytes", [1, 117 << 30, TIB, 5 * TIB, 48 * TIB])
def test_any_object_that_s3_accepts_has_at_most_ten_thousand_parts(nbytes: int) -> None:
    """The size of a part grows with the model, up to the largest that S3 accepts."""
    ends = part_ends(layout_of(nbytes))
    assert len(ends) <= MAX_PARTS
    assert part_bytes_of(nbytes) <= MAX_PART_BYTES
    assert ends[-1] == nbytes // 4


def test_a_model_that_s3_cannot_hold_is_refused() -> None:
    """Ten thousand parts of 5 GiB are 48.8 TiB."""
    part_bytes = part_bytes_of(49 * TIB)
    with pytest.raises(PartTooLarge, match="object stores accept"):
        check_part_size(part_bytes, disk_bytes=10 * TIB)


def test_a_part_is_read_from_its_beginning_each_time(tmp_path: Path) -> None:
    """A file is read whole wherever it stands, so that a failed attempt can be repeated."""
    with (tmp_path / "part").open("w+b") as file:
        file.write(b"part")
        assert [b"".join(pieces_of(file)) for _ in range(2)] == [b"part", b"part"]


def test_a_part_in_memory_keeps_long_pieces_and_gathers_short_ones() -> None:
    """Long pieces are not copied, and many short ones become one."""
    long = memoryview(bytes(5000))
    written: list[Piece] = [b"", b"header", b"", *[b"ab"] * 3000, long, b"c", long, long]
    with MemoryPart() as part:
        for piece in written:
            part.write(piece)
        assert part.tell() == sum(map(len, written))
        assert b"".join(pieces_of(part)) == b"".join(written) == body_of(part)
        assert [piece is long for piece in pieces_of(part)] == [False, True, False, True, True]


def test_the_body_of_a_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    """A request that is repeated sends the whole part."""
    with (tmp_path / "part").open("w+b") as file:
        file.write(b"part")
        body = body_of(file)
        assert not isinstance(body, bytes | bytearray)
        assert body.read() == b"part"
    assert body_of(b"part") == b"part"
