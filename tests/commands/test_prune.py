"""`prune`, and what cannot be deleted in any other way."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError
from django.db.models import F, ProtectedError

from models_app.models import (
    AggregationRound,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
)
from tests.factories import client_id, filled, make_model, put, s3_record, upload
from tests.test_lambda_handler import invoke

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]

OLD = timedelta(days=200)


def make_older(model: FederatedModel, by: timedelta) -> None:
    """Move the history of a model into the past."""
    model.model_updates.update(uploaded_on=F("uploaded_on") - by, created_on=F("created_on") - by)
    model.rounds.update(started_on=F("started_on") - by, finished_on=F("finished_on") - by)
    model.aggregates.update(created_on=F("created_on") - by)


def aged(record: dict[str, Any], by: timedelta) -> dict[str, Any]:
    """Return the record of an event that happened earlier."""
    from datetime import UTC, datetime

    return {**record, "eventTime": f"{datetime.now(UTC) - by:%Y-%m-%dT%H:%M:%S.000Z}"}


def train(model: FederatedModel, days_ago: float) -> list[dict[str, Any]]:
    """Let both clients of a model upload, which makes an aggregate; return the records of the events."""
    latest = model.aggregates.order_by("-number").first()
    records = [
        aged(upload(model, client, filled(float(client)), base=latest), timedelta(days=days_ago))
        for client in (1, 2)
    ]
    invoke({"Records": records})
    return records


def score(model: FederatedModel, aggregate: ModelAggregate, client: int) -> dict[str, Any]:
    body = json.dumps({"accuracy": 0.5, "num_examples": 1}).encode()
    key = f"scores/{model.pk}/{client_id(client)}/{aggregate.pk}.json"
    record = s3_record(key, put(key, body), len(body))
    invoke({"Records": [record]})
    return record


@pytest.fixture
def model() -> FederatedModel:
    return make_model(2, initial=filled(0.0), requirement="all_clients", score_metric="accuracy")


def test_a_pruned_update_is_never_counted_again(
    run_command: RunCommand, model: FederatedModel
) -> None:
    """Events of pruned updates that are delivered again change nothing; new uploads are counted."""
    first = train(model, days_ago=200)
    make_older(model, OLD)
    train(model, days_ago=0)
    (row,) = json.loads(run_command("prune", "--older-than", "180d", "--json"))
    assert (row["model"], row["updates"]) == (model.pk, 2)
    assert model.model_updates.count() == 2
    invoke({"Records": first})
    assert model.model_updates.count() == 2
    assert model.aggregates.count() == 2
    train(model, days_ago=0)
    assert model.aggregates.count() == 3


def test_rejected_updates_and_empty_rounds_are_pruned(
    run_command: RunCommand, model: FederatedModel
) -> None:
    """Old refusals at intake and old rounds without an aggregate are deleted; ready updates are kept."""
    invoke({"Records": [aged(upload(model, 1, b"not a model"), OLD)]})
    invoke({"Records": [aged(upload(model, 2, filled(1.0)), OLD)]})
    assert sorted(model.model_updates.values_list("status", flat=True)) == [0, 4]
    now = model.created_on
    for state in (2, 3):
        model.rounds.create(
            number=1, state=state, lease_expires_at=now, started_on=now, finished_on=now
        )
    make_older(model, OLD)
    dry = run_command("prune", "--older-than", "180d", "--dry-run", "--json")
    assert model.model_updates.count() == 2
    assert json.loads(dry) == [{"model": model.pk, "updates": 1, "scores": 0, "rounds": 2}]
    assert run_command("prune", "--older-than", "180d", "--json") == dry
    assert list(model.model_updates.values_list("status", flat=True)) == [0]
    assert not model.rounds.exists()


def test_the_latest_aggregate_keeps_its_records(
    run_command: RunCommand, model: FederatedModel
) -> None:
    """However old it is, the latest aggregate can be verified, and nothing young is deleted."""
    train(model, days_ago=300)
    make_older(model, timedelta(days=100))
    train(model, days_ago=200)
    make_older(model, OLD)
    run_command("prune", "--older-than", "180d")
    first, latest = model.aggregates.order_by("number")
    assert "is verified" in run_command("verify", latest.pk)
    with pytest.raises(CommandError, match=r"not in storage any more"):
        run_command("verify", first.pk)
    assert run_command("prune", "--older-than", "180d") == "nothing is that old\n"


def test_scores_are_pruned_and_not_accepted_again(
    run_command: RunCommand, model: FederatedModel
) -> None:
    """The mean of an aggregate stays when its scores are deleted, and no further score changes it."""
    for _ in range(3):
        train(model, days_ago=200)
    first = model.aggregates.get(number=1)
    record = score(model, first, 1)
    make_older(model, OLD)
    (row,) = json.loads(run_command("prune", "--older-than", "180d", "--json"))
    assert row["scores"] == 1
    invoke({"Records": [record]})
    score(model, first, 2)
    assert not ClientAggregateScore.objects.exists()
    first.refresh_from_db()
    assert first.validation_score == 0.5


def test_recent_records_are_not_pruned(run_command: RunCommand, model: FederatedModel) -> None:
    """An age within which events may still be delivered is refused."""
    train(model, days_ago=0)
    train(model, days_ago=0)
    with pytest.raises(CommandError, match="must be 30d or more"):
        run_command("prune", "--older-than", "29d")
    with pytest.raises(CommandError, match="expected an age such as 180d"):
        run_command("prune", "--older-than", "old")
    assert run_command("prune", "--older-than", "30d", "--json") == "[]\n"


@pytest.mark.parametrize("rows", [ModelUpdate, AggregationRound])
def test_settled_records_cannot_be_deleted(model: FederatedModel, rows: Any) -> None:
    """Neither a row nor a query set of updates and rounds that made an aggregate can be deleted."""
    train(model, days_ago=0)
    with pytest.raises(ProtectedError):
        rows.objects.first().delete()
    with pytest.raises(ProtectedError):
        rows.objects.all().delete()
    assert rows.objects.count() == (2 if rows is ModelUpdate else 1)


def test_a_ready_update_can_be_deleted(model: FederatedModel) -> None:
    """It has not been counted: if its event is delivered again, it is registered again."""
    record = upload(model, 1, filled(1.0))
    invoke({"Records": [record]})
    model.model_updates.get().delete()
    invoke({"Records": [record]})
    assert model.model_updates.count() == 1
