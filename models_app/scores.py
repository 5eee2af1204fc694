"""The validation scores of aggregates, from the scores that clients reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aggregation.scores import MeanScore, weighted_mean_score
from models_app.models import ClientAggregateScore, FederatedModel, ModelAggregate

#: Fields of a model on which the scores of its aggregates depend.
DECIDES_SCORES = frozenset({"score_metric", "max_num_examples"})

#: After a change of such a field, this many scores of clients are read again, the latest aggregates' first.
MAX_RESCORED = 20_000
MAX_RESCORED_AGGREGATES = 25


def add_score(
    aggregate: ModelAggregate, model: FederatedModel, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of an aggregate's score columns with the result of one more client.

    No other score is read, unless the model's metric or cap has changed since the last one. The result
    must be stored already.
    """
    metric, cap = model.score_metric, model.max_num_examples
    state = aggregate.score_state
    if not state or (state["metric"], state["cap"]) != (metric, cap):
        return average_scores(aggregate, model)
    mean = MeanScore(aggregate.validation_score, state["weight"])
    return _columns(mean.add(result, metric, cap), model)


def average_scores(aggregate: ModelAggregate, model: FederatedModel) -> dict[str, Any]:
    """Return the values of an aggregate's score columns, from all scores that clients reported."""
    if not model.score_metric:
        return {"validation_score": None, "score_state": None}
    scores = ClientAggregateScore.objects.filter(aggregate=aggregate).order_by("pk")
    results = scores.values_list("validation_results", flat=True).iterator()
    return _columns(weighted_mean_score(results, model.score_metric, model.max_num_examples), model)


def _columns(mean: MeanScore, model: FederatedModel) -> dict[str, Any]:
    state = {"metric": model.score_metric, "cap": model.max_num_examples, "weight": mean.weight}
    return {"validation_score": mean.value, "score_state": state}


def rescore(model: FederatedModel) -> None:
    """Compute the validation scores of a model's latest aggregates again, and remove those of others.

    Called when the model's metric changes: scores of different metrics cannot be compared.
    """
    scored = model.aggregates.exclude(validation_score=None)
    scored.update(validation_score=None, score_state=None)
    read = 0
    latest = model.aggregates.order_by("-number")[:MAX_RESCORED_AGGREGATES]
    for position, aggregate in enumerate(latest):
        read += aggregate.client_scores.count()
        if read > MAX_RESCORED and position >= 2:  # The latest and its parent decide on a drop.
            return
        ModelAggregate.objects.filter(pk=aggregate.pk).update(**average_scores(aggregate, model))
