"""What is sent is what was given: every name, shape, dtype and format, up to the aggregate."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from federated_client import BadDownload, BadWeights, Bucket
from federated_client.weights import as_arrays, decode, encode
from local.cloud import Cloud
from tests.client.delivery import deliver
from tests.client.members import member
from tests.factories import make_model

Array = NDArray[Any]

DTYPES = [
    *("<f2", "<f4", "<f8", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8"),
    ml_dtypes.bfloat16,
]

#: Names without what no npz member may have; `test_a_name_that_a_format_cannot_have` covers the rest.
NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\:"),
    min_size=1,
    max_size=20,
).filter(lambda name: name.strip(". ") == name and not name.startswith(("arr_", "__")))


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    """An array of any shape, without NaN and infinity, in any memory order."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    count = int(np.prod(shape))
    values = draw(st.lists(st.integers(0, 100), min_size=count, max_size=count))
    array = np.array(values, np.float32).reshape(shape).astype(dtype)
    return np.asfortranarray(array) if draw(st.booleans()) else array


WEIGHTS = st.dictionaries(NAMES, tensors(), min_size=1, max_size=5)


def assert_same(found: dict[str, Array], given_weights: dict[str, Array]) -> None:
    assert found.keys() == given_weights.keys()
    for name, tensor in given_weights.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype), name
        np.testing.assert_array_equal(found[name], tensor)


@given(WEIGHTS, st.sampled_from(["safetensors", "npz"]))
def test_decoding_what_was_encoded_gives_the_same_weights(
    weights: dict[str, Array], extension: str
) -> None:
    """Names, shapes (also of zero dimensions), dtypes and values survive in every format with names."""
    assert_same(decode(encode(weights, extension).getvalue(), f"x.{extension}"), weights)


@given(st.lists(tensors(), min_size=1, max_size=12))
def test_json_keeps_the_shapes_and_values_of_layers(layers: list[Array]) -> None:
    """JSON has neither names nor dtypes: layers come back by number, as float64."""
    named = {f"arr_{number}": layer for number, layer in enumerate(layers)}
    found = decode(encode(named, "json").getvalue(), "x.json")
    assert list(found) == list(named)
    for name, layer in named.items():
        assert found[name].size == layer.size
        np.testing.assert_array_equal(found[name].ravel(), layer.astype(np.float64).ravel())


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(weights=WEIGHTS, extension=st.sampled_from(["safetensors", "npz", "json"]))
def test_weights_survive_the_handler(
    database: str, cloud: Cloud, tmp_path: Path, weights: dict[str, Array], extension: str
) -> None:
    """An update that is alone in its round comes back as the aggregate, unchanged, in each format."""
    if extension == "json":  # It has neither names nor dtypes.
        values = [tensor.astype(np.float64) for tensor in weights.values() if tensor.size]
        weights = {f"arr_{number}": tensor for number, tensor in enumerate(values)}
        assume(weights)
    model = make_model(1)
    client = member(Bucket(cloud.bucket, cloud.client("s3")), model)
    if extension == "safetensors":
        client.upload(weights, num_examples=3)
    else:
        path = tmp_path / f"update.{extension}"
        path.write_bytes(encode(weights, extension).getvalue())
        client.upload_file(path, num_examples=3)
    while deliver(cloud):
        pass
    assert model.model_updates.get().rejection_reason == ""
    assert_same(client.fetch(), weights)
    assert client.base
    assert client.base.key.endswith(f".{extension}")


@given(WEIGHTS)
def test_what_other_libraries_write_is_read(weights: dict[str, Array]) -> None:
    """The files of numpy are decoded to the same arrays."""
    plain = {name: tensor for name, tensor in weights.items() if tensor.dtype != ml_dtypes.bfloat16}
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **plain)  # type: ignore[arg-type]
        assert_same(decode(file.getvalue(), "x.npz"), plain)


class Module:
    """A module as PyTorch has it, as far as the message needs it."""

    def state_dict(self) -> dict[str, Any]:
        return {}


class Unconvertible:
    def __array__(self, *args: Any, **options: Any) -> Array:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([np.zeros(1)], r"got a list: pass a dict such as"),
        ((np.zeros(1),), r"got a tuple: pass a dict such as"),
        (Module(), r"got the module Module itself: pass its state_dict\(\)"),
        (iter({"w": 1}.items()), r"pass state_dict\(\) instead of named_parameters\(\)"),
        (np.zeros(1), "got a ndarray"),
        (None, "got a NoneType"),
        ({1: np.zeros(1)}, "names must be strings of Unicode, one is 1"),
        ({"\ud800": np.zeros(1)}, "names must be strings of Unicode"),
        ({"w": {"kernel": np.zeros(1)}}, "'w' is a mapping: flatten nested parameters"),
        ({"w": None}, "'w' is None, expected an array"),
        ({"w": "weights.npz"}, "'w' is 'weights.npz', expected an array"),
        ({"w": [[1, 2], [3]]}, "'w' of type list cannot be converted"),
        ({"w": np.ma.masked_equal([1.0, 2.0], 1.0)}, "'w' is a masked array"),
        ({"w": Unconvertible()}, "'w' of type Unconvertible cannot be converted .* cuda:0"),
        ({"w": np.array([object()])}, "'w' has dtype object; known are"),
        ({"w": np.zeros(2, complex)}, "'w' has dtype complex128; known are"),
    ],
)
def test_what_is_not_weights_is_explained(weights: Any, reason: str) -> None:
    """A wrong argument is an error in plain words that says what to pass."""
    with pytest.raises(BadWeights, match=reason):
        encode(weights)


def test_a_name_that_a_format_cannot_have_is_refused() -> None:
    """No file is written that could not be read back."""
    with pytest.raises(BadWeights):
        encode({"a\\b": np.zeros(1)}, "npz")


def test_numbers_of_python_are_float64() -> None:
    """A list of whole numbers does not make a tensor of integers."""
    found = decode(encode({"w": [1, 2], "b": 3}).getvalue(), "x.safetensors")
    assert_same(found, {"w": np.array([1.0, 2.0]), "b": np.array(3.0)})


def test_arrays_are_not_copied() -> None:
    """An array that numpy has already is passed on as it is."""
    array = np.zeros(3)
    assert as_arrays({"w": array})["w"] is array


@pytest.mark.parametrize("body", [b"", b"<html>", bytes(100)])
@pytest.mark.parametrize("key", ["x.safetensors", "x.npz", "x.json", "x.pt", "x"])
def test_a_download_that_is_no_weights_is_named(body: bytes, key: str) -> None:
    """A damaged object is an error with its key."""
    with pytest.raises(BadDownload, match=key):
        decode(body, key)
