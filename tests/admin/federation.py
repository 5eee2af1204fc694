"""A federation with a history worth looking at: every part of it came by the function's own door."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from django.contrib.auth.models import Permission, User

from models_app.models import Client, FederatedModel, ModelAggregate
from tests.factories import SMALL, filled, make_model, put, s3_record
from tests.test_lambda_handler import invoke

CLIENTS, ROUNDS = 6, 5
#: One client pushes harder and harder; one sends NaN in one round, in which another sends no tensors.
ATTACKER, BROKEN, BROKEN_IN = 4, 2, 3
PASSWORD = "secret"


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What the tests look at: ids of models, and names of users."""

    model: int
    empty: int
    paused: int
    attacker: str
    operator: str = "operator"
    viewer: str = "viewer"
    developer: str = "developer"


def build() -> Federation:
    """Rounds with accepted and rejected updates, scores, a round without a result, and who may look."""
    rng = np.random.default_rng(7)
    clients = [
        Client.objects.create(uuid=uuid.UUID(bytes=rng.bytes(16), version=4))
        for _ in range(CLIENTS)
    ]
    model = _model("Chest X-rays, six hospitals", clients, aggregator="norm_filtered_mean")
    for number in range(1, ROUNDS + 1):
        _round(model, clients, number, rng)
        _score(model, clients[:2], number)
    _upload(model, {client: filled(np.nan) for client in clients})  # None of them can be used.
    federation = Federation(
        model=model.pk,
        paused=_paused(clients[:3], rng).pk,
        empty=_model("Nothing yet", clients).pk,
        attacker=str(clients[ATTACKER].uuid),
    )
    _users(federation)
    return federation


def _model(name: str, clients: Sequence[Client], **fields: Any) -> FederatedModel:
    settings = {
        "requirement": "require_fraction",
        "requirement_args": [0.6],
        "score_metric": "accuracy",
    }
    model = make_model(0, initial=filled(0.0), **{**settings, **fields})
    model.name = name
    model.save()
    model.clients.set(clients)
    return model


def _trained(around: float, rng: np.random.Generator, step: float = 1.0) -> dict[str, Any]:
    return {
        name: (around + step * rng.normal(0.1, 0.02, tensor.shape)).astype(np.float32)
        for name, tensor in SMALL.items()
    }


def _round(
    model: FederatedModel, clients: Sequence[Client], number: int, rng: np.random.Generator
) -> None:
    updates: dict[Client, Mapping[str, Any] | bytes] = {}
    for index, client in enumerate(clients):
        step = 2.0**number if index == ATTACKER and number > 2 else 1.0
        updates[client] = _trained(0.1 * (number - 1), rng, step)
    if number == BROKEN_IN:
        updates[clients[BROKEN]] = filled(np.nan)
        updates[clients[0]] = b"no tensors at all"
    _upload(model, updates)


def _paused(clients: Sequence[Client], rng: np.random.Generator) -> FederatedModel:
    """A round, and updates that wait for the model to be resumed."""
    model = _model("Keyboard suggestions", clients)
    _round(model, clients, 1, rng)
    FederatedModel.objects.filter(pk=model.pk).update(
        allow_aggregation=False, pause_reason="data protection review"
    )
    _round(model, clients, 2, rng)
    return model


def _upload(model: FederatedModel, updates: Mapping[Client, Mapping[str, Any] | bytes]) -> None:
    latest = model.aggregates.order_by("-number").first()
    metadata = {"num-examples": "100", **({"base-aggregate": str(latest.pk)} if latest else {})}
    records = []
    for client, tensors in updates.items():
        body = tensors if isinstance(tensors, bytes) else safetensors.numpy.save(dict(tensors))
        key = f"updates/{model.pk}/{client.pk}/{uuid.uuid4().hex}.safetensors"
        records.append(s3_record(key, put(key, body, metadata), len(body)))
    invoke({"Records": records})


def _score(model: FederatedModel, clients: Sequence[Client], number: int) -> None:
    """Accuracy rises, and falls a little where the attack is strongest."""
    aggregate = ModelAggregate.objects.get(federated_model=model, number=number)
    records = []
    for client, better in zip(clients, (0.0, 0.03), strict=True):
        accuracy = 0.95 - 0.5 / number + better - (0.04 if number == ROUNDS else 0.0)
        body = json.dumps({"num_examples": 120, "accuracy": accuracy}).encode()
        key = f"scores/{model.pk}/{client.pk}/{aggregate.pk}.json"
        records.append(s3_record(key, put(key, body), len(body)))
    invoke({"Records": records})


def _users(federation: Federation) -> None:
    allowed = {
        federation.operator: ("view", "change"),
        federation.viewer: ("view",),
        federation.developer: (),
    }
    for name, permissions in allowed.items():
        user = User.objects.create_user(name, password=PASSWORD, is_staff=True)
        names = [f"{each}_federatedmodel" for each in permissions]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
    FederatedModel.objects.filter(pk=federation.empty).update(
        developer=User.objects.get(username=federation.developer)
    )
