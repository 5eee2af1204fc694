"""Run commands as they are typed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

# Nothing of Django's is imported here: pytest reads this file before it boots Django.
if TYPE_CHECKING:
    from models_app.models import FederatedModel, ModelAggregate


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs a command and returns its standard output."""
    from django.core.management import call_command

    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: Any) -> str:
        out = io.StringIO()
        call_command(*map(str, arguments), stdout=out, stderr=io.StringIO())
        return out.getvalue()

    return run


@pytest.fixture
def published() -> Callable[..., ModelAggregate]:
    """Return a function that runs a round in which client 1 sends one value everywhere."""
    from aggregation.round import run_round
    from connectors import application
    from tests.factories import filled, ready_update

    def run(model: FederatedModel, value: float) -> ModelAggregate:
        latest = model.aggregates.order_by("-number").first()
        ready_update(model, 1, filled(value), base_aggregate=latest)
        answer = run_round(application.round_connector(), model.pk)
        assert answer.aggregate_id is not None
        return model.aggregates.get(pk=answer.aggregate_id)

    return run


@pytest.fixture
def lineage(published: Callable[..., ModelAggregate]) -> list[ModelAggregate]:
    """Return the three aggregates of a model with one client; their values are 1, 2 and 3."""
    from tests.factories import filled, make_model

    model = make_model(1, initial=filled(0.0), furthest_base_agg=1)
    return [published(model, value) for value in (1.0, 2.0, 3.0)]
