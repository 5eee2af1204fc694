"""Creates federated models, clients and uploads for tests."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from models_app.models import Client, FederatedModel, ModelArtifact, ModelUpdate
from tests.untyped import default_storage

_numbers = itertools.count(1)

#: The values of a small model: two layers, one of them a bias.
SMALL = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}


def client_id(number: int) -> uuid.UUID:
    """Return a client's id; ids are in claim order of their numbers."""
    return uuid.UUID(int=0x11111111_1111_4111_8111_000000000000 + number)


def make_model(clients: int = 3, *, initial: Any = None, **fields: Any) -> FederatedModel:
    """Create a federated model with a number of member clients."""
    model = FederatedModel.objects.create(name=f"model {next(_numbers)}", **fields)
    members = [Client.objects.get_or_create(pk=client_id(n))[0] for n in range(1, clients + 1)]
    model.clients.set(members)
    if initial is not None:
        key = f"artifacts/{model.pk}/initial-{uuid.uuid4().hex}.safetensors"
        put(key, safetensors.numpy.save(initial))
        model.current_artifact = ModelArtifact.objects.create(
            federated_model=model, values=key, version="initial"
        )
        model.save()
    return model


def filled(value: float, expected_layout: Mapping[str, Any] = SMALL) -> dict[str, Any]:
    """Return tensors with the given layout and one value everywhere."""
    return {name: np.full_like(tensor, value) for name, tensor in expected_layout.items()}


def put(key: str | None, body: bytes, metadata: Mapping[str, str] | None = None) -> str:
    """Store an object in the bucket, as a client does, and return its ETag."""
    client, bucket = _bucket()
    answer = client.put_object(Bucket=bucket, Key=key, Body=body, Metadata=dict(metadata or {}))
    return str(answer["ETag"].strip('"'))


def get(key: str | None) -> bytes:
    """Return the bytes of an object in the bucket."""
    client, bucket = _bucket()
    return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())


def _bucket() -> tuple[Any, str]:
    """Return boto3's S3 client and the name of the bucket."""
    return default_storage.connection.meta.client, default_storage.bucket_name


def upload(
    model: FederatedModel,
    client: int,
    tensors: Mapping[str, Any] | bytes,
    *,
    name: str = "",
    num_examples: Any = 1,
    base: Any = None,
) -> dict[str, Any]:
    """Store an update as a client does, and return the record of S3's notification."""
    body = tensors if isinstance(tensors, bytes) else safetensors.numpy.save(dict(tensors))
    name = name or f"update-{next(_numbers)}.safetensors"
    key = f"updates/{model.pk}/{client_id(client)}/{name}"
    metadata = {"num-examples": str(num_examples)}
    if base is not None:
        metadata["base-aggregate"] = str(getattr(base, "pk", base))
    return s3_record(key, put(key, body, metadata), len(body))


def s3_record(key: str, etag: str, size: int, bucket: str = "federation") -> dict[str, Any]:
    """Return a record of an S3 notification."""
    from urllib.parse import quote_plus

    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": "2026-11-24T08:30:00.123Z",
        "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "updates",
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": quote_plus(key, safe="/"), "size": size, "eTag": etag},
        },
    }


def sqs_event(*bodies: Any) -> dict[str, Any]:
    """Return a batch of messages as the event source mapping delivers it."""
    import json

    records = [
        {
            "messageId": f"message-{number}",
            "receiptHandle": "handle",
            "body": body if isinstance(body, str) else json.dumps(body),
            "attributes": {"ApproximateReceiveCount": "1"},
            "messageAttributes": {},
            "md5OfBody": "",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:federation-events",
            "awsRegion": "eu-central-1",
        }
        for number, body in enumerate(bodies, 1)
    ]
    return {"Records": records}


def ready_update(
    model: FederatedModel, client: int, tensors: Mapping[str, Any] | bytes, **fields: Any
) -> ModelUpdate:
    """Store and register an update without intake."""
    body = tensors if isinstance(tensors, bytes) else safetensors.numpy.save(dict(tensors))
    suffix = fields.pop("suffix", "safetensors")
    key = f"updates/{model.pk}/{client_id(client)}/registered-{next(_numbers)}.{suffix}"
    put(key, body)
    return ModelUpdate.objects.create(
        federated_model=model, client_id=client_id(client), data=key, **fields
    )


def statuses(updates: Iterable[ModelUpdate]) -> list[str]:
    """Return the names of the updates' current statuses in the database."""
    found = ModelUpdate.objects.in_bulk([update.pk for update in updates])
    return [ModelUpdate.Status(found[update.pk].status).name for update in updates]
