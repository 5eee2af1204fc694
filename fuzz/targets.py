"""The targets of fuzzing: valid files, their mutations, and the properties that are checked."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from aggregation.errors import UpdateRejected
from aggregation.formats import COMPRESSIONS, Spool, open_weights, peek_layout
from aggregation.layout import DTYPES, TensorLayout, layer_name
from aggregation.sources import BytesSource
from aggregation.weights import read_tensors
from federated_client.compression import compressed_file
from fuzz.mutations import mutated

Array = NDArray[Any]
Maker = Callable[[Random], bytes]

MODELS: tuple[dict[str, Array], ...] = (
    {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(3, "f8"), "n": np.array(7, "i8")},
    {"h": np.ones((1, 2), "f2"), "e": np.ones((2, 0), "f4"), "u": np.arange(4, dtype="u1")},
    {"brain/float": np.ones(5, ml_dtypes.bfloat16), "": np.zeros((1, 1, 1, 1), "u8")},
    {"f": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "swapped": np.arange(5, dtype=">f4")},
)

#: The largest model that is read: the header of an update compressed by topk may describe any size.
MAX_BYTES = 1 << 28

#: The layout with which some of the files are compared.
EXPECTED_LAYOUT = TensorLayout(
    peek_layout(BytesSource(safetensors.numpy.save(MODELS[0])), "safetensors").tensors
)


def _npz(model: Mapping[str, Array], compression: int, random: Random | None = None) -> bytes:
    """Return an archive of the model's arrays; members are mutated before their checksums are computed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in model.items():
            member = io.BytesIO()
            np.save(member, array)
            data = member.getvalue()
            if random and random.random() < 0.5:
                data = mutated(data[:128], random) + data[128:]
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data, compression)
    return file.getvalue()


def _safetensors(model: Mapping[str, Array], random: Random) -> bytes:
    """Return a file with a mutated header whose length is right."""
    data = safetensors.numpy.save({name: _native(array) for name, array in model.items()})
    length = struct.unpack("<Q", data[:8])[0]
    header = mutated(data[8 : 8 + length], random)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _compressed(compression: str) -> bytes:
    """Return the first model compressed, as a client sends it."""
    body = io.BytesIO(safetensors.numpy.save(MODELS[0]))
    file, _ = compressed_file(compression, body, "update.safetensors", None, {})
    with file:
        file.seek(0)
        return file.read()


def _native(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("="), order="C")


def _seeds() -> dict[str, list[bytes]]:
    """Return valid files by format."""
    native = [{name: _native(array) for name, array in model.items()} for model in MODELS]
    unnamed = {f"arr_{n}": np.full(n, n, "f4") for n in range(3)}
    layers = [array.astype("f8").tolist() for model in native for array in model.values()]
    return {
        "safetensors": [
            *(safetensors.numpy.save(model, {"a": "b"}) for model in native),
            *(_compressed(compression) for compression in COMPRESSIONS),
        ],
        "npz": [
            _npz(model, compression)
            for model in (*MODELS, unnamed)
            for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        ],
        "json": [
            json.dumps(layers).encode(),
            json.dumps(layers, indent=1).encode(),
            json.dumps([array.tolist() for array in MODELS[0].values()]).encode(),
            b"[[0.1,2],3,[],[[1e-5,-7E+2],[0,1]]]",
            b"[[[[1],[2]],[[3],[4]]]]",
        ],
    }


SEEDS = _seeds()


def inputs(random: Random) -> Iterator[tuple[str, bytes]]:
    """Yield mutated files without end, as ``(format, data)``."""
    makers: tuple[tuple[str, Maker], ...] = (
        ("safetensors", lambda random: mutated(random.choice(SEEDS["safetensors"]), random)),
        ("safetensors", lambda random: _safetensors(random.choice(MODELS), random)),
        ("npz", lambda random: mutated(random.choice(SEEDS["npz"]), random)),
        ("npz", lambda random: mutated(random.choice(SEEDS["npz"]), random)),
        (
            "npz",
            lambda random: _npz(
                random.choice(MODELS),
                random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)),
                random,
            ),
        ),
        ("json", lambda random: mutated(random.choice(SEEDS["json"]), random)),
        ("json", lambda random: mutated(random.choice(SEEDS["json"]), random)),
    )
    while True:
        kind, make = random.choice(makers)
        yield kind, make(random)


def check(format: str, data: bytes, expected_layout: TensorLayout | None, spool: Spool) -> str:
    """Open and read a file, and return the outcome in a few words.

    Raises
    ------
    AssertionError
        If the values differ from those that the format's own library reads.
    """
    source = BytesSource(data)
    if expected_layout and format == "json":
        expected_layout = TensorLayout.of_layers(expected_layout.tensors)
    try:
        peeked = peek_layout(source, format, expected_layout=expected_layout, compressed=True)
        weights = open_weights(
            source, format, expected_layout=expected_layout, spool=spool, compressed=True
        )
        if weights.is_compressed and weights.layout.nbytes > MAX_BYTES:
            return "opened, too large to be read"
        tensors = read_tensors(weights)
    except UpdateRejected as error:
        reason = str(error)
        assert reason.isascii()
        assert reason.isprintable()
        assert len(reason) < 500
        return "rejected"
    assert peeked == weights.layout
    if weights.is_compressed:
        return "read, decompressed"
    try:
        expected = LIBRARIES[format](data)
    except Exception:  # A library may raise anything for a file that is accepted here.
        return "read, the library does not"
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        if expected_layout is None or format != "json":
            assert tensors[name].shape == array.shape
            assert tensors[name].tobytes() == array.tobytes()
    return "read, as the library does"


def _library_safetensors(data: bytes) -> dict[str, Array]:
    return {
        name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    }


def _library_npz(data: bytes) -> dict[str, Array]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return {name: _native(array) for name, array in arrays.items()}


def _library_json(data: bytes) -> dict[str, Array]:
    layers = json.loads(data)
    return {layer_name(n): np.array(layer, np.float64) for n, layer in enumerate(layers)}


LIBRARIES: dict[str, Callable[[bytes], dict[str, Array]]] = {
    "safetensors": _library_safetensors,
    "npz": _library_npz,
    "json": _library_json,
}
