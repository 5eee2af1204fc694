"""Private models for tests, and the key with which their seeds are encrypted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.test import override_settings

from aggregation.privacy.accounting import epsilon
from connectors.storage.seeds import create_key_file
from models_app.models import FederatedModel
from models_app.privacy import UNIT
from tests.factories import filled, make_model, upload
from tests.untyped import default_storage

#: What moto takes for the ARN of a KMS key.
KMS_KEY = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-4333-8444-555555555555"

#: Settings under which a round is charged 1 to mu squared.
PRIVACY = {
    "clip_norm": 1.0,
    "noise_multiplier": 1.0,
    "cohort": 4,
    "delta": 1e-5,
    "max_epsilon": 20.0,
}


@contextmanager
def key_file(folder: Path) -> Iterator[str]:
    """Yield the path of a new key file, which PRIVACY_KEY names meanwhile."""
    path = folder / "privacy.key"
    create_key_file(path)
    with override_settings(PRIVACY_KEY=str(path)):
        yield str(path)


def private_model(clients: int = 4, *, initial: Any = None, **fields: Any) -> FederatedModel:
    """Create a private model; ``privacy`` are settings that differ from `PRIVACY`."""
    privacy = {**PRIVACY, **fields.pop("privacy", {})}
    weights = initial if initial is not None else filled(0.0)
    model = make_model(clients, initial=weights, aggregator="unweighted_mean", **fields)
    model.differential_privacy = privacy
    model.save()
    return model


def uploads(model: FederatedModel, *clients: int, value: float = 1.0) -> dict[str, Any]:
    """Return the event of an upload of each of these clients."""
    return {"Records": [upload(model, client, filled(value)) for client in clients]}


def account(model: FederatedModel) -> float:
    """Return the mu squared that the rounds of a model were charged."""
    return UNIT * sum(model.rounds.values_list("privacy_charge", flat=True))


def epsilon_of(model: FederatedModel) -> float:
    """Return the epsilon that the rounds of a model were charged."""
    return epsilon(account(model), PRIVACY["delta"])


def readable_results(model: FederatedModel) -> dict[str, str]:
    """Return the digests of all complete results in the bucket by key, of whichever attempt."""
    client, bucket = default_storage.connection.meta.client, default_storage.bucket_name
    prefix = f"aggregates/{model.pk}/round-"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
    bodies = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    return {key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}
