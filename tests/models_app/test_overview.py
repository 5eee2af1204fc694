"""The overview: what the console and `manage.py models` show of a federated model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
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
from models_app.overview import (
    AlertKind,
    MarkKind,
    State,
    client_page,
    model_card,
    model_cards,
    model_overview,
)
from tests.factories import client_id, make_model

pytestmark = pytest.mark.usefixtures("database")
Status = ModelUpdate.Status


def update(model: FederatedModel, client: int, **fields: Any) -> ModelUpdate:
    """Create the row of an update."""
    key = f"updates/{model.pk}/{client}/{ModelUpdate.objects.count()}"
    values = {"client_id": client_id(client), "data": key, **fields}
    return ModelUpdate.objects.create(federated_model=model, **values)


def aggregate(model: FederatedModel, number: int, **of_round: Any) -> ModelAggregate:
    """Create an aggregate and the published round that made it, an hour after the one before."""
    at = timezone.now() - timedelta(hours=100 - number)
    parent = model.aggregates.order_by("-number").first()
    made = ModelAggregate.objects.create(
        federated_model=model,
        parent=parent,
        number=number,
        result=f"aggregates/{model.pk}/{number}",
    )
    ModelAggregate.objects.filter(pk=made.pk).update(created_on=at)
    values = {"state": 1, "updates_used": 2, "finished_on": at, **of_round}
    AggregationRound.objects.create(
        federated_model=model,
        number=number,
        aggregate=made,
        started_on=values["finished_on"] - timedelta(seconds=number),
        lease_expires_at=at,
        **values,
    )
    return made


@contextmanager
def statements(expected: int) -> Iterator[None]:
    """Check how many statements are executed."""
    with CaptureQueriesContext(connection) as captured:
        yield
    assert len(captured) == expected, [each["sql"][:100] for each in captured]


def test_an_update_is_ready_as_for_a_claim() -> None:
    """Paused clients, strangers, second updates and updates with too old a base do not count."""
    model = make_model(
        4, requirement="require_x_updates", requirement_args=[3], furthest_base_agg=1
    )
    latest = aggregate(model, 1)
    Client.objects.filter(pk=client_id(4)).update(paused=True)
    Client.objects.get_or_create(pk=client_id(9))
    update(model, 1, base_aggregate=latest)
    update(model, 1, base_aggregate=latest, status=Status.FAILED)
    update(model, 2)
    update(model, 3, base_aggregate=latest, status=Status.COMPLETE)
    update(model, 4, base_aggregate=latest)
    update(model, 9, base_aggregate=latest)
    card = model_card(model)
    assert card.readiness == "1 of 3 updates ready"
    assert (card.members, card.state) == (3, State.WAITING)
    FederatedModel.objects.filter(pk=model.pk).update(furthest_base_agg=None)
    model.refresh_from_db()
    assert model_card(model).ready == 2
    FederatedModel.objects.filter(pk=model.pk).update(requirement_args=[1])
    model.refresh_from_db()
    assert model_card(model).readiness == "2 updates ready, 1 needed"


@pytest.mark.parametrize(
    ("requirement", "arguments", "rule", "words"),
    [
        ("", None, "weighted_mean", "1 update"),
        ("all_clients", None, "weighted_mean", "an update from each of the 5 clients"),
        ("require_x_updates", [3], "weighted_mean", "3 updates"),
        ("require_fraction", [0.5], "weighted_mean", "3 updates: 50 % of 5 clients"),
        ("quorum", [1, 20], "weighted_mean", "5 updates, or one after 20 minutes"),
        ("quorum", [2, 0.5], "weighted_mean", "5 updates, or 2 after 30 seconds"),
        ("quorum", [2, 60], "weighted_mean", "5 updates, or 2 after 1 hour"),
        ("require_x_updates", [3], "krum", "3 updates; the rule krum needs at least 5"),
    ],
)
def test_the_requirement_is_put_into_words(
    requirement: str, arguments: Any, rule: str, words: str
) -> None:
    """The sentence says how many updates start a round, and what the rule needs besides."""
    model = make_model(
        5,
        requirement=requirement,
        requirement_args=arguments,
        aggregator=rule,
        aggregator_args={"f": 1} if rule == "krum" else {},
    )
    assert model_card(model).requirement == words


def test_states_and_alerts() -> None:
    """A paused, a failing, a running and a ready model have different states and alerts."""
    now = timezone.now()
    ready, paused, failing, running = (make_model(1) for _ in range(4))
    update(ready, 1)
    FederatedModel.objects.filter(pk=paused.pk).update(allow_aggregation=False, pause_reason="why")
    FederatedModel.objects.filter(pk=failing.pk).update(failed_rounds=2)
    failing.rounds.create(
        number=1, state=2, error="no space", started_on=now, finished_on=now, lease_expires_at=now
    )
    running.rounds.create(number=1, state=0, started_on=now, lease_expires_at=now)
    cards = model_cards(list(FederatedModel.objects.order_by("pk")))
    assert [card.state for card in cards] == [
        State.READY,
        State.PAUSED,
        State.FAILING,
        State.RUNNING,
    ]
    assert [[alert.text for alert in card.alerts] for card in cards] == [
        [],
        ["Paused: why"],
        ["2 failed rounds in a row: no space"],
        [],
    ]
    assert cards[3].running
    assert cards[2].last_round
    assert cards[2].last_round.error == "no space"


def test_clients_that_send_nothing_are_silent() -> None:
    """A client is silent after five of the usual intervals; a new or a paused one is not."""
    model = make_model(4)
    old = timezone.now() - timedelta(days=30)
    Client.objects.update(created_on=old)
    for number in range(1, 5):
        aggregate(model, number)
    update(model, 1, uploaded_on=timezone.now() - timedelta(hours=4))
    update(model, 2, uploaded_on=timezone.now() - timedelta(hours=6))
    update(make_model(4), 3)
    Client.objects.filter(pk=client_id(4)).update(paused=True)
    card = model_card(model)
    assert card.silent == 2
    (alert,) = card.alerts
    assert alert.kind is AlertKind.SILENT
    assert alert.text == "2 of 3 clients have sent nothing for 5 hours"
    Client.objects.update(created_on=timezone.now())
    assert model_card(model).silent == 0


def test_cards_take_a_constant_number_of_statements() -> None:
    """Nine statements serve one model as well as many with a history."""
    for size in (1, 3, 9):
        model = make_model(size, furthest_base_agg=2)
        for number in range(1, size + 1):
            latest = aggregate(model, number)
            update(model, number)
            ClientAggregateScore.objects.create(
                aggregate=latest,
                client_id=client_id(1),
                validation_results={"accuracy": number / 10, "num_examples": 5},
            )
        artifact = ModelArtifact.objects.create(federated_model=model, values="w", version="1")
        FederatedModel.objects.filter(pk=model.pk).update(current_artifact=artifact)
        models = list(FederatedModel.objects.order_by("pk"))
        with statements(9):
            cards = model_cards(models)
    assert [point.score for point in cards[1].scores] == [0.1, 0.2, 0.3]
    assert [card.score for card in cards] == [0.1, 0.3, 0.9]
    assert (cards[0].metric, cards[0].version) == ("accuracy", "1")
    with statements(0):
        assert model_cards([]) == []


def test_the_curve_is_marked() -> None:
    """Versions, a rollback, rejected updates, a failed round and changed settings are marked."""
    model = make_model(2, score_metric="loss", lower_is_better=True, max_score_drop=0.1)
    mean, median = {"rule": "weighted_mean"}, {"rule": "coordinate_median"}
    first = aggregate(model, 1, config_snapshot=mean)
    aggregate(model, 2, config_snapshot=mean, updates_rejected=2)
    now = timezone.now()
    model.rounds.create(
        number=3,
        state=2,
        error="lost",
        started_on=now,
        finished_on=now,
        lease_expires_at=now,
        config_snapshot=mean,
    )
    aggregate(model, 3, config_snapshot={**median, "rolled_back_to": first.pk})
    for number, loss in ((1, 0.3), (2, 0.1), (3, 0.5)):
        model.aggregates.filter(number=number).update(validation_score=loss)
    ModelArtifact.objects.create(
        federated_model=model, values=str(first.result.name), version="1.0"
    )
    overview = model_overview(model)
    assert [(mark.number, mark.kind, mark.text) for mark in overview.curve.marks] == [
        (1, MarkKind.VERSION, "version 1.0"),
        (2, MarkKind.REJECTED, "2 updates rejected in the round"),
        (3, MarkKind.FAILED, "the round made no aggregate: lost"),
        (3, MarkKind.ROLLBACK, "rolled back to aggregate 1"),
        (3, MarkKind.SETTINGS, "rule: coordinate_median (was weighted_mean)"),
    ]
    points = overview.curve.points
    assert [(point.score, point.is_best) for point in points] == [
        (0.3, False),
        (0.1, True),
        (0.5, False),
    ]
    assert points[0].versions == ("1.0",)
    assert "worse by 0.4" in points[2].held_back
    assert [alert.kind for alert in overview.card.alerts] == [AlertKind.HELD_BACK]


def test_durations_are_a_median_and_a_measured_percentile() -> None:
    """The 95th percentile of 20 rounds is the nineteenth; failed and external rounds do not count."""
    model = make_model(1)
    for number in range(1, 21):
        aggregate(model, number)
    aggregate(model, 21, external=True)
    durations = model_overview(model).durations
    assert (durations.rounds, durations.median, durations.p95) == (20, 10.5, 19.0)


def test_an_overview_takes_a_constant_number_of_statements() -> None:
    """More aggregates, rounds, rejections and clients do not add statements."""
    counts = []
    for size in (2, 8):
        model = make_model(size)
        for number in range(1, size + 1):
            first = aggregate(model, number, config_snapshot={"rule": "weighted_mean"})
            update(model, number, status=Status.INVALID, rejection_reason=f"reason {number}")
            ModelArtifact.objects.create(
                federated_model=model, values=str(first.result.name), version=str(number)
            )
        with CaptureQueriesContext(connection) as captured:
            overview = model_overview(model)
        counts.append(len(captured))
        assert len(overview.reasons) == size
    assert counts[0] == counts[1]


def test_an_empty_model_has_an_overview() -> None:
    """A model without clients, aggregates and rounds is shown as such."""
    overview = model_overview(make_model(0))
    assert not overview.curve.points
    assert not overview.curve.marks
    assert not overview.rounds
    assert [tile.value for tile in overview.tiles][3:] == ["none"] * 4


def test_a_client_is_shown_with_what_became_of_its_updates() -> None:
    """The row has the latest reason, norm and contribution, and counts of this model's updates only."""
    model, other = make_model(2), make_model(2)
    Client.objects.filter(pk=client_id(1)).update(name="ward")
    latest = timezone.now()
    for age, fields in (
        (1, {"status": Status.COMPLETE, "norm": 2.0, "cosine": 0.5}),
        (2, {"status": Status.COMPLETE, "norm": 1.0, "cosine": 0.1}),
        (3, {"status": Status.INVALID, "rejection_reason": "nan in tensor w"}),
        (4, {"status": Status.INVALID, "rejection_reason": "older"}),
        (0, {"status": Status.PENDING}),
    ):
        update(model, 1, uploaded_on=latest - timedelta(hours=age), **fields)
    update(other, 1, status=Status.INVALID, rejection_reason="elsewhere")
    with statements(3):
        page = client_page(model)
    unnamed, ward = page.rows
    assert (ward.label, unnamed.label) == ("ward", str(client_id(2)))
    assert (ward.used, ward.rejected, ward.last_reason) == (2, 2, "nan in tensor w")
    assert (ward.norm, ward.contribution, ward.last_seen) == (2.0, 0.5, latest)
    assert ward.last_rejected == model.model_updates.get(rejection_reason="nan in tensor w").pk
    assert (unnamed.last_seen, unnamed.used, unnamed.norm) == (None, 0, None)


def test_clients_are_paged_searched_and_ordered() -> None:
    """A page has 25 clients; a search is for a part of the name, or for the beginning of the id."""
    model = make_model(60)
    for number in range(1, 61):
        Client.objects.filter(pk=client_id(number)).update(name=f"site {number:02}")
    pages = [client_page(model, number) for number in (1, 2, 3, 99)]
    assert [len(page.rows) for page in pages] == [25, 25, 10, 10]
    assert [page.page for page in pages] == [1, 2, 3, 3]
    assert pages[0].total == 60
    assert [row.name for row in client_page(model, search="E 6").rows] == ["site 60"]
    assert [row.name for row in client_page(model, search=str(client_id(7))).rows] == ["site 07"]
    model.clients.create(uuid="abcdef12-0000-4000-8000-000000000000", name="ward")
    assert [row.name for row in client_page(model, search="ABCDEF12-00").rows] == ["ward"]
    assert client_page(model, search="-").total == 0
    empty = client_page(model, search="nobody")
    assert (empty.rows, empty.pages) == ((), 1)
    update(model, 1)
    assert client_page(model, order="last_seen").rows[0].name == "site 02"
