"""What the page of a federated model shows, in a number of statements that no update adds to."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from django.db.models import Count, QuerySet
from django.utils.safestring import SafeString

from aggregation.scores import is_score, weighted_mean_score
from models_app.models import (
    AggregationRound,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
)
from models_app.plots import Axes, Dot, Series, bar_plot, line_plot, strip_plot

#: Rounds, aggregates and rejected updates that are shown: the latest.
SHOWN = 60

#: A norm is far out beyond this many robust standard deviations (Iglewicz and Hoaglin, *How to Detect and
#: Handle Outliers*, 1993), and only if it is twice what is usual: where norms hardly differ, little is far.
FAR_OUT, FAR_OUT_AT_LEAST = 3.5, 2.0

#: Units and how many bytes or seconds they hold, the largest first.
BYTES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
TIMES = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0), ("ms", 1e-3))


def control_room(model: FederatedModel) -> dict[str, Any]:
    """The context of the page."""
    newest = model.aggregates.select_related("round", "parent", "federated_model").order_by(
        "-number"
    )
    aggregates = list(newest[:SHOWN])[::-1]
    ended = model.rounds.exclude(finished_on=None).order_by("-pk")[:SHOWN]
    rounds = list(ended)[::-1]
    metric, scores = _scores(model, aggregates)
    rule = model.rule()
    plots = [
        _learning_curve(metric, aggregates, scores),
        _clients(rounds),
        _norms(model, rounds),
        *_costs(rounds),
    ]
    return {
        "plots": [plot for plot in plots if plot],
        "measures_norms": rule.needs_gram or rule.needs_norms,
        "lineage": _lineage(model, aggregates, scores),
        "rejected": _rejected(model).select_related("round").order_by("-pk")[:SHOWN],
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
        if name != "num_examples" and is_score(result[name])
    ]
    if not names:
        return "", {}
    metric = names[0]
    means = {pk: weighted_mean_score(each, metric).value for pk, each in results.items()}
    return metric, {pk: mean for pk, mean in means.items() if mean is not None}


def _learning_curve(
    metric: str, aggregates: Sequence[ModelAggregate], scores: dict[int, float]
) -> SafeString:
    values = [scores.get(each.pk) for each in aggregates]
    series = Series(name=metric, kind="good", values=values)
    labels = [str(each.number) for each in aggregates]
    title = f"Learning curve: {metric} of each aggregate"
    return line_plot(Axes(title=title, across="aggregate", up=metric), labels, series)


def _clients(rounds: Sequence[AggregationRound]) -> SafeString:
    used = [float(each.updates_used) for each in rounds]
    rejected = [float(each.updates_rejected) for each in rounds]
    axes = Axes(title="Clients of each round", across="round", up="clients", whole=True)
    return bar_plot(
        axes,
        [str(each.number) for each in rounds],
        [
            Series(name="used", kind="good", values=used),
            Series(name="rejected", kind="bad", values=rejected),
        ],
    )


def _costs(rounds: Sequence[AggregationRound]) -> list[SafeString]:
    labels = [str(each.number) for each in rounds]
    published = [each.state == AggregationRound.State.PUBLISHED for each in rounds]
    plots = []
    for title, amounts, units in (
        ("Duration of each round", [_seconds(each) or 0.0 for each in rounds], TIMES),
        ("Read from storage in each round", [float(each.bytes_read) for each in rounds], BYTES),
    ):
        unit, size = _unit(max(amounts, default=0.0), units)
        stacked = _by_outcome([amount / size for amount in amounts], published)
        plots.append(bar_plot(Axes(title=title, across="round", up=unit), labels, stacked))
    return plots


def _by_outcome(amounts: Sequence[float], published: Sequence[bool]) -> list[Series]:
    """One series, or two where some rounds made no aggregate."""
    pairs = list(zip(amounts, published, strict=True))
    made = Series(name="published", kind="plain", values=[a if was else 0.0 for a, was in pairs])
    lost = Series(name="no aggregate", kind="bad", values=[0.0 if was else a for a, was in pairs])
    return [made] if all(published) else [made, lost]


def _seconds(made_by: AggregationRound | None) -> float | None:
    if made_by is None or made_by.finished_on is None:
        return None
    return (made_by.finished_on - made_by.started_on).total_seconds()


def _unit(greatest: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The largest unit of which there is at least one."""
    return next((unit for unit in units if greatest >= unit[1]), units[-1])


def amount(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    """A number in its unit, with three digits or all before the point; nothing for none."""
    if value is None:
        return ""
    name, size = _unit(value, units)
    shown = value / size
    return f"{shown:.0f} {name}" if shown >= 99.5 else f"{shown:.3g} {name}"


def _norms(model: FederatedModel, rounds: Sequence[AggregationRound]) -> SafeString:
    """Each norm as a multiple of the median of its round: norms shrink while a model learns."""
    measured = model.model_updates.filter(round__in=[each.pk for each in rounds]).exclude(norm=None)
    found = [
        (str(client), made_by, number, float(norm))
        for client, made_by, number, norm in measured.order_by("pk").values_list(
            "client_id", "round_id", "round__number", "norm"
        )
        if norm is not None and math.isfinite(norm)
    ]
    usual = _medians([(made_by, norm) for _, made_by, _, norm in found])
    rows: dict[str, list[Dot]] = defaultdict(list)
    for client, made_by, number, norm in found:
        said = f"round {number}: {norm:.6g}, the median is {usual[made_by]:.6g}"
        rows[client].append(Dot(norm / (usual[made_by] or 1.0), said))
    axes = Axes(title="Norms of the updates", across="norm ÷ median norm of its round", up="client")
    return strip_plot(axes, rows, far_out([dot.value for dots in rows.values() for dot in dots]))


def _medians(norms: Sequence[tuple[int, float]]) -> Mapping[int, float]:
    by_round: dict[int, list[float]] = defaultdict(list)
    for made_by, norm in norms:
        by_round[made_by].append(norm)
    return {made_by: median(values) for made_by, values in by_round.items()}


def far_out(values: Sequence[float]) -> float:
    """Above which a value is far out, even where nearly half of them are."""
    if not values:
        return math.inf
    middle = median(values)
    spread = median(abs(value - middle) for value in values) / 0.6745
    return max(middle + FAR_OUT * spread, FAR_OUT_AT_LEAST * middle)


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
                "held_back": each.dropped(),
                "versions": ", ".join(versions[str(each.result.name)]),
                "round": made_by,
                "took": amount(_seconds(made_by), TIMES),
                "read": amount(made_by.bytes_read, BYTES) if made_by else "",
                "rolled_back_to": made_by.config_snapshot.get("rolled_back_to")
                if made_by
                else None,
            }
        )
    return rows


def _rejected(model: FederatedModel) -> QuerySet[ModelUpdate]:
    return model.model_updates.filter(status=ModelUpdate.Status.INVALID)


def _reasons(model: FederatedModel) -> list[Any]:
    """The reasons of rejections, the most frequent first."""
    counted = _rejected(model).values("rejection_reason").annotate(count=Count("pk"))
    return list(counted.order_by("-count", "rejection_reason")[:10])
