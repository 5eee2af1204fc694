"""A round takes the newest update of a client in any order of event delivery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.intake.updates import UpdateIntake
from connectors.intake.upload import Upload
from connectors.rounds.selectors import ready_updates
from connectors.workflow.model_data import DjangoModelDataConnector
from models_app.models import FederatedModel, ModelUpdate
from tests.conftest import empty_tables, using_database
from tests.connectors.intake.uploads import uploaded
from tests.factories import client_id, make_model

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def uploads(migrated_postgres: str, shared_cloud: Any) -> Iterator[list[Upload]]:
    """Four uploads of a client; their keys sort differently from the order of the uploads."""
    with using_database(migrated_postgres):
        model = make_model(1)
        yield [uploaded(model, name=f"{name}.safetensors") for name in "dbca"]
        empty_tables()


def newest_after(deliveries: list[Upload]) -> str:
    """Register deliveries in this order, and return the key of the update that a round would take."""
    ModelUpdate.objects.all().delete()
    intake = UpdateIntake(DjangoModelDataConnector().objects)
    for upload in deliveries:
        assert not intake.register(upload).reason
    (update,) = ready_updates(FederatedModel.objects.get(), 0)
    assert update.client_id == client_id(1)
    return str(update.data.name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    order=st.lists(st.integers(0, 3), max_size=8)
    .map(lambda extra: [*range(4), *extra])
    .flatmap(st.permutations)
)
def test_the_latest_event_wins_in_any_order_of_delivery(
    uploads: list[Upload], order: list[int]
) -> None:
    """The upload with the latest event time is taken, however events are shuffled and repeated."""
    timed = [
        _at(upload, NOON + timedelta(milliseconds=number)) for number, upload in enumerate(uploads)
    ]
    assert newest_after([timed[number] for number in order]) == uploads[-1].key


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(order=st.permutations(range(4)))
def test_of_equal_times_the_latest_arrival_wins(uploads: list[Upload], order: list[int]) -> None:
    """Among equal event times the latest arrival is taken, regardless of the keys."""
    timed = [_at(upload, NOON) for upload in uploads]
    deliveries = [timed[number] for number in order]
    assert newest_after([*deliveries, deliveries[0]]) == deliveries[-1].key


def _at(upload: Upload, time: datetime) -> Upload:
    return replace(upload, event_time=time)
