"""Models that take differences: the client computes them, and says what an update is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from federated_client import BadWeights, Bucket
from federated_client.weights import decode
from local.cloud import Cloud
from models_app.models import FederatedModel
from tests.client.members import Deliver, StorageOf, federation, in_the_cloud, member
from tests.factories import filled, get

pytestmark = in_the_cloud

BASE = {"w": np.full((2, 3), 10, np.float32), "b": np.zeros((), ml_dtypes.bfloat16)}


def model_of_differences(**fields: Any) -> FederatedModel:
    return federation(1, initial=BASE, update_kind="differences", **fields)


def metadata(cloud: Cloud, key: str) -> dict[str, str]:
    found: dict[str, str] = cloud.client("s3").head_object(Bucket=cloud.bucket, Key=key)["Metadata"]
    return found


def test_trained_weights_are_sent_as_differences(
    cloud: Cloud, storage_of: StorageOf, deliver: Deliver
) -> None:
    """For a model of differences a client passes its weights, even trained in place, and they return."""
    model = model_of_differences()
    client = member(storage_of(model, 1), model)
    for number in (1, 2):
        weights = client.fetch()
        weights["w"] += np.float32(0.125)  # In the array that was fetched, as many frameworks do.
        weights["b"] += weights["b"].dtype.type(1)
        key = client.upload(weights, num_examples=1)
        assert metadata(cloud, key)["update-kind"] == "differences"
        sent = decode(get(key), key)
        np.testing.assert_array_equal(sent["w"], np.full((2, 3), 0.125))
        assert (sent["b"].shape, sent["b"].dtype) == ((), ml_dtypes.bfloat16)
        deliver()
        found = client.fetch()
        np.testing.assert_array_equal(found["w"], np.full((2, 3), 10 + number / 8))
        assert found["b"] == number


@pytest.mark.parametrize("extension", ["safetensors", "npz"])
def test_a_file_is_sent_as_differences(bucket: Bucket, tmp_path: Path, extension: str) -> None:
    """A file of trained weights is subtracted tensor by tensor, and stays as it is."""
    client = member(bucket, model_of_differences())
    client.fetch_file(tmp_path / "base")
    trained = {"w": BASE["w"] + np.float32(1), "b": BASE["b"]}
    path = tmp_path / f"mine.{extension}"
    if extension == "npz":
        np.savez_compressed(path, **trained)  # type: ignore[arg-type]
    else:
        safetensors.numpy.save_file(trained, path)
    before = path.read_bytes()
    key = client.upload_file(path, num_examples=1)
    np.testing.assert_array_equal(decode(get(key), key)["w"], np.ones((2, 3)))
    assert path.read_bytes() == before


def test_differences_are_sent_as_they_are(bucket: Bucket, deliver: Deliver) -> None:
    """A client that computes the difference itself says so."""
    model = model_of_differences()
    client = member(bucket, model)
    client.fetch()
    client.upload(
        {name: np.full_like(t, 0.5) for name, t in BASE.items()},
        num_examples=1,
        are_differences=True,
    )
    deliver()
    np.testing.assert_array_equal(client.fetch()["w"], np.full((2, 3), 10.5))


def test_an_update_without_a_base_has_no_difference(bucket: Bucket) -> None:
    """A client that has fetched nothing cannot say what it added."""
    client = member(bucket, model_of_differences())
    with pytest.raises(BadWeights, match="fetch them first"):
        client.upload(BASE, num_examples=1)


def test_differences_are_not_sent_to_a_model_of_weights(bucket: Bucket) -> None:
    """An update that contradicts its model is refused."""
    client = member(bucket, federation(1))
    client.fetch()
    with pytest.raises(BadWeights, match="updates of this model are 'weights'"):
        client.upload(filled(0.0), num_examples=1, are_differences=True)


def test_an_update_of_weights_says_so(cloud: Cloud, storage_of: StorageOf) -> None:
    """The metadata name what the update is, with credentials and with posts."""
    model = federation(1)
    client = member(storage_of(model, 1), model)
    client.fetch()
    key = client.upload(filled(1.0), num_examples=7)
    assert metadata(cloud, key) == {"num-examples": "7", "update-kind": "weights"} | (
        {} if client._storage.__class__ is Bucket else {"base-aggregate": ""}
    )


@pytest.mark.parametrize(
    ("dtype", "before", "after", "difference"),
    [
        ("u1", 3, 5, 2),
        ("u1", 5, 3, None),
        ("i1", -100, 100, None),
        ("<i8", -(2**62), 2**62 - 1, 2**63 - 1),
        ("<f4", 1.0, 1.0 + 2**-23, 2**-23),
        ("<f4", -3e38, 3e38, None),
    ],
)
def test_a_difference_that_its_dtype_cannot_hold_is_refused(
    bucket: Bucket, dtype: str, before: float, after: float, difference: float | None
) -> None:
    """Integers are subtracted exactly, and nothing wraps around or overflows."""
    initial = {"n": np.full(2, before, dtype)}
    client = member(bucket, federation(1, initial=initial, update_kind="differences"))
    client.fetch()
    trained = {"n": np.full(2, after, dtype)}
    if difference is None:
        with pytest.raises(BadWeights, match=r"'n'"):
            client.upload(trained, num_examples=1)
        return
    key = client.upload(trained, num_examples=1)
    np.testing.assert_array_equal(decode(get(key), key)["n"], np.full(2, difference, dtype))
