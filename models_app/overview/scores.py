"""The scores of aggregates that curves show, for several models at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aggregation.scores import is_score, weighted_mean_score
from models_app.models import ClientAggregateScore, FederatedModel, ModelAggregate

#: The latest reported scores that are read for models that name no metric.
MAX_READ = 1_000


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The metric of a model, and its values by the id of the aggregate."""

    metric: str = ""
    values: Mapping[int, float] = field(default_factory=dict)


def scores_by_model(
    models: Sequence[FederatedModel], aggregates: Iterable[ModelAggregate]
) -> dict[int, Scores]:
    """Return the scores of aggregates by the id of their model, in at most one statement.

    If a model names no metric, it is the first that clients reported. It decides nothing.
    """
    by_model: dict[int, list[ModelAggregate]] = defaultdict(list)
    for each in aggregates:
        by_model[each.federated_model_id].append(each)
    unnamed = [model.pk for model in models if not model.score_metric]
    reported = _reported(each.pk for pk in unnamed for each in by_model[pk])
    found = {}
    for model in models:
        own = by_model[model.pk]
        if model.score_metric:
            values = {e.pk: e.validation_score for e in own if e.validation_score is not None}
            found[model.pk] = Scores(metric=model.score_metric, values=values)
        else:
            found[model.pk] = _mean_scores({e.pk: reported[e.pk] for e in own if e.pk in reported})
    return found


def _reported(aggregates: Iterable[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the latest results that clients reported, by aggregate."""
    chosen = list(aggregates)
    if not chosen:
        return {}
    rows = ClientAggregateScore.objects.filter(aggregate__in=chosen).order_by("-pk")
    results: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for aggregate, result in rows.values_list("aggregate", "validation_results")[:MAX_READ]:
        if isinstance(result, dict):
            results[aggregate].append(result)
    return dict(results)


def _mean_scores(results: Mapping[int, Sequence[dict[str, Any]]]) -> Scores:
    metrics = (
        name
        for each in results.values()
        for result in each
        for name in result
        if name != "num_examples" and is_score(result[name])
    )
    metric = next(metrics, "")
    if not metric:
        return Scores()
    means = {pk: weighted_mean_score(each, metric).value for pk, each in results.items()}
    return Scores(metric=metric, values={pk: v for pk, v in means.items() if v is not None})
