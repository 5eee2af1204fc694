"""Headers of every legal form: what numpy and safetensors read is read here, to the same values."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.layout import BFLOAT16, DTYPES
from tests.aggregation.formats.samples import Array, decode

blanks = st.sampled_from(["", "", " ", "  ", "\n", "\t "])
shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)
descriptions = st.sampled_from(
    [
        *(
            "f4",
            "<f4",
            ">f4",
            "=f4",
            "|f4",
            "f",
            "float32",
            "single",
            "<d",
            "double",
            ">f2",
            "half",
        ),
        *(
            "float16",
            "u1",
            "|u1",
            ">u1",
            "i1",
            "<i2",
            ">i8",
            "int64",
            "q",
            "l",
            "uint16",
            "B",
            ">L",
        ),
        *("|V2", "<V2", "V2", "float128", "bool", "?", "c8", "U3", "<m8[s]", "f3", "", "<float32"),
    ]
)


@st.composite
def npy_headers(draw: st.DrawFn) -> tuple[str, int]:
    """Return the text of a .npy header in any form, and how many bytes of values it describes at most."""
    quote = draw(st.sampled_from("'\""))
    shape = draw(shapes)
    long = draw(st.sampled_from(["", "", "", "L"]))
    sizes = [f"{draw(blanks)}{size}{long}{draw(blanks)}" for size in shape]
    comma = "," if len(shape) == 1 or (shape and draw(st.booleans())) else ""
    items = {
        "descr": quote + draw(descriptions) + quote,
        "fortran_order": str(draw(st.booleans())),
        "shape": f"({','.join(sizes)}{comma})",
    }
    pairs = [
        f"{draw(blanks)}{quote}{key}{quote}{draw(blanks)}:{draw(blanks)}{items[key]}{draw(blanks)}"
        for key in draw(st.permutations(list(items)))
    ]
    end = draw(st.sampled_from([", ", ",", ""]))
    padding = " " * draw(st.sampled_from([0, 1, 63, 3000]))
    text = "{" + ",".join(pairs) + end + "}" + padding + draw(st.sampled_from(["\n", ""]))
    return text, int(np.prod(shape)) * 16


def read_by_numpy(npy: bytes) -> Array | None:
    """Return the array as numpy reads it, in C order and little-endian; None if numpy refuses it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about headers of Python 2.
            array = np.lib.format.read_array(io.BytesIO(npy), allow_pickle=False)
    except (ValueError, TypeError):
        return None
    if array.dtype == np.dtype("V2"):
        array = array.view(BFLOAT16)
    native = array.astype(array.dtype.newbyteorder("<"), order="C")
    return native if native.dtype in DTYPES.values() else None


@given(npy_headers(), st.sampled_from([(1, 0), (2, 0), (3, 0)]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_an_npy_header_is_read_as_numpy_reads_it(
    header: tuple[str, int], version: tuple[int, int], compressed: bool
) -> None:
    """Key order, quotes, blanks, byte order, Fortran order, version and zero dimensions do not matter."""
    text, room = header
    assume(version != (3, 0) or "L" not in text)  # Python 2 wrote no version 3.
    length = struct.pack("<H" if version == (1, 0) else "<L", len(text))
    start = b"\x93NUMPY" + bytes(version) + length + text.encode()
    values = (np.arange(room) % 251).astype(np.uint8).tobytes()
    expected = read_by_numpy(start + values)
    data = start + values[: expected.nbytes if expected is not None else None]
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("w.npy", data)
    if expected is None:
        with pytest.raises(UpdateRejected):
            decode(file.getvalue(), "npz")
        return
    found = decode(file.getvalue(), "npz")[1]["w"]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def safetensors_files(draw: st.DrawFn) -> bytes:
    """Return a file with a header in any form that the format allows."""
    tensors = draw(st.dictionaries(names.filter(lambda n: n != "__metadata__"), shapes, max_size=5))
    entries: dict[str, Any] = {}
    end = 0
    for name in draw(st.permutations(list(tensors))):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        begin, end = end, end + int(np.prod(tensors[name])) * DTYPES[dtype].itemsize
        fields = {"dtype": dtype, "shape": tensors[name], "data_offsets": [begin, end]}
        if draw(st.booleans()):
            fields["comment"] = draw(st.sampled_from(["", 1, None, [1], True]))
        entries[name] = {key: fields[key] for key in draw(st.permutations(list(fields)))}
    metadata = draw(st.none() | st.dictionaries(names, names, max_size=3))
    if metadata is not None or draw(st.booleans()):
        entries["__metadata__"] = metadata
    header = json.dumps(
        {name: entries[name] for name in draw(st.permutations(list(entries)))},
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 1, "\t"])),
        separators=draw(st.sampled_from([None, (",", ":"), (" , ", " :\n")])),
    ).encode()
    header += draw(st.sampled_from([b"", b" " * 7, b"\n\t "]))
    return (
        struct.pack("<Q", len(header)) + header + (np.arange(end) % 251).astype(np.uint8).tobytes()
    )


@given(safetensors_files())
@settings(max_examples=150, deadline=None)
def test_a_safetensors_header_is_read_as_its_library_reads_it(data: bytes) -> None:
    """Order, blanks, escapes, empty tensors, metadata and unknown fields do not matter."""
    expected = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    layout, tensors = decode(data, "safetensors")
    assert tensors.keys() == expected.keys()
    for tensor in layout.tensors:
        found = expected[tensor.name]
        assert (DTYPES[found["dtype"]], tuple(found["shape"])) == (tensor.dtype, tensor.shape)
        assert tensors[tensor.name].tobytes() == bytes(found["data"])
