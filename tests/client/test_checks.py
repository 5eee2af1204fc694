"""The client refuses before sending what intake would refuse, in the same words."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from aggregation.errors import UpdateRejected
from aggregation.formats import Spool, open_weights, peek_layout
from aggregation.sources import BytesSource
from federated_client import BadWeights, Bucket, Client, Latest, limits
from federated_client.checks import check_base, check_file, check_size
from federated_client.weights import decode_with_layout, encode
from local.cloud import Cloud
from models_app.models import ModelUpdate
from tests.client.members import Deliver, StorageOf, federation, member
from tests.factories import SMALL, client_id, filled, get, upload
from tests.hostile.corpus import CASES
from tests.test_lambda_handler import invoke

LATEST = Latest(aggregate_id=5, number=5, key="aggregates/1/x.npz", etag="e", published_on="2026")


#: Whether this one is rejected depends on the disk of the function, which a client does not know.
BOMB = "npz a bomb"


#: These take ten seconds for both, and the tests of the aggregator read them, too.
SLOW = {"json four million lists", "safetensors a million lists"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - {BOMB} - SLOW))
def test_a_hostile_file_is_refused_in_the_words_of_intake(name: str) -> None:
    """For each file of the corpus, client and aggregator give the same reason."""
    case = CASES[name]
    body = case.make()
    with Spool() as spool, pytest.raises(UpdateRejected) as rejection:
        open_weights(BytesSource(body), case.format, spool=spool)
    with pytest.raises(BadWeights) as refusal:
        check_file(io.BytesIO(body), f"update.{case.format}", None)
    assert str(refusal.value).startswith(str(rejection.value))


class Untouched:
    """A storage that nothing may be sent to."""

    def put(self, *arguments: Any) -> str:
        raise AssertionError("the update was sent")


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("model.pt", b"PK\3\4", "'model.pt' is in none of the formats .safetensors, .npz, .json"),
        ("weights", b"", "'weights' is in none of the formats"),
        ("empty.npz", b"", "0 bytes are too few"),
        ("empty.safetensors", b"", "0 bytes are too few"),
        ("empty.json", b"", "ends before its list of layers"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("a.safetensors", safetensors.numpy.save({}), "there is no tensor to send"),
        ("a.safetensors", safetensors.numpy.save(filled(np.nan)), r"nan in tensor '[bw]' at \[0"),
        ("a.safetensors", safetensors.numpy.save(filled(-np.inf)), r"-inf in tensor '[bw]'"),
    ],
)
def test_a_file_that_would_be_rejected_is_not_sent(
    tmp_path: Path, name: str, body: bytes, reason: str
) -> None:
    """A file that cannot be an update is refused before anything is asked of storage."""
    (tmp_path / name).write_bytes(body)
    me = Client(Untouched(), model_id=1, client_id=client_id(1))  # type: ignore[arg-type]
    with pytest.raises(BadWeights, match=reason):
        me.upload_file(tmp_path / name, num_examples=1)


@pytest.mark.parametrize("name", ["missing.npz", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """A missing file and a folder are errors with the path."""
    me = Client(Untouched(), model_id=1, client_id=client_id(1))  # type: ignore[arg-type]
    with pytest.raises(BadWeights, match="cannot be read: "):
        me.upload_file(tmp_path / name, num_examples=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ml_dtypes.bfloat16])
def test_a_value_that_is_not_finite_is_found_anywhere(value: float, dtype: Any) -> None:
    """NaN and infinity are found in each dtype, wherever they are, also beyond the first block."""
    tensor = np.zeros((3, 100_003), dtype)
    tensor[2, 100_000] = value
    me = Client(Untouched(), model_id=1, client_id=client_id(1))  # type: ignore[arg-type]
    with pytest.raises(
        BadWeights, match=r"in tensor 'w' at \[2, 100000\]: did the training diverge"
    ):
        me.upload({"a": np.zeros(3, dtype), "w": tensor}, num_examples=1)


WRONG: list[Mapping[str, Any]] = [
    {"w": SMALL["w"]},
    {**SMALL, "c": SMALL["b"]},
    {**SMALL, "w": SMALL["w"].T},
    {**SMALL, "w": SMALL["w"].reshape(1, 2, 3)},
    {**SMALL, "b": np.zeros(3)},
    {**SMALL, "b": np.zeros(3, np.int32)},
    {**SMALL, "w": filled(np.nan)["w"]},
    {**SMALL, "b": np.zeros((), np.float32)},
]


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("fetched", [True, False], ids=["fetched", "not fetched"])
def test_weights_of_another_layout_are_refused_as_the_aggregator_does(
    cloud: Cloud, bucket: Bucket, fetched: bool
) -> None:
    """The client's reason begins with the one that the aggregator gives for the same update."""
    model = federation(1)
    client = member(bucket, model)
    if fetched:
        client.fetch()
    for weights in WRONG:
        with pytest.raises(BadWeights) as refusal:
            client.upload(weights, num_examples=1)
        sent = {name: np.ascontiguousarray(t).reshape(t.shape) for name, t in weights.items()}
        invoke({"Records": [upload(model, 1, sent)]})
        update = ModelUpdate.objects.latest("pk")
        assert update.rejection_reason
        assert str(refusal.value).startswith(update.rejection_reason)
    found = cloud.client("s3").list_objects_v2(Bucket=cloud.bucket, Prefix="updates/")
    assert len(found["Contents"]) == len(WRONG)


def test_an_update_that_is_too_large_is_refused() -> None:
    """The limit of the pointer holds before anything is sent."""
    latest = Latest(**{**vars(LATEST), "max_update_bytes": 100})
    check_size(100, latest)
    check_size(101, LATEST)
    with pytest.raises(BadWeights, match="101 bytes, at most 100 are accepted"):
        check_size(101, latest)


def test_an_update_from_an_old_base_is_refused() -> None:
    """A base further back than the model allows is refused, with both numbers."""
    latest = Latest(**{**vars(LATEST), "furthest_base_agg": 2})
    check_base(Latest(**{**vars(LATEST), "number": 4}), latest)
    check_base(None, LATEST)
    for base, number in ((Latest(**{**vars(LATEST), "number": 3}), 3), (None, 0)):
        reason = f"based on aggregate number {number}; the latest is 5 and furthest_base_agg is 2"
        with pytest.raises(BadWeights, match=reason):
            check_base(base, latest)


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_passes_the_checks_is_accepted(bucket: Bucket, deliver: Deliver) -> None:
    """The bytes that were checked are the bytes in storage, and intake accepts them."""
    model = federation(1)
    client = member(bucket, model)
    client.fetch()
    key = client.upload(dict(reversed(filled(2.0).items())), num_examples=1)
    assert peek_layout(BytesSource(get(key)), "safetensors").tensors
    deliver()
    assert model.model_updates.get().rejection_reason == ""


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_layout_of_a_long_header_is_read_by_ranges(
    storage_of: StorageOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has fetched nothing learns the layout without reading the weights."""
    monkeypatch.setattr(limits, "HEAD_BYTES", 16)
    model = federation(1)
    client = member(storage_of(model, 1), model)
    with pytest.raises(BadWeights, match=r"'b' .* is missing"):
        client.upload({"w": SMALL["w"]}, num_examples=1)
    assert client.upload(filled(1.0), num_examples=1)


def test_a_model_of_many_tensors_takes_updates() -> None:
    """Limits follow from the model: 36,864 small tensors, a mixture of experts' LoRA, are accepted."""
    name = "update.safetensors"
    file = encode({f"model.layers.{n}.experts.lora_A.weight": np.zeros(2) for n in range(36_864)})
    check_file(file, name, None, any_size=True)
    with pytest.raises(BadWeights, match="safetensors header of"):
        check_file(file, name, None)
    check_file(file, name, decode_with_layout(file.getvalue(), name)[1])
