"""The npz format, against numpy."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import AggregationError, SpoolFull, UpdateRejected
from aggregation.formats import Spool, encoder_for, open_weights, peek_layout
from aggregation.formats.limits import Limits
from aggregation.formats.npz.structure import HEAD_BYTES, MAX_HEAD_GAP_BYTES, TAIL_BYTES
from aggregation.layout import BFLOAT16, Tensor, TensorLayout, layout_difference
from aggregation.sources import BytesSource, FileSource
from aggregation.weights import MAX_SPAN_BYTES, read_tensors
from tests.aggregation.formats.samples import (
    Array,
    CountingSource,
    as_numpy_knows,
    assert_same,
    decode,
    encode,
    layouts,
    read_flat,
    values_of,
)


def savez(*, compressed: bool = False, **named: Any) -> bytes:
    """Return the archive that `numpy.savez` writes."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **named)
    return file.getvalue()


def load(data: bytes) -> dict[str, Array]:
    """Return the arrays that `numpy.load` reads."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_members(members: dict[str, Array], compression: int) -> bytes:
    """Return an archive of arrays with any names, also those that cannot be keyword arguments."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)
    return file.getvalue()


@given(layouts(), st.integers(0, 2**32))
def test_numpy_reads_what_is_written(layout: TensorLayout, seed: int) -> None:
    """numpy reads the arrays that were encoded."""
    arrays = values_of(layout, seed)
    expected = {
        t.name: as_numpy_knows(array) for t, array in zip(layout.tensors, arrays, strict=True)
    }
    assert_same(load(encode("npz", layout, arrays)), expected)


@given(
    layouts(), st.integers(0, 2**32), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
)
def test_what_numpy_writes_is_read(layout: TensorLayout, seed: int, compression: int) -> None:
    """Arrays that numpy writes are read unchanged, deflated or not."""
    arrays = values_of(layout, seed)
    expected = {t.name: array for t, array in zip(layout.tensors, arrays, strict=True)}
    data = write_members(expected, compression)
    found, tensors = decode(data, "npz")
    assert found == layout == peek_layout(BytesSource(data), "npz")
    assert_same(tensors, expected)


def test_arrays_without_names_have_positions() -> None:
    """Arrays that `np.savez(*arrays)` calls arr_0, arr_1, ... are in the order of their numbers."""
    arrays = [np.full(n, n, "f4") for n in range(12)]
    data = write_members(
        {f"arr_{n}": arrays[n] for n in sorted(range(12), key=str)}, zipfile.ZIP_STORED
    )
    layout, tensors = decode(data, "npz")
    assert layout.is_numbered
    assert [tensor.shape for tensor in layout.tensors] == [(n,) for n in range(12)]
    assert_same(tensors, {f"arr_{n}": arrays[n] for n in range(12)})
    assert_same(load(encode("npz", layout, arrays)), tensors)


@pytest.mark.parametrize("names", [["arr_0", "arr_2"], ["arr_0", "w"], ["arr_00"], ["arr_1"]])
def test_other_names_are_names(names: list[str]) -> None:
    """Only all of arr_0 to arr_n are positions."""
    data = write_members({name: np.zeros(1, "f4") for name in names}, zipfile.ZIP_STORED)
    layout = peek_layout(BytesSource(data), "npz")
    assert not layout.is_numbered
    assert [tensor.name for tensor in layout.tensors] == names


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 3), (1000, 1100), (3, 3, 300, 400), (700_000, 2), (2, 700_000)]
)
def test_fortran_order_is_converted(shape: tuple[int, ...], compressed: bool) -> None:
    """An array in Fortran order is read in C order."""
    array = np.asfortranarray(np.random.default_rng(0).standard_normal(shape).astype("f4"))
    _, tensors = decode(savez(w=array, v=np.ones(3), compressed=compressed), "npz")
    assert_same(tensors, {"w": np.ascontiguousarray(array), "v": np.ones(3)})


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">i2", ">u8"])
def test_big_endian_is_swapped(dtype: str, compressed: bool) -> None:
    """Big-endian values are read as little-endian ones, Fortran order or not."""
    array = (np.arange(300_000) % 1000).reshape(3, -1).astype(dtype)
    data = savez(w=array, f=np.asfortranarray(array), compressed=compressed)
    expected = array.astype(np.dtype(dtype).newbyteorder("<"))
    assert_same(decode(data, "npz")[1], {"w": expected, "f": expected})


def test_only_what_must_be_is_unpacked() -> None:
    """Members that can be read by ranges are not unpacked, even beside one that must be."""
    arrays: dict[str, Any] = {
        "a": np.arange(1000.0),
        "f": np.asfortranarray(np.ones((30, 40))),
        "b": np.ones(9),
    }
    with Spool(max_bytes=2 * (30 * 40 * 8 + 128)) as spool:
        weights = open_weights(BytesSource(savez(**arrays)), "npz", spool=spool)
        assert_same(read_tensors(weights), {**arrays, "f": np.ones((30, 40))})
        assert read_flat(weights, weights.layout, steps=7) == b"".join(
            np.ascontiguousarray(array).tobytes() for array in arrays.values()
        )


def test_bfloat16_is_raw_data_to_numpy() -> None:
    """bfloat16 is written as numpy does it, and comes back by a view."""
    values = np.array([1, -2, 0.5], ml_dtypes.bfloat16)
    layout = TensorLayout((Tensor("x", BFLOAT16, (3,)),))
    data = encode("npz", layout, [values])
    loaded = load(data)["x"]
    assert loaded.dtype == np.dtype("V2")
    assert loaded.view(ml_dtypes.bfloat16).tolist() == [1, -2, 0.5]
    assert_same(decode(data, "npz")[1], {"x": values})


def test_few_reads_open_many_small_arrays() -> None:
    """The directory is read once, and the headers of neighbours together."""
    arrays: dict[str, Any] = {f"layer.{n}": np.zeros(400, "f4") for n in range(267)}
    source = CountingSource(BytesSource(savez(**arrays)))
    peek_layout(source, "npz")
    assert source.reads == 2


def test_a_small_archive_is_one_read() -> None:
    """Opening an archive that fits into the first read takes no other."""
    arrays: dict[str, Any] = {f"w{n}": np.zeros(40) for n in range(50)}
    source = CountingSource(BytesSource(savez(**arrays)))
    assert source.size <= TAIL_BYTES
    peek_layout(source, "npz")
    assert source.reads == 1


def test_large_arrays_are_not_read_to_see_their_headers() -> None:
    """Each large array takes at most one read of a few kilobytes."""
    arrays: dict[str, Any] = {f"w{n}": np.zeros(1 << 20, "u1") for n in range(20)}
    source = CountingSource(BytesSource(savez(**arrays)))
    peek_layout(source, "npz")
    assert source.reads <= 21
    assert source.bytes_read <= TAIL_BYTES + 20 * HEAD_BYTES


def test_a_read_of_headers_is_bounded() -> None:
    """A single read stays small, however many small arrays are adjacent."""

    class Bounded(CountingSource):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            assert len(buffer) <= MAX_SPAN_BYTES
            super().read_into(offset, buffer)

    arrays: dict[str, Any] = {f"w{n}": np.zeros(10_000, "f4") for n in range(200)}
    source = Bounded(BytesSource(savez(**arrays)))
    assert len(peek_layout(source, "npz").tensors) == 200
    assert source.reads <= 1 + source.size // (MAX_SPAN_BYTES - 65_536) + 1


class Requests(CountingSource):
    """A source that counts requests as if it were remote."""

    local = False

    def __init__(self, data: bytes) -> None:
        super().__init__(BytesSource(data))
        self.local = False


def spread(count: int, gap: int = MAX_HEAD_GAP_BYTES + HEAD_BYTES) -> bytes:
    """Return an archive of one-element arrays with unused bytes between them, as an attacker writes it."""
    member = io.BytesIO()
    np.lib.format.write_array(member, np.zeros(1, "f4"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(count):
            archive.writestr(f"w{number}.npy", member.getvalue())
            assert archive.fp is not None
            archive.fp.seek(gap, os.SEEK_CUR)
            archive.start_dir = archive.fp.tell()
    return file.getvalue()


@pytest.mark.parametrize("count", [20, 40])
def test_the_requests_for_headers_are_bounded(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload causes no more requests than the limit, whatever the file says. Of a file that needs
    more, names and sizes are compared with the model's, and the shapes when it is opened."""
    monkeypatch.setattr(
        "aggregation.formats.limits_for", lambda layout, trusted: Limits(array_header_requests=30)
    )
    data = spread(count)
    model = TensorLayout(
        tuple(Tensor(f"w{n}", np.dtype("<f4"), (1,)) for n in reversed(range(count)))
    )
    for readers in (1, 4):
        source = Requests(data)
        layout = peek_layout(source, "npz", expected_layout=model, readers=readers)
        assert layout_difference(model, layout) is None
        assert source.reads <= 2 + 30
    source = Requests(data)
    if count > 30:
        with pytest.raises(UpdateRejected, match="take 40 requests to read, at most 30 are sent"):
            peek_layout(source, "npz")
        assert source.reads <= 2
    with Spool() as spool:
        weights = open_weights(Requests(data), "npz", expected_layout=model, spool=spool)
        assert layout_difference(model, weights.layout) is None


def test_wrong_sizes_are_rejected_without_reading_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where headers are not read, an array of another size is rejected by the directory."""
    monkeypatch.setattr(
        "aggregation.formats.limits_for", lambda layout, trusted: Limits(array_header_requests=2)
    )
    model = TensorLayout(tuple(Tensor(f"w{n}", np.dtype("<f4"), (999,)) for n in range(5)))
    with pytest.raises(UpdateRejected, match=r"'w0' has 132 bytes .* F32 \[999\] with 3996"):
        peek_layout(Requests(spread(5)), "npz", expected_layout=model)


def test_other_names_are_rejected_before_any_member_is_read() -> None:
    """The directory has the names: an archive of other arrays costs two requests."""
    source = Requests(spread(50))
    model = TensorLayout((Tensor("w0", np.dtype("<f4"), (1,)),))
    with pytest.raises(UpdateRejected, match="'w1' is not in the model"):
        peek_layout(source, "npz", expected_layout=model)
    assert source.reads <= 2


def test_a_thousand_small_arrays_take_few_requests() -> None:
    """Arrays of 68 kB, one after the other, come together in requests of a megabyte."""
    arrays: dict[str, Any] = {f"w{n}": np.zeros(17_000, "f4") for n in range(1000)}
    source = Requests(savez(**arrays))
    assert len(peek_layout(source, "npz", readers=16).tensors) == 1000
    assert source.reads < 100


@pytest.mark.parametrize("kind", ["stored", "compressed", "fortran"])
def test_archives_of_one_structure_share_an_index(kind: str) -> None:
    """Values, CRCs, dates and compressed sizes differ between clients. The structure is shared, so that
    many updates of many tensors take little more memory than one."""
    rng = np.random.default_rng(0)
    indices = []
    with Spool() as spool:
        for _ in range(3):
            arrays: dict[str, Any] = {f"w{n}": rng.integers(0, 9, (9, 9)) / 7 for n in range(9)}
            if kind == "fortran":
                arrays["w3"] = np.asfortranarray(arrays["w3"])
            data = savez(**arrays, compressed=kind == "compressed")
            weights = open_weights(BytesSource(data), "npz", spool=spool)
            assert_same(read_tensors(weights), arrays)
            indices.append(weights.index)
    assert all(index is indices[0] for index in indices)


def test_zip64_directory_entries_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and offsets that the directory gives in 64 bits are read, whatever their number."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 700)
    arrays: dict[str, Any] = {"small": np.zeros(1), "large": np.arange(100.0), "last": np.ones(2)}
    assert_same(decode(savez(**arrays), "npz")[1], arrays)


def test_members_beyond_four_gigabytes(tmp_path: Path) -> None:
    """An archive with a member and an offset of more than 32 bits is what `zipfile` expects."""
    size = (1 << 32) + 8
    layout = TensorLayout(
        (Tensor("big", np.dtype("u1"), (size,)), Tensor("next", np.dtype("<f4"), (2,)))
    )
    encoder = encoder_for("npz", layout)
    zeros = memoryview(bytes(8 << 20))
    path = tmp_path / "big.npz"
    with path.open("wb") as file:
        file.write(encoder.header())
        for start in range(0, size, len(zeros)):
            for piece in encoder.encode(start, zeros[: size - start]):
                if len(piece) < len(zeros):
                    file.write(piece)
                else:  # a hole: the file takes no room
                    file.seek(len(piece), os.SEEK_CUR)
        for piece in encoder.encode(size, memoryview(np.array([1, 2], "<f4").tobytes())):
            file.write(piece)
        file.write(encoder.footer())
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("big.npy").file_size == size + 128
        assert archive.getinfo("next.npy").header_offset > 1 << 32
        with archive.open("next.npy") as member:
            assert np.lib.format.read_array(member).tolist() == [1, 2]
    with Spool() as spool:
        weights = open_weights(FileSource(path), "npz", spool=spool)
        assert weights.layout == layout
        last = bytearray(10)
        weights.read_into(layout, size - 2, memoryview(last))
        assert bytes(last) == b"\0\0" + np.array([1, 2], "<f4").tobytes()


def test_a_layout_that_differs_is_not_unpacked() -> None:
    """An update with another layout is rejected before it takes disk space."""
    model = TensorLayout((Tensor("w", np.dtype("<f4"), (3,)),))
    data = savez(w=np.zeros(4, "f4"), compressed=True)
    with Spool(max_bytes=0) as spool, pytest.raises(UpdateRejected, match=r"'w' is F32 \[4\]"):
        open_weights(BytesSource(data), "npz", expected_layout=model, spool=spool)


def test_a_full_spool_is_not_blamed_on_the_client() -> None:
    """Two updates that fit one at a time: the second one is not rejected, the spool is full."""
    data = savez(w=np.zeros(1000), compressed=True)
    with Spool(max_bytes=12_000) as spool:
        open_weights(BytesSource(data), "npz", spool=spool)
        with pytest.raises(SpoolFull):
            open_weights(BytesSource(data), "npz", spool=spool)


@pytest.mark.parametrize("name", ["../b", "/b", "a//b", "a\\b", "a\0b", "x" * 1021])
def test_names_that_could_not_be_read_back_are_not_written(name: str) -> None:
    """The encoder refuses the names that the reader refuses."""
    with pytest.raises(AggregationError, match="npz cannot hold"):
        encoder_for("npz", TensorLayout((Tensor(name, np.dtype("<f4"), (1,)),)))


def test_names_may_contain_slashes() -> None:
    """Names as Flax writes them are read and written."""
    arrays: dict[str, Any] = {"params/dense/kernel": np.ones(3), "params/dense/bias": np.ones(1)}
    layout, tensors = decode(savez(**arrays), "npz")
    assert_same(tensors, arrays)
    assert_same(load(encode("npz", layout, list(arrays.values()))), arrays)


def test_names_that_numpy_confuses_are_refused() -> None:
    """numpy finds both x and x.npy under the latter name."""
    arrays = {"x": np.zeros(1, "f4"), "x.npy": np.ones(1, "f4")}
    with pytest.raises(UpdateRejected, match="numpy has two arrays of this name"):
        decode(write_members(arrays, zipfile.ZIP_STORED), "npz")
    tensors = tuple(Tensor(name, np.dtype("<f4"), (1,)) for name in arrays)
    with pytest.raises(AggregationError, match="two arrays of this name"):
        encoder_for("npz", TensorLayout(tensors))
