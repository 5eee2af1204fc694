"""What the page of a federated model shows, in a number of statements that no update adds to."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from django.db.models import Count
from django.utils.safestring import SafeString

from models_app.models import (
    AggregationRound,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
)
from models_app.plots import Series, bar_plot, line_plot, strip_plot

#: Rounds, aggregates and rejected updates that are shown: the latest.
SHOWN = 60


def control_room(model: FederatedModel) -> dict[str, Any]:
    """The context of the page."""
    aggregates = list(
        model.aggregates.select_related("round").order_by("-number")[:SHOWN],
    )[::-1]
    ended = model.rounds.exclude(finished_on=None).order_by("-pk")[:SHOWN]
    rounds = list(ended)[::-1]
    metric, scores = _scores(model, aggregates)
    plots = [
        _learning_curve(metric, aggregates, scores),
        *_round_plots(rounds),
        _norms(model, rounds),
    ]
    return {
        "plots": [plot for plot in plots if plot],
        "lineage": _lineage(model, aggregates, scores),
        "rejected": model.model_updates.filter(status=ModelUpdate.Status.INVALID).order_by("-pk")[
            :SHOWN
        ],
        "reasons": _reasons(model),
        "running": model.rounds.filter(state=AggregationRound.State.RUNNING).first(),
        "ready": model.model_updates.filter(status__in=ModelUpdate.READY).count(),
        "members": model.clients.filter(paused=False).count(),
        "failed_rounds": [
            each for each in rounds if each.state != AggregationRound.State.PUBLISHED
        ][::-1],
    }


def _scores(
    model: FederatedModel, aggregates: Sequence[ModelAggregate]
) -> tuple[str, dict[int, float]]:
    """The metric that is plotted, and its value by aggregate.

    Where the model names no metric, it is the first that clients reported: to look at, not to decide by.
    """
    if model.score_metric:
        told = {each.pk: each.validation_score for each in aggregates}
        return model.score_metric, {pk: v for pk, v in told.items() if v is not None}
    reported = ClientAggregateScore.objects.filter(aggregate__in=[each.pk for each in aggregates])
    results: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for aggregate, result in reported.values_list("aggregate", "validation_results"):
        if isinstance(result, dict):
            results[aggregate].append(result)
    names = [
        name
        for each in results.values()
        for result in each
        for name in result
        if name != "num_examples" and _is_number(result[name])
    ]
    if not names:
        return "", {}
    metric = names[0]
    means = {pk: _weighted_mean(each, metric) for pk, each in results.items()}
    return metric, {pk: mean for pk, mean in means.items() if mean is not None}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _weighted_mean(results: Sequence[dict[str, Any]], metric: str) -> float | None:
    found = [
        (float(count) if _is_number(count := each.get("num_examples", 1)) else 1.0, each[metric])
        for each in results
        if _is_number(each.get(metric))
    ]
    total = math.fsum(count for count, _ in found)
    return math.fsum(count * value for count, value in found) / total if total > 0 else None


def _learning_curve(
    metric: str, aggregates: Sequence[ModelAggregate], scores: dict[int, float]
) -> SafeString:
    values = [scores.get(each.pk) for each in aggregates]
    series = Series(name=metric, kind="good", values=values)
    labels = [str(each.number) for each in aggregates]
    return line_plot(f"Learning curve: {metric} of each aggregate", labels, series)


def _round_plots(rounds: Sequence[AggregationRound]) -> list[SafeString]:
    labels = [str(each.number) for each in rounds]
    used = [float(each.updates_used) for each in rounds]
    rejected = [float(each.updates_rejected) for each in rounds]
    seconds = [
        (each.finished_on - each.started_on).total_seconds() if each.finished_on else None
        for each in rounds
    ]
    megabytes = [each.bytes_read / 1e6 for each in rounds]
    return [
        bar_plot(
            "Clients per round: used, and rejected in the round",
            labels,
            [
                Series(name="used", kind="good", values=used),
                Series(name="rejected", kind="bad", values=rejected),
            ],
        ),
        bar_plot(
            "Duration of each round, in seconds",
            labels,
            [Series(name="seconds", kind="plain", values=seconds)],
        ),
        bar_plot(
            "Read in each round, in MB",
            labels,
            [Series(name="MB", kind="plain", values=megabytes)],
        ),
    ]


def _norms(model: FederatedModel, rounds: Sequence[AggregationRound]) -> SafeString:
    measured = model.model_updates.filter(round__in=[each.pk for each in rounds]).exclude(norm=None)
    rows: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for client, number, norm in measured.order_by("client_id", "round__number").values_list(
        "client_id", "round__number", "norm"
    ):
        rows[str(client)].append((f"round {number}", float(norm or 0.0)))
    return strip_plot("Norms of the updates, by client", rows)


def _lineage(
    model: FederatedModel, aggregates: Sequence[ModelAggregate], scores: dict[int, float]
) -> list[dict[str, Any]]:
    """The latest aggregate first."""
    versions: dict[str, list[str]] = defaultdict(list)
    for key, version in model.artifacts.values_list("values", "version"):
        versions[key].append(version)
    best = max if not model.lower_is_better else min
    best_score = best(scores.values()) if model.score_metric and scores else None
    rows = []
    for each in reversed(aggregates):
        made_by = getattr(each, "round", None)
        score = scores.get(each.pk)
        rows.append(
            {
                "aggregate": each,
                "score": score,
                "is_best": score is not None and score == best_score,
                "versions": ", ".join(versions[str(each.result.name)]),
                "round": made_by,
                "rolled_back_to": made_by.terms.get("rolled_back_to") if made_by else None,
            }
        )
    return rows


def _reasons(model: FederatedModel) -> list[Any]:
    """The reasons of rejections, the most frequent first."""
    invalid = model.model_updates.filter(status=ModelUpdate.Status.INVALID)
    counted = invalid.values("rejection_reason").annotate(count=Count("pk"))
    return list(counted.order_by("-count", "rejection_reason")[:10])
