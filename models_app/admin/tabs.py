"""The head of a federated model's pages: its name, its state, its actions and its tabs."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from models_app.admin.access import may_change_models
from models_app.admin.links import model_list
from models_app.models import (
    AggregationRound,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
)


def model_head(request: HttpRequest, model: FederatedModel, tab: str) -> dict[str, Any]:
    """Return the context of the head of a page about a federated model.

    Parameters
    ----------
    request : HttpRequest
    model : FederatedModel
    tab : str
        The name of the tab that is shown.
    """
    running = model.rounds.filter(state=AggregationRound.State.RUNNING)
    return {
        "federated_model": model,
        "title": model.name,
        "running": running.defer("checkpoint", "workers", "config_snapshot").first(),
        "may_act": may_change_models(request),
        "tabs": [(name, url, name == tab) for name, url in _tabs(model)],
        "has_aggregates": model.aggregates.exists(),
    }


def _tabs(model: FederatedModel) -> tuple[tuple[str, str], ...]:
    page = "admin:models_app_federatedmodel"
    return (
        ("Overview", reverse(f"{page}_overview", args=[model.pk])),
        ("Rounds", model_list(AggregationRound, model.pk)),
        ("Clients", reverse(f"{page}_clients", args=[model.pk])),
        ("Updates", model_list(ModelUpdate, model.pk)),
        ("Lineage", model_list(ModelAggregate, model.pk)),
        ("Settings", reverse(f"{page}_change", args=[model.pk])),
    )
