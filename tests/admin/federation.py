"""A federation with a history worth looking at: every part of it came through the function or a command."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import numpy as np
import safetensors.numpy
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.utils import timezone

from models_app.models import AggregationRound, Client, FederatedModel, ModelAggregate, ModelUpdate
from tests.factories import SMALL, filled, make_model, put, s3_record
from tests.test_lambda_handler import invoke

NAMES = (
    "Aarhus University Hospital",
    "Bergen Hospital",
    "Clínica Lisboa",
    "Hôpital Saint-Louis",
    "Lakeside Clinic",
    "Oslo Radiology Network",
    "St. Mary's, London",
    "Uppsala Imaging Centre",
)
ROUNDS = 10
#: One client pushes harder and harder; one sends NaN in the last round, and another no tensors earlier.
ATTACKER, BROKEN, CARELESS, CARELESS_IN = 4, 1, 6, 3
#: After these rounds, what an operator did.
VERSIONS = {4: "1.0.0", 7: "1.1.0"}
SETTINGS_AFTER, ROLLED_BACK_AFTER, ROLLED_BACK_TO = 5, 9, 7
#: Rounds are so far apart, and the last was yesterday.
INTERVAL = timedelta(hours=7)
PASSWORD = "secret"


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What the tests look at: ids of models, and names of users and clients."""

    model: int
    empty: int
    paused: int
    running: int
    attacker: str = NAMES[ATTACKER]
    broken: str = NAMES[BROKEN]
    operator: str = "operator"
    viewer: str = "viewer"
    developer: str = "developer"


def build() -> Federation:
    """Rounds with accepted and rejected updates, scores, versions, a roll-back, and who may look."""
    rng = np.random.default_rng(7)
    clients = [
        Client.objects.create(uuid=uuid.UUID(bytes=rng.bytes(16), version=4), name=name)
        for name in NAMES
    ]
    model = _model("Chest X-rays", clients, aggregator="norm_filtered_mean")
    for number in range(1, ROUNDS + 1):
        _round(model, clients, number, rng)
        _score(model, clients[:2], number, rng)
        _operate(model, number)
    _upload(model, {client: filled(np.nan) for client in clients[:5]})  # None of them can be used.
    _upload(model, {client: _trained(1.0, rng) for client in clients[5:]})
    _spread_over_days(model)
    federation = Federation(
        model=model.pk,
        paused=_paused(clients[:3], rng).pk,
        empty=_model("Nothing yet", clients).pk,
        running=_running(clients[3:], rng).pk,
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
        step = min(2.0**number, 40.0) if index == ATTACKER and number > 2 else 1.0
        updates[client] = _trained(0.1 * (number - 1), rng, step)
    if number == ROUNDS:
        updates[clients[BROKEN]] = filled(np.nan)
    if number == CARELESS_IN:
        updates[clients[CARELESS]] = b"no tensors at all"
    if number == SETTINGS_AFTER:
        del updates[clients[0]]
    _upload(model, updates)


def _operate(model: FederatedModel, number: int) -> None:
    """Do what an operator does between rounds."""
    pk = str(model.pk)
    quiet: Any = {"verbosity": 0, "stdout": StringIO()}
    latest = model.aggregates.get(number=number)
    if number in VERSIONS:
        call_command("publish", str(latest.pk), f"--version={VERSIONS[number]}", **quiet)
    if number == SETTINGS_AFTER:
        call_command("set_model", pk, "--rule-arg", "threshold=2.5", **quiet)
    if number == ROLLED_BACK_AFTER:
        original = model.aggregates.get(number=ROLLED_BACK_TO)
        call_command("rollback", str(original.pk), **quiet)


def _spread_over_days(model: FederatedModel) -> None:
    """Move what happened into the past, so that the last round was yesterday."""
    rounds = list(model.rounds.order_by("pk"))
    end = timezone.now() - timedelta(days=1)
    for index, made_by in enumerate(rounds):
        began = end - INTERVAL * (len(rounds) - 1 - index)
        took = timedelta(seconds=1.2 + (index * 7 % 5) * 0.4 + (9 if index == 6 else 0))
        times: dict[str, datetime] = {"started_on": began, "finished_on": began + took}
        AggregationRound.objects.filter(pk=made_by.pk).update(**times)
        ModelAggregate.objects.filter(round=made_by).update(created_on=began + took)
        for waited, update in enumerate(made_by.updates.order_by("-pk"), 1):
            uploaded = began - timedelta(minutes=9 * waited)
            ModelUpdate.objects.filter(pk=update.pk).update(
                uploaded_on=uploaded, created_on=uploaded + timedelta(seconds=2)
            )


def _paused(clients: Sequence[Client], rng: np.random.Generator) -> FederatedModel:
    """A round, and updates that wait for the model to be resumed."""
    model = _model("Keyboard suggestions", clients)
    _upload(model, {client: _trained(0.0, rng) for client in clients})
    FederatedModel.objects.filter(pk=model.pk).update(
        allow_aggregation=False, pause_reason="data protection review"
    )
    _upload(model, {client: _trained(0.1, rng) for client in clients})
    return model


def _running(clients: Sequence[Client], rng: np.random.Generator) -> FederatedModel:
    """A round that runs, with the updates of all clients."""
    model = _model("Fraud scores", clients)
    _upload(model, {client: _trained(0.0, rng) for client in clients})
    now = timezone.now()
    AggregationRound.objects.create(
        federated_model=model,
        number=2,
        parent=model.aggregates.get(),
        started_on=now - timedelta(seconds=20),
        lease_expires_at=now + timedelta(hours=1),
    )
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


def _score(
    model: FederatedModel, clients: Sequence[Client], number: int, rng: np.random.Generator
) -> None:
    """Accuracy rises, and falls before the roll-back."""
    aggregate = model.aggregates.order_by("-number")[0]
    records = []
    for client, better in zip(clients, (0.0, 0.03), strict=True):
        accuracy = 0.95 - 0.5 / number + better + rng.normal(0, 0.006)
        accuracy -= 0.05 * (number in (8, 9))
        body = json.dumps({"num_examples": 120, "accuracy": round(accuracy, 4)}).encode()
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
    User.objects.create_superuser("root", password=PASSWORD)
    FederatedModel.objects.filter(pk=federation.empty).update(
        developer=User.objects.get(username=federation.developer)
    )
