"""Hostile files and the parsers: the rejection that each must get, and what it may cost."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import safetensors.numpy

from aggregation.errors import UpdateRejected
from aggregation.formats import Spool, open_weights, peek_layout
from aggregation.layout import TensorLayout, layout_difference
from aggregation.sources import BytesSource
from aggregation.weights import read_tensors
from tests.aggregation.formats.samples import Array
from tests.hostile import archives, safetensors_files
from tests.hostile.corpus import CASES, SPOOL_BYTES

#: What a rejection may take beyond the file itself, which has up to sixteen megabytes.
MEMORY_BYTES = 64 << 20
SECONDS = 10

#: Files that are rejected only when they are unpacked.
REJECTED_LATE = {
    "npz a bomb",
    "npz a bomb that lies",
    "npz wrong CRC, deflated",
    "npz cut deflate",
    "npz padded deflate",
    "npz damaged deflate",
}


@pytest.mark.parametrize("name", CASES)
def test_each_file_gets_its_rejection(name: str) -> None:
    """The project's own rejection is raised, says what is wrong, and takes little time."""
    case = CASES[name]
    source = BytesSource(case.make())
    start = time.process_time()
    with Spool(SPOOL_BYTES) as spool, pytest.raises(UpdateRejected) as rejection:
        open_weights(source, case.format, spool=spool)
    assert time.process_time() - start < SECONDS
    reason = str(rejection.value)
    assert case.reason in reason
    assert reason.isascii()
    assert reason.isprintable()
    assert len(reason) < 500


@pytest.mark.parametrize("name", CASES)
def test_intake_rejects_what_headers_show(name: str) -> None:
    """A fault that the headers show is rejected when an upload is registered, for the same reason."""
    case = CASES[name]
    source = BytesSource(case.make())
    if name in REJECTED_LATE:
        assert peek_layout(source, case.format).tensors
        return
    with pytest.raises(UpdateRejected) as rejection:
        peek_layout(source, case.format)
    assert case.reason in str(rejection.value)


@contextmanager
def at_most(memory_bytes: int) -> Iterator[None]:
    """Fail if more memory is allocated at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < memory_bytes
    finally:
        tracemalloc.stop()


#: A million lists one after the other take half a minute with tracemalloc.
SLOW_WHEN_TRACED = {"json four million lists"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - SLOW_WHEN_TRACED))
def test_a_rejection_is_cheap(name: str) -> None:
    """Memory is not allocated for what a file merely claims."""
    case = CASES[name]
    source = BytesSource(case.make())
    with (
        Spool(SPOOL_BYTES) as spool,
        at_most(MEMORY_BYTES),
        pytest.raises(UpdateRejected),
    ):
        open_weights(source, case.format, spool=spool)


@pytest.mark.parametrize(
    "name", [name for name in CASES if "bomb" in name and "headers" not in name]
)
def test_a_bomb_does_not_inflate(name: str) -> None:
    """A bomb takes a few blocks of memory, and no disk space in the end."""
    case = CASES[name]
    source = BytesSource(case.make())
    with Spool(SPOOL_BYTES) as spool:
        with at_most(8 << 20), pytest.raises(UpdateRejected):
            open_weights(source, case.format, spool=spool)
        with spool.new_file() as file:
            file.write(bytes(SPOOL_BYTES))


def test_unpacking_an_honest_update_is_flat() -> None:
    """An update is unpacked in blocks, whatever its order."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, (2000, 2000)).astype("f4")
    archive = archives.deflated(("w.npy", archives.npy(values, "f4")))
    reordered = archives.deflated(("w.npy", _fortran(values)))
    text = json.dumps(values[:100].tolist(), separators=(",", ":")).encode()
    for kind, data in [("npz", archive), ("npz", reordered), ("json", b"[" + text + b"]")]:
        with Spool() as spool, at_most(12 << 20):
            open_weights(BytesSource(data), kind, spool=spool)


def _fortran(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asfortranarray(array))
    return file.getvalue()


def test_headers_do_not_accumulate() -> None:
    """Many headers of megabytes, each valid and each different, do not stay in memory."""

    def flood(count: int) -> None:
        for number in range(count):
            entries = {
                f"{number}-{n}": safetensors_files.entry(shape=[0], offsets=[0, 0])
                for n in range(3000)
            }
            data = safetensors_files.safetensors(entries)
            layout = peek_layout(BytesSource(data), "safetensors")
            assert layout_difference(layout, TensorLayout(())) is not None

    tracemalloc.start()
    try:
        flood(6)
        assert tracemalloc.get_traced_memory()[0] < 30 << 20
    finally:
        tracemalloc.stop()


def _safetensors(tensors: dict[str, Array]) -> bytes:
    return bytes(safetensors.numpy.save(tensors))


def _npz(tensors: dict[str, Array]) -> bytes:
    return archives.npz(*((f"{name}.npy", archives.npy(a, a.dtype)) for name, a in tensors.items()))


MODEL = {"w": np.zeros((2, 3), "f4"), "b": np.zeros(3, "f4")}

OTHER_LAYOUTS: dict[str, tuple[dict[str, Array], str]] = {
    "missing": ({"w": MODEL["w"]}, "'b' (F32 [3]) is missing"),
    "extra": ({**MODEL, "c": np.zeros(1, "f4")}, "is not in the model"),
    "renamed": ({"w": MODEL["w"], "b2": MODEL["b"]}, "'b' (F32 [3]) is missing"),
    "transposed": ({**MODEL, "w": np.zeros((3, 2), "f4")}, "'w' is F32 [3, 2], the model's"),
    "flattened": ({**MODEL, "w": np.zeros(6, "f4")}, "'w' is F32 [6], the model's"),
    "that broadcasts": ({**MODEL, "w": np.zeros((1, 3), "f4")}, "'w' is F32 [1, 3], the model's"),
    "of another dtype": ({**MODEL, "b": np.zeros(3, "f8")}, "'b' is F64 [3], the model's"),
    "of none": ({}, "is missing"),
    "look-alike": ({"w": MODEL["w"], "\u0062\u200b": MODEL["b"]}, "'b' (F32 [3]) is missing"),
}


@pytest.mark.parametrize("write", [_safetensors, _npz])
@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_another_layout_is_rejected(name: str, write: Callable[[dict[str, Array]], bytes]) -> None:
    """An update with another layout is rejected with the first difference."""
    tensors, reason = OTHER_LAYOUTS[name]
    kind = write.__name__.removeprefix("_")
    with Spool() as spool:
        model = open_weights(BytesSource(write(MODEL)), kind, spool=spool).layout
        with pytest.raises(UpdateRejected) as rejection:
            open_weights(BytesSource(write(tensors)), kind, expected_layout=model, spool=spool)
    assert reason in str(rejection.value)


def test_the_order_of_tensors_does_not_matter() -> None:
    """The same tensors in another order are the same layout."""
    shuffled = dict(reversed(MODEL.items()))
    with Spool() as spool:
        model = open_weights(BytesSource(_npz(MODEL)), "npz", spool=spool).layout
        update = open_weights(
            BytesSource(_npz(shuffled)), "npz", expected_layout=model, spool=spool
        )
        assert read_tensors(update).keys() == MODEL.keys()
