"""Compressed updates: what is sent, and what the client keeps of what was left out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from federated_client import BadArgument, BadWeights, Bucket
from federated_client.compression import compressed_file
from federated_client.weights import encode
from models_app.models import ModelUpdate
from tests.aggregation.formats.compressed_updates import (
    compressed,
    decompressed,
    plain_dequantize,
    plain_quantize,
)
from tests.client.members import Deliver, StorageOf, federation, in_the_cloud, member
from tests.factories import get

pytestmark = in_the_cloud

BASE = {
    "w": np.zeros((90, 100), np.float32),
    "b": np.zeros(3, ml_dtypes.bfloat16),
    "d": np.zeros((), np.float64),
    "n": np.array(7, np.int64),
}


def differences(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(90, 100)).astype(np.float32),
        "b": rng.normal(size=3).astype(ml_dtypes.bfloat16),
        "d": np.asarray(rng.normal()),
        "n": np.array(seed, np.int64),
    }


def test_a_compressed_update_becomes_part_of_the_aggregate(
    storage_of: StorageOf, deliver: Deliver
) -> None:
    """The object is the one that plain numpy writes, and the aggregate contains its elements."""
    model = federation(1, initial=BASE, update_kind="differences")
    client = member(storage_of(model, 1), model)
    client.fetch()
    sent = differences(1)
    key = client.upload(sent, num_examples=1, are_differences=True, compression="int8")
    stored, expected = (
        safetensors.numpy.load(body) for body in (get(key), compressed(sent, sorted(sent)))
    )
    assert stored.keys() == expected.keys()
    for name in set(sent) - {"__scales__"}:
        np.testing.assert_array_equal(stored[name], expected[name])
    assert len(get(key)) < 0.3 * sum(array.nbytes for array in sent.values())
    deliver()
    found, elements = client.fetch(), decompressed(sent)
    for name in ("w", "b", "d"):
        np.testing.assert_array_equal(found[name], elements[name])


def test_what_was_left_out_is_sent_later(bucket: Bucket, deliver: Deliver) -> None:
    """The error does not grow with the rounds: each update contains what the ones before left out."""
    model = federation(1, initial=BASE, update_kind="differences")
    client = member(bucket, model)
    total = np.zeros((90, 100))
    for number in range(4):
        weights = client.fetch()
        change = differences(number)["w"]
        total += change
        client.upload(weights | {"w": weights["w"] + change}, num_examples=1, compression="int8")
        client.residual = {name: left.copy() for name, left in client.residual.items()}
        deliver()
    found = client.fetch()["w"]
    np.testing.assert_allclose(found + client.residual["w"], total, atol=1e-5)
    largest = np.abs(differences(3)["w"]).max() / 127
    assert np.abs(found - total).max() < largest


def test_the_largest_elements_are_sent_and_the_others_later(
    bucket: Bucket, deliver: Deliver
) -> None:
    """topk sends a hundredth of each tensor, and what it leaves out is part of later updates."""
    model = federation(1, initial=BASE, update_kind="differences")
    client = member(bucket, model)
    total = np.zeros((90, 100))
    for number in range(4):
        weights = client.fetch()
        change = differences(number)["w"]
        total += change
        with_residual = change + client.residual.get("w", np.zeros((90, 100), np.float32))
        key = client.upload(
            {**differences(number), "w": change},
            num_examples=1,
            are_differences=True,
            compression="topk",
        )
        assert len(get(key)) < 0.03 * change.nbytes + 1000
        deliver()
        added = client.fetch()["w"] - weights["w"]
        smallest = np.sort(np.abs(with_residual), axis=None)[-90]
        np.testing.assert_array_equal(added != 0, np.abs(with_residual) >= smallest)
    np.testing.assert_allclose(client.fetch()["w"] + client.residual["w"], total, atol=1e-5)


def test_the_residual_follows_the_definition() -> None:
    """The second update is that of the second difference with what the first one left out."""
    first, second = ({"w": differences(seed)["w"]} for seed in (1, 2))
    file, residual = compressed_file("int8", encode(first), "update.safetensors", None, {})
    file.close()
    left = first["w"] - plain_dequantize(*plain_quantize(first["w"]), np.dtype(np.float32))
    np.testing.assert_array_equal(residual["w"], left)
    file, _ = compressed_file("int8", encode(second), "update.safetensors", None, residual)
    with file:
        file.seek(0)
        stored = safetensors.numpy.load(file.read())
    expected, _ = plain_quantize(second["w"] + left)
    np.testing.assert_array_equal(stored["w"], expected)


@pytest.mark.parametrize("extension", ["safetensors", "npz"])
def test_a_file_is_sent_compressed(bucket: Bucket, tmp_path: Path, extension: str) -> None:
    """A file of any format is compressed to safetensors, and stays as it is."""
    client = member(bucket, federation(1, initial=BASE, update_kind="differences"))
    client.fetch_file(tmp_path / "base")
    path = tmp_path / f"mine.{extension}"
    path.write_bytes(encode(BASE | differences(3), extension).getvalue())
    before = path.read_bytes()
    key = client.upload_file(path, num_examples=1, compression="int8")
    assert key.endswith(".safetensors")
    assert safetensors.numpy.load(get(key))["w"].dtype == np.int8
    assert path.read_bytes() == before


def test_a_refused_update_changes_no_residual(bucket: Bucket) -> None:
    """Weights, unknown names and residuals of other models are refused before anything is sent."""
    weights = federation(1, initial=BASE)
    client = member(bucket, weights)
    client.fetch()
    with pytest.raises(BadWeights, match="only updates that are differences may be compressed"):
        client.upload(BASE, num_examples=1, compression="int8")
    with pytest.raises(BadArgument, match="compression is 'gzip', expected one of int8, topk"):
        client.upload(BASE, num_examples=1, compression="gzip")
    client = member(bucket, federation(1, initial=BASE, update_kind="differences"))
    client.fetch()
    client.residual = {"w": np.zeros(5, np.float32)}
    with pytest.raises(BadWeights, match=r"residual of tensor 'w' has shape \[5\]"):
        client.upload(BASE, num_examples=1, compression="int8")
    assert client.residual["w"].shape == (5,)
    assert not ModelUpdate.objects.exists()


@pytest.mark.parametrize(("compression", "name"), [("int8", "__scales__"), ("topk", "__entries__")])
def test_a_model_with_a_tensor_of_a_reserved_name_is_refused(compression: str, name: str) -> None:
    """The client refuses what the aggregator would, with its reason."""
    file = io.BytesIO(safetensors.numpy.save({name: np.zeros(3, np.float32)}))
    with pytest.raises(BadWeights, match="send the update uncompressed"):
        compressed_file(compression, file, "update.safetensors", None, {})
