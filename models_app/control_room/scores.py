"""The scores that the learning curve shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from aggregation.scores import is_score, weighted_mean_score
from models_app.models import ClientAggregateScore, FederatedModel, ModelAggregate

#: The latest reported scores that are read if the model names no metric.
MAX_READ = 2_000


def plotted_scores(
    model: FederatedModel, aggregates: Sequence[ModelAggregate]
) -> tuple[str, dict[int, float]]:
    """Return the metric that is drawn, and its value by the id of the aggregate.

    If the model names no metric, it is the first that clients reported. It decides nothing.
    """
    if model.score_metric:
        scores = {each.pk: each.validation_score for each in aggregates}
        return model.score_metric, {pk: v for pk, v in scores.items() if v is not None}
    reported = ClientAggregateScore.objects.filter(aggregate__in=[each.pk for each in aggregates])
    latest = reported.order_by("-pk").values_list("aggregate", "validation_results")[:MAX_READ]
    results: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for aggregate, result in latest:
        if isinstance(result, dict):
            results[aggregate].append(result)
    metrics = [
        name
        for each in results.values()
        for result in each
        for name in result
        if name != "num_examples" and is_score(result[name])
    ]
    if not metrics:
        return "", {}
    means = {pk: weighted_mean_score(each, metrics[0]).value for pk, each in results.items()}
    return metrics[0], {pk: mean for pk, mean in means.items() if mean is not None}
