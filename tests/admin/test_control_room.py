"""The contents of a federated model's overview, and what they cost."""

from __future__ import annotations

import statistics

import pytest
from django.utils import timezone

from aggregation.round import run_round
from connectors import application
from models_app.control_room import control_room
from models_app.control_room.charts import BYTES, TIMES, amount
from models_app.control_room.norms import quartiles_by_round
from models_app.models import (
    ClientAggregateScore,
    ModelAggregate,
    ModelUpdate,
)
from tests.admin.models import trained
from tests.factories import client_id, filled, make_model, ready_update


@pytest.mark.usefixtures("database", "cloud")
def test_statements_do_not_depend_on_the_number_of_updates() -> None:
    """On both databases, the page shows what is there, and takes no more statements for more updates."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    counts = []
    for rounds in (1, 4):
        model = trained(rounds, aggregator="norm_clipped_mean", aggregator_args={"max_norm": 9.0})
        with CaptureQueriesContext(
            connection,
        ) as captured:
            room = control_room(model)
        counts.append(len(captured))
        curve = room.overview.curve
        assert [point.number for point in curve.points] == [*range(1, rounds + 1)]
        assert [round(point.score or 0.0, 6) for point in curve.points] == [0.7] * rounds
        assert room.overview.reasons[0].count == 1
        assert len(room.plots) == 5
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("database", "cloud")
def test_directions_of_the_latest_updates_are_shown() -> None:
    """Where the rule compares updates, their cosines with the aggregate are listed, the lowest first."""
    model = make_model(5, initial=filled(0.0), aggregator="multi_krum", aggregator_args={"f": 1})
    for client, value in enumerate([1.0, 1.1, 1.2, 1.3, -9.0], 1):
        ready_update(model, client, filled(value))
    run_round(application.round_connector(), model.pk)
    cosines = [each.cosine for each in control_room(model).contributions]
    assert cosines == [-1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.usefixtures("database", "cloud")
def test_updates_rejected_before_a_round_are_drawn() -> None:
    """Updates that were refused at intake belong to the next round; so do those before the first."""
    model = make_model(2, initial=filled(0.0))
    refused = {"status": ModelUpdate.Status.INVALID, "rejection_reason": "not a model"}
    for rejections in (1, 2):
        for _ in range(rejections):
            ready_update(model, 1, filled(0.0), **refused)
        ready_update(model, 2, filled(1.0))
        run_round(application.round_connector(), model.pk)
    ready_update(model, 1, filled(0.0), **refused)  # It belongs to the round that is to come.
    chart = next(each for each in control_room(model).plots if "Clients of each" in each)
    assert "rejected before it: 3 updates in 2 rounds, at most 2" in chart
    assert "Round 1\nused: 1 updates\nrejected before it: 1 updates" in chart


@pytest.mark.usefixtures("database", "cloud")
def test_norms_are_ranked_by_the_database() -> None:
    """Quartiles and medians of norms are those of Python's statistics, for odd and even counts."""
    model = make_model(9, initial=filled(0.0))
    rounds = {}
    for count in (1, 2, 5, 8, 9):
        made_by = model.rounds.create(
            number=count, state=1, lease_expires_at=timezone.now(), started_on=timezone.now()
        )
        norms = [float((7 * n) % 11) for n in range(1, count + 1)]
        for client, norm in enumerate(norms, 1):
            key = f"updates/{count}-{client}"
            model.model_updates.create(
                client_id=client_id(client), data=key, round=made_by, norm=norm, status=2
            )
        rounds[made_by.pk] = sorted(norms)
    found = quartiles_by_round(ModelUpdate.objects.filter(round__in=rounds))
    assert {pk: each.count for pk, each in found.items()} == {
        pk: len(norms) for pk, norms in rounds.items()
    }
    for pk, norms in rounds.items():
        assert found[pk].median == statistics.median(norms)
        assert found[pk].lower == norms[(len(norms) - 1) // 4]


@pytest.mark.usefixtures("database", "cloud")
def test_the_learning_curve_shows_the_score_metric() -> None:
    """If a model names its metric, the aggregates' validation scores are drawn, and the best is marked."""
    model = trained(2, score_metric="loss", lower_is_better=True, requirement="")
    for aggregate, score in zip(model.aggregates.order_by("number"), (0.25, 0.5), strict=True):
        aggregate.validation_score = score
        aggregate.save()
    room = control_room(model)
    points = room.overview.curve.points
    assert [(point.score, point.is_best) for point in points] == [(0.25, True), (0.5, False)]
    assert "loss from 0.25 at 1 to 0.5 at 2" in room.plots[0]


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_extreme_reported_numbers_do_not_break_the_page() -> None:
    """The largest values cancel each other out; larger ones are ignored."""
    model = make_model(3)
    aggregate = ModelAggregate.objects.create(federated_model=model, number=1, result="r.npz")
    for client, value in enumerate((1e300, -1e300, 10**400), 1):
        ClientAggregateScore.objects.create(
            aggregate=aggregate,
            client_id=client_id(client),
            validation_results={"loss": value, "num_examples": 10**9},
        )
    assert [point.score for point in control_room(model).overview.curve.points] == [0.0]


def test_amounts_have_units() -> None:
    """Each amount is given in the largest unit of which there is at least one."""
    assert [amount(each, BYTES) for each in (0, 612, 57_720, 999_960, 3.2e9, 5e12)] == [
        "0 bytes",
        "612 bytes",
        "57.7 kB",
        "1000 kB",
        "3.2 GB",
        "5000 GB",
    ]
    assert [amount(each, TIMES) for each in (None, 0.0437, 0.9996, 75, 5400)] == [
        "",
        "43.7 ms",
        "1000 ms",
        "1.25 minutes",
        "1.5 hours",
    ]


@pytest.mark.usefixtures("database", "cloud")
def test_a_model_without_rounds_has_an_empty_page() -> None:
    """Before the first round there is nothing to draw, and no error."""
    room = control_room(make_model(1))
    assert (list(room.plots), room.overview.curve.points, room.overview.card.running) == (
        [],
        (),
        None,
    )
