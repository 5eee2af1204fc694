"""Audits read the objects that the round read."""

from __future__ import annotations

import pytest

from connectors import application
from connectors.usecases.verify import AuditMismatch, verify
from models_app.models import FederatedModel, ModelUpdate
from tests.factories import filled, make_model, upload
from tests.test_lambda_handler import invoke
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("database", "cloud")


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
