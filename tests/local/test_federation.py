"""What the federation says when no aggregate comes."""

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
    """A federation whose uploads nobody listens to, and that does not wait for it."""
    monkeypatch.setattr(federation, "OVERDUE_SECONDS", 0.1)
    rng = np.random.default_rng(0)
    script = Script.for_federation(3, 2)
    return Federation(cloud, deal_digits(3, rng), initial_model(64, 10, rng), script, rng)


def first_round_of(alone: Federation) -> None:
    next(alone.rounds(1, doing=lambda _: None))


def test_without_a_round_the_waiting_updates_are_counted(alone: Federation) -> None:
    """Where the function registered nothing, that is what is said."""
    with pytest.raises(RoundOverdue, match="round 1 has no aggregate: 0 updates have been waiting"):
        first_round_of(alone)


def test_the_error_of_the_last_round_is_told(alone: Federation) -> None:
    """A round that failed is given as the reason."""
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


def test_a_paused_model_is_told_at_once(alone: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a model that is paused; the reason is given."""
    monkeypatch.setattr(federation, "OVERDUE_SECONDS", math.inf)
    FederatedModel.objects.update(allow_aggregation=False, pause_reason="3 rounds failed")
    with pytest.raises(RoundOverdue, match="the model is paused, 3 rounds failed"):
        first_round_of(alone)
