"""Models with rounds for the tests of the console."""

from __future__ import annotations

from typing import Any

from aggregation.round import run_round
from connectors import application
from models_app.models import ClientAggregateScore, FederatedModel, ModelUpdate
from tests.factories import client_id, filled, make_model, ready_update


def trained(rounds: int = 2, **fields: Any) -> FederatedModel:
    """Return a model with some rounds and one rejected update, whose reason contains HTML."""
    model = make_model(2, initial=filled(0.0), **fields)
    for number in range(rounds):
        for client in (1, 2):
            ready_update(model, client, filled(number + client / 2), num_examples=client)
        run_round(application.round_connector(), model.pk)
    status = ModelUpdate.Status.INVALID
    reason = "<script>alert(1)</script>"
    ready_update(model, 1, filled(1.0), status=status, rejection_reason=reason)
    for client, accuracy in ((1, 0.5), (2, 0.8)):
        for aggregate in model.aggregates.all():
            results = {"accuracy": accuracy, "num_examples": client}
            ClientAggregateScore.objects.create(
                aggregate=aggregate, client_id=client_id(client), validation_results=results
            )
    return model
