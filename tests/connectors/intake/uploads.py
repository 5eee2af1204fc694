"""Helpers for the tests of intake: uploads as clients make them, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.numpy

from connectors.intake.updates import UpdateIntake
from connectors.intake.upload import Upload
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate
from tests import factories
from tests.factories import SMALL, client_id
from tests.untyped import default_storage

Status = ModelUpdate.Status

#: An update that has the layout of the small model.
GOOD = safetensors.numpy.save(dict(SMALL))


def uploaded(
    model: FederatedModel,
    client: int = 1,
    body: Any = GOOD,
    *,
    name: str = "update.safetensors",
    metadata: Mapping[str, str] | None = None,
    **write: Any,
) -> Upload:
    """Store an update as a client does, and return the upload that S3 announces."""
    key = f"updates/{model.pk}/{client_id(client)}/{name}"
    body = body if isinstance(body, bytes) else safetensors.numpy.save(dict(body))
    stored = default_storage.connection.meta.client.put_object(
        Bucket=default_storage.bucket_name, Key=key, Body=body, Metadata=metadata or {}, **write
    )
    return Upload(
        bucket="federation",
        key=key,
        etag=stored["ETag"].strip('"'),
        version=stored["VersionId"],
        size=len(body),
    )


def rejection_of(intake: UpdateIntake, upload: Upload) -> str:
    """Register an upload, and return the reason for which it was rejected and recorded."""
    before = ModelUpdate.objects.count()
    result = intake.register(upload)
    update = ModelUpdate.objects.get(data=upload.key)
    assert ModelUpdate.objects.count() == before + 1
    assert update.status == Status.INVALID
    assert update.rejection_reason == result.reason != ""
    assert result.reason.isascii()
    assert result.reason.isprintable()
    return result.reason


def accepted(intake: UpdateIntake, upload: Upload) -> ModelUpdate:
    """Register an upload that must be accepted, and return the update."""
    result = intake.register(upload)
    assert result.reason == ""
    update = ModelUpdate.objects.get(data=upload.key)
    assert update.status == Status.PENDING
    return update


def new_aggregate(model: FederatedModel, parent: ModelAggregate | None = None) -> ModelAggregate:
    """Create the next aggregate of a model, with an object."""
    number = parent.number + 1 if parent else 1
    key = f"aggregates/{model.pk}/{number}.safetensors"
    factories.put(key, GOOD)
    return ModelAggregate.objects.create(
        federated_model=model, parent=parent, number=number, result=key
    )
