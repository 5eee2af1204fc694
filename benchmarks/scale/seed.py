"""Fill a PostgreSQL database with a large federation, in one statement for each table.

Import it once Django is booted.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import Field, Model
from django.utils import timezone

from models_app.models import (
    AggregationRound,
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
    ModelUpdate,
)

#: Clients report scores of this many of the latest aggregates.
SCORED = 20

#: One of so many updates is rejected at intake, another one in its round.
REJECTED = 20

#: Further models, with the first more than the home page shows, and the rounds of each.
MODELS, MODEL_ROUNDS = 24, 30

#: The id of client n, in SQL.
CLIENT_ID = "('11111111-1111-4111-8111-' || lpad({}::text, 12, '0'))::uuid"


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a federation: every client sends an update in every round."""

    clients: int
    rounds: int


def seed(size: Size) -> FederatedModel:
    """Create a model with its whole history; some of its updates are ready for the next round."""
    model = FederatedModel.objects.create(
        name="digits", aggregator="norm_filtered_mean", requirement="all_clients"
    )
    clients, rounds = (
        f"generate_series(1, {size.clients}) AS c",
        f"generate_series(1, {size.rounds}) AS r",
    )
    start = f"now() - interval '1 hour' * ({size.rounds} - r)"
    _insert(Client, {"uuid": CLIENT_ID.format("c"), "name": "'client ' || c"}, clients)
    with connection.cursor() as cursor:
        through = FederatedModel.clients.through._meta.db_table
        cursor.execute(
            f'INSERT INTO "{through}" (federatedmodel_id, client_id) '
            f"SELECT {model.pk}, {CLIENT_ID.format('c')} FROM {clients}"
        )
    _insert_rounds(model, size, rounds, start)
    for number in range(MODELS):
        _insert_model(number, size, start)
    _insert_updates(model, clients, rounds, start)
    score = {
        "aggregate_id": "r",
        "client_id": CLIENT_ID.format("c"),
        "validation_results": """json_build_object('accuracy', 0.5 + r * 0.001, 'num_examples', c)""",
    }
    latest = f"generate_series({max(1, size.rounds - SCORED + 1)}, {size.rounds}) AS r"
    _insert(ClientAggregateScore, score, f"{latest}, {clients}")
    artifact = ModelArtifact.objects.create(
        federated_model=model, values="aggregates/1/1.safetensors", version="1.0.0"
    )
    FederatedModel.objects.filter(pk=model.pk).update(current_artifact=artifact)
    _reset_sequences()
    return model


def _insert_model(number: int, size: Size, start: str) -> None:
    """Insert a further model with a short history; all clients are members, and send it nothing."""
    model = FederatedModel.objects.create(name=f"model {number}", score_metric="accuracy")
    before = size.rounds + number * MODEL_ROUNDS
    _insert_rounds(model, size, f"generate_series(1, {MODEL_ROUNDS}) AS r", start, before)
    with connection.cursor() as cursor:
        cursor.execute(
            f'INSERT INTO "{FederatedModel.clients.through._meta.db_table}" '
            f'(federatedmodel_id, client_id) SELECT {model.pk}, uuid FROM "{Client._meta.db_table}"'
        )


def _insert_rounds(
    model: FederatedModel, size: Size, rounds: str, start: str, before: int = 0
) -> None:
    """Insert a published round and its aggregate for each number; their ids follow ``before``."""
    parent = f"CASE WHEN r > 1 THEN r - 1 + {before} END"
    aggregate = {
        "id": f"r + {before}",
        "federated_model_id": str(model.pk),
        "parent_id": parent,
        "number": "r",
        "result": f"'aggregates/{model.pk}/' || r || '.safetensors'",
        "validation_score": "CASE WHEN random() < 0.9 THEN 0.5 + r * 0.001 END",
        "created_on": start,
    }
    _insert(ModelAggregate, aggregate, rounds)
    made_by = {
        "id": f"r + {before}",
        "federated_model_id": str(model.pk),
        "number": "r",
        "parent_id": parent,
        "aggregate_id": f"r + {before}",
        "state": str(AggregationRound.State.PUBLISHED.value),
        "updates_used": str(size.clients),
        "started_on": start,
        "finished_on": start,
        "lease_expires_at": start,
    }
    _insert(AggregationRound, made_by, rounds)


def _insert_updates(model: FederatedModel, clients: str, rounds: str, start: str) -> None:
    """Insert updates that were used, rejected in their round, rejected at intake, and ready ones."""
    status = ModelUpdate.Status
    client = CLIENT_ID.format("c")
    rejected = f"c % {REJECTED} = 0"
    common = {"federated_model_id": str(model.pk), "client_id": client, "num_examples": "100"}
    used = {
        "data": "'updates/1/' || c || '/' || r",
        "status": f"CASE WHEN {rejected} THEN {status.INVALID.value} ELSE {status.COMPLETE.value} END",
        "rejection_reason": f"CASE WHEN {rejected} THEN 'nan in tensor w' ELSE '' END",
        "round_id": "r",
        "applied_aggregate_id": f"CASE WHEN {rejected} THEN NULL ELSE r END",
        "norm": f"CASE WHEN {rejected} THEN NULL ELSE 1 + random() + 9 * (c = 7)::int END",
        "uploaded_on": start,
        "created_on": start,
    }
    _insert(ModelUpdate, {**common, **used}, f"{rounds}, {clients}")
    refused = {
        "data": "'refused/1/' || c || '/' || r",
        "status": str(status.INVALID.value),
        "rejection_reason": "'superseded by update ' || c",
        "uploaded_on": start,
        "created_on": start,
    }
    _insert(ModelUpdate, {**common, **refused}, f"{rounds}, {clients} WHERE c % {REJECTED} = 1")
    _insert(ModelUpdate, {**common, "data": "'ready/1/' || c"}, f"{clients} WHERE c % 2 = 0")


def _insert(model: type[Model], columns: Mapping[str, str], source: str) -> None:
    """Insert rows by one statement; columns that are not given have the defaults of their fields."""
    expressions = dict(columns)
    values: list[Any] = []
    for field in model._meta.concrete_fields:
        if field.column in expressions or (field.primary_key and field.column == "id"):
            continue
        expressions[str(field.column)] = "%s"
        values.append(field.get_db_prep_save(_default(field), connection))
    names = ", ".join(f'"{name}"' for name in expressions)
    sql = f'INSERT INTO "{model._meta.db_table}" ({names}) SELECT '
    # Percent signs of the expressions are not parameters.
    escaped = (each if each == "%s" else each.replace("%", "%%") for each in expressions.values())
    with connection.cursor() as cursor:
        cursor.execute(sql + ", ".join(escaped) + " FROM " + source.replace("%", "%%"), values)


def _default(field: Field[Any, Any]) -> Any:
    if getattr(field, "auto_now_add", False) or getattr(field, "auto_now", False):
        return timezone.now()
    if field.has_default() or field.null:
        return field.get_default()
    return "" if field.empty_strings_allowed else uuid.uuid4()


def _reset_sequences() -> None:
    """Let new rows begin after those that were inserted with their ids."""
    with connection.cursor() as cursor:
        for model in (ModelAggregate, AggregationRound):
            table = model._meta.db_table
            cursor.execute(
                f"""SELECT setval(pg_get_serial_sequence('"{table}"', 'id'), max(id)) FROM "{table}" """
            )
        cursor.execute("ANALYZE")
