"""Tests of the message if a round of the demonstration has no aggregate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from django.utils import timezone

from local import federation
from local.cloud import Cloud
from local.dataset import deal_digits
from local.errors import RoundOverdue
from local.federation import Federation
from local.network import initial_model
from local.script import Script
from models_app.models import AggregationRound, FederatedModel

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def alone(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """A federation without a function, which does not wait for it."""
    monkeypatch.setattr(federation, "OVERDUE_SECONDS", 0.1)
    rng = np.random.default_rng(0)
    script = Script.for_federation(3, 2)
    return Federation(cloud, deal_digits(3, rng), initial_model(64, 10, rng), script, rng)


def first_round_of(alone: Federation) -> None:
    next(alone.rounds(1, progress=lambda _: None))


def test_message_counts_the_waiting_updates(alone: Federation) -> None:
    """If there was no round, the message has the number of ready updates."""
    with pytest.raises(RoundOverdue, match="round 1 has no aggregate: 0 updates have been waiting"):
        first_round_of(alone)


def test_message_has_the_error_of_the_last_round(alone: Federation) -> None:
    """If the last round failed, its error is the reason."""
    AggregationRound.objects.create(
        federated_model=FederatedModel.objects.get(),
        number=1,
        state=AggregationRound.State.FAILED,
        lease_expires_at=timezone.now(),
        started_on=timezone.now(),
        error="OutOfSpace: the disk is full",
    )
    with pytest.raises(RoundOverdue, match="the last round ended with OutOfSpace"):
        first_round_of(alone)


def test_paused_model_is_reported_at_once(
    alone: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused model is not waited for, and the message has the reason."""
    monkeypatch.setattr(federation, "OVERDUE_SECONDS", math.inf)
    FederatedModel.objects.update(allow_aggregation=False, pause_reason="3 rounds failed")
    with pytest.raises(RoundOverdue, match="the model is paused: 3 rounds failed"):
        first_round_of(alone)
