"""Commands as they are typed: what they say, and what they refuse."""

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
    """Runs a command and gives what it wrote to its standard output."""
    from django.core.management import call_command

    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: Any) -> str:
        out = io.StringIO()
        call_command(*map(str, arguments), stdout=out, stderr=io.StringIO())
        return out.getvalue()

    return run


@pytest.fixture
def published() -> Callable[..., ModelAggregate]:
    """Runs a round of a model in which client 1 sends one value everywhere; its aggregate."""
    from aggregation.round import run_round
    from connectors import application
    from tests.factories import filled, ready_update

    def run(model: FederatedModel, value: float) -> ModelAggregate:
        latest = model.aggregates.order_by("-number").first()
        ready_update(model, 1, filled(value), base_aggregate=latest)
        answer = run_round(application.round_connector(), model.pk)
        return model.aggregates.get(pk=answer.aggregate_id)

    return run


@pytest.fixture
def lineage(published: Callable[..., ModelAggregate]) -> list[ModelAggregate]:
    """The three aggregates of a model with one client; the values in them are 1, 2 and 3."""
    from tests.factories import filled, make_model

    model = make_model(1, initial=filled(0.0), furthest_base_agg=1)
    return [published(model, value) for value in (1.0, 2.0, 3.0)]
