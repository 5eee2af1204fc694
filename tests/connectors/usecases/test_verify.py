"""Audits read the objects that the round read."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from connectors import application
from connectors.usecases.comparison import AuditMismatch
from connectors.usecases.verify import verify
from models_app.models import FederatedModel, ModelUpdate
from tests.factories import filled, get, make_model, upload
from tests.test_lambda_handler import invoke
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("database", "cloud")


def test_a_round_with_every_policy_is_verified() -> None:
    """Updates without excluded tensors pass intake; the aggregate is recomputed under the policies."""
    tensors = {
        "w": np.ones((2, 3), np.float32),
        "bn.running_var": np.ones(3, np.float32),
        "bn.num_batches_tracked": np.asarray(7),
        "head.w": np.full(4, 5, np.float32),
        "lora_A": np.full(4, 6, np.float32),
    }
    model = make_model(
        3,
        initial=tensors,
        aggregator="multi_krum",
        aggregator_args={"f": 0},
        requirement="all_clients",
        furthest_base_agg=1,
        tensor_policies=[["head.*", "exclude"]],
        freeze={"odd": ["w"], "even": ["lora_*"]},
    )
    sent = {name: tensor for name, tensor in tensors.items() if name != "head.w"}
    updates = [
        {**sent, "w": tensors["w"] * n, "bn.running_var": tensors["bn.running_var"] * n}
        for n in (1, 2, 6)
    ]
    records = [upload(model, n, each) for n, each in enumerate(updates, 1)]
    invoke({"Records": records})
    aggregate = model.aggregates.get()
    stored = safetensors.numpy.load(get(aggregate.result.name))
    np.testing.assert_array_equal(stored["w"], tensors["w"] * 3)
    np.testing.assert_array_equal(stored["bn.running_var"], [2, 2, 2])
    for name in ("bn.num_batches_tracked", "head.w", "lora_A"):
        np.testing.assert_array_equal(stored[name], tensors[name])
    assert "bytes follow from 3 updates" in verify(application.weights(), aggregate)
    records = [
        upload(model, n, {**stored, "w": each["w"]}, base=aggregate)
        for n, each in enumerate(updates, 1)
    ]
    invoke({"Records": records})
    rejected = model.model_updates.filter(status=ModelUpdate.Status.INVALID)
    reasons = set(rejected.values_list("rejection_reason", flat=True))
    assert reasons == {
        f"{n}.0 instead of 3.0: the tensor is frozen in this round, in tensor 'w' at [0, 0]"
        for n in (1, 2, 6)
    }


def published_twice_under_one_key() -> FederatedModel:
    """Publish two rounds from uploads of one client under the same key."""
    model = make_model(1, initial=filled(0.0))
    for value in (1.0, 2.0):
        record = upload(model, 1, filled(value), name="daily.safetensors")
        invoke({"Records": [record]})
    return model


def test_an_overwritten_update_is_audited_in_its_own_version() -> None:
    """A client that uses one key every day does not make earlier aggregates unverifiable."""
    model = published_twice_under_one_key()
    model_data = application.weights()
    for aggregate in model.aggregates.order_by("number"):
        assert "bytes follow from 1 updates" in verify(model_data, aggregate)


def test_an_expired_version_is_named() -> None:
    """Once the version is gone, the key's present object is compared, and the update is named."""
    model = published_twice_under_one_key()
    first = model.model_updates.earliest("pk")
    default_storage.connection.meta.client.delete_object(
        Bucket=default_storage.bucket_name, Key=first.data.name, VersionId=first.version_id
    )
    aggregate = model.aggregates.get(number=1)
    model_data = application.weights()
    with pytest.raises(AuditMismatch, match=rf"updates \[{first.pk}\] are not"):
        verify(model_data, aggregate)


def test_a_copy_of_the_bucket_can_be_audited() -> None:
    """In a copy no version has its old id; the bytes decide."""
    model = published_twice_under_one_key()
    ModelUpdate.objects.update(version_id="of-another-bucket")
    model_data = application.weights()
    assert verify(model_data, model.aggregates.get(number=2))
