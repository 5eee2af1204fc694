"""Personal tensors: a client leaves them out of its updates, and puts them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from federated_client import BadDownload, BadWeights, Bucket
from federated_client.pointer import parse_pointer
from federated_client.weights import decode
from models_app.models import FederatedModel
from tests.client.members import Deliver, StorageOf, federation, in_the_cloud, member
from tests.factories import get

pytestmark = in_the_cloud

INITIAL: dict[str, Any] = {
    "body.w": np.zeros((2, 3), np.float32),
    "head.b": np.ones((), np.float64),
    "head.w": np.ones(4, np.float32),
}


def model_with_heads(**fields: Any) -> FederatedModel:
    return federation(1, initial=INITIAL, tensor_policies=[["head.*", "exclude"]], **fields)


@pytest.mark.parametrize("update_kind", ["weights", "differences"])
def test_excluded_tensors_stay_with_the_client(
    storage_of: StorageOf, deliver: Deliver, update_kind: str
) -> None:
    """They are not part of what is sent, and what is fetched contains the client's own."""
    model = model_with_heads(update_kind=update_kind)
    client = member(storage_of(model, 1), model)
    weights = client.fetch()
    np.testing.assert_array_equal(weights["head.w"], INITIAL["head.w"])
    trained = {name: tensor + tensor.dtype.type(1) for name, tensor in weights.items()}
    key = client.upload(trained, num_examples=1)
    assert decode(get(key), key).keys() == {"body.w"}
    deliver()
    fetched = client.fetch()
    assert client.base is not None
    assert client.base.number == 1
    for name, tensor in trained.items():
        np.testing.assert_array_equal(fetched[name], tensor)
    np.testing.assert_array_equal(
        decode(get(client.base.key), client.base.key)["head.w"], INITIAL["head.w"]
    )
    again = member(storage_of(model, 1), model).fetch(personal=client.personal)
    np.testing.assert_array_equal(again["head.w"], trained["head.w"])
    assert list(again) == list(fetched)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("update_kind", ["weights", "differences"])
def test_a_file_is_sent_without_its_excluded_tensors(
    bucket: Bucket, deliver: Deliver, tmp_path: Path, suffix: str, update_kind: str
) -> None:
    """The client's file stays as it is; the file that is fetched has its excluded tensors."""
    client = member(bucket, model_with_heads(update_kind=update_kind))
    folder = tmp_path / "client"
    folder.mkdir()
    client.fetch_file(folder / "base")
    trained = {name: np.asarray(tensor + tensor.dtype.type(2)) for name, tensor in INITIAL.items()}
    own = folder / f"mine.{suffix}"
    if suffix == "npz":
        np.savez_compressed(own, **trained)  # type: ignore[arg-type]
    else:
        safetensors.numpy.save_file(trained, own)
    before = own.read_bytes()
    key = client.upload_file(own, num_examples=1)
    assert decode(get(key), key).keys() == {"body.w"}
    assert own.read_bytes() == before
    deliver()
    path = client.fetch_file(folder / "next", personal=own)
    fetched = safetensors.numpy.load_file(path)
    for name, tensor in trained.items():
        np.testing.assert_array_equal(fetched[name], tensor)
    assert sorted(each.name for each in folder.iterdir()) == sorted(
        ["base.safetensors", own.name, "next.safetensors"]
    )
    assert path.stat().st_mode == (folder / "base.safetensors").stat().st_mode


def test_other_tensors_may_not_be_missing(bucket: Bucket) -> None:
    """A tensor that the model does not exclude is missed before anything is sent."""
    client = member(bucket, model_with_heads())
    weights = client.fetch()
    del weights["body.w"]
    with pytest.raises(BadWeights, match=r"tensor .body\.w. .* is missing"):
        client.upload(weights, num_examples=1)


def test_frozen_tensors_are_named_by_the_pointer(bucket: Bucket) -> None:
    """`is_frozen` says which tensors a round leaves alone."""
    schedule = {"odd": ["body.*"], "even": ["*.b"]}
    model = federation(1, initial=INITIAL, furthest_base_agg=1, freeze=schedule)
    latest = member(bucket, model).latest()
    assert [name for name in INITIAL if latest.is_frozen(name)] == ["head.b"]


def test_a_policy_that_this_version_does_not_know_is_refused(bucket: Bucket) -> None:
    """A client does not train for a model whose policies it cannot follow."""
    pointer = get(f"aggregates/{model_with_heads().pk}/latest.json")
    with pytest.raises(BadDownload, match="unknown tensor policy 'hide'"):
        parse_pointer(pointer.replace(b'"exclude"', b'"hide"'), "latest.json")


@pytest.mark.parametrize("update_kind", ["weights", "differences"])
def test_an_update_that_changes_a_frozen_tensor_is_not_sent(
    bucket: Bucket, deliver: Deliver, update_kind: str
) -> None:
    """The client refuses what the round would reject; an update that trains the others is accepted."""
    schedule = {"odd": ["body.*"], "even": ["head.*"]}
    model = federation(
        1, initial=INITIAL, furthest_base_agg=1, freeze=schedule, update_kind=update_kind
    )
    client = member(bucket, model)
    for number, trained in enumerate(["body.w", "head.w", "body.w"]):
        weights = client.fetch()
        for name in INITIAL:
            weights[name] += weights[name].dtype.type(1)
        with pytest.raises(BadWeights, match="is frozen until the next aggregate"):
            client.upload(weights, num_examples=1)
        weights = client.fetch()
        weights[trained] += np.float32(1)
        client.upload(weights, num_examples=1)
        deliver()
        assert client.latest().number == number + 1
    client.fetch()
    steps = {name: np.ones_like(tensor) for name, tensor in INITIAL.items()}
    with pytest.raises(BadWeights, match="is frozen until the next aggregate"):
        client.upload(steps, num_examples=1, are_differences=True)


def test_personal_tensors_may_have_another_shape(bucket: Bucket, deliver: Deliver) -> None:
    """A client with other classes than the model's has a head of another size."""
    client = member(bucket, model_with_heads())
    weights = client.fetch() | {"head.w": np.zeros(9, np.float32)}
    client.upload(weights, num_examples=1)
    deliver()
    assert client.latest().number == 1
    assert client.fetch()["head.w"].shape == (9,)
