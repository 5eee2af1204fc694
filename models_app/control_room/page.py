"""The context of the page.

It takes a constant number of statements, and reads a bounded number of rows, however many clients, updates
and rounds there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import Case, Count, F, IntegerField, QuerySet, TextField, Value, When

from models_app.control_room.charts import (
    BYTES,
    TIMES,
    amount,
    clients_chart,
    effort_charts,
    learning_curve,
    seconds_of,
)
from models_app.control_room.norms import norms_chart
from models_app.control_room.scores import plotted_scores
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate

#: The latest rounds and aggregates that are drawn.
DRAWN = 60

#: Rows of a table, as on the admin's lists.
ROWS = 25

#: The latest rejected updates that are counted.
MAX_COUNTED = 2_000

Row = dict[str, Any]


def control_room(model: FederatedModel) -> dict[str, Any]:
    """Return the context of a federated model's page."""
    newest = model.aggregates.select_related("round", "parent", "federated_model")
    aggregates = list(newest.order_by("-number")[:DRAWN])[::-1]
    finished = model.rounds.exclude(finished_on=None).defer("checkpoint", "workers").order_by("-pk")
    # One more than is drawn: it tells since when updates were rejected before the first.
    previous, *rounds = [None, *reversed(finished[: DRAWN + 1])]
    if len(rounds) > DRAWN:
        previous, *rounds = rounds
    metric, scores = plotted_scores(model, aggregates)
    rule = model.rule()
    charts = [
        learning_curve(metric, aggregates, scores),
        clients_chart(rounds, _rejected_before(model, previous, rounds)),
        norms_chart(rounds),
        *effort_charts(rounds),
    ]
    return {
        "plots": [chart for chart in charts if chart],
        "measures_norms": rule.needs_gram or rule.needs_norms,
        "lineage": _lineage(model, aggregates[-ROWS:], scores),
        "aggregates": aggregates[-1].number if aggregates else 0,
        "rejected": _rejected(model).select_related("round", "client").order_by("-pk")[:ROWS],
        "reasons": _reasons(model),
        "contributions": _contributions(aggregates[-1]) if aggregates else [],
        "running": model.rounds.filter(state=AggregationRound.State.RUNNING)
        .defer("checkpoint", "workers")
        .first(),
        "ready": model.model_updates.filter(status__in=ModelUpdate.READY).count(),
        "members": model.clients.filter(paused=False).count(),
        "failed_rounds": [
            each for each in rounds if each.state != AggregationRound.State.PUBLISHED
        ][: -ROWS - 1 : -1],
    }


def _rejected(model: FederatedModel) -> QuerySet[ModelUpdate]:
    return model.model_updates.filter(status=ModelUpdate.Status.INVALID)


def _contributions(aggregate: ModelAggregate) -> QuerySet[ModelUpdate]:
    """Return the updates of an aggregate whose direction was measured, the most opposed first."""
    measured = aggregate.updates_applied.filter(cosine__isnull=False).select_related("client")
    return measured.order_by("cosine", "pk")[:ROWS]


def _latest_rejected(model: FederatedModel) -> QuerySet[ModelUpdate]:
    """Return the latest rejected updates of a model, of which there are at most `MAX_COUNTED`."""
    latest = _rejected(model).order_by("-pk").values("pk")[:MAX_COUNTED]
    return ModelUpdate.objects.filter(pk__in=latest)


def _rejected_before(
    model: FederatedModel,
    previous: AggregationRound | None,
    rounds: Sequence[AggregationRound],
) -> Mapping[int, int]:
    """Return, by round, how many updates were rejected before they were part of a round.

    They are those registered since the round before it had started: refused at intake, superseded, or
    based on too old an aggregate.
    """
    if not rounds:
        return {}
    outside = _latest_rejected(model).filter(round=None, created_on__lte=rounds[-1].started_on)
    if previous is not None:
        outside = outside.filter(created_on__gt=previous.started_on)
    # The first case that is true counts: the rounds stand in the order in which they started.
    starts = [When(created_on__lte=each.started_on, then=Value(each.pk)) for each in rounds]
    next_round = Case(*starts, output_field=IntegerField())
    counts = outside.annotate(next_round=next_round).values("next_round").annotate(n=Count("pk"))
    return {each["next_round"]: each["n"] for each in counts.order_by()}


def _reasons(model: FederatedModel) -> list[Row]:
    """Return the reasons of the latest rejections, the most frequent first."""
    superseded = When(
        rejection_reason__startswith="superseded by", then=Value("superseded by a newer update")
    )
    reason = Case(superseded, default=F("rejection_reason"), output_field=TextField())
    counts = _latest_rejected(model).annotate(reason=reason).values("reason")
    frequent = counts.annotate(count=Count("pk")).order_by("-count", "reason")[:10]
    return [{"reason": each["reason"], "count": each["count"]} for each in frequent]


def _lineage(
    model: FederatedModel, aggregates: Sequence[ModelAggregate], scores: Mapping[int, float]
) -> list[Row]:
    """Return the aggregates as rows, the latest first."""
    versions: dict[str, list[str]] = defaultdict(list)
    keys = [str(each.result.name) for each in aggregates]
    artifacts = model.artifacts.filter(values__in=keys).order_by("pk")
    for key, version in artifacts.values_list("values", "version"):
        versions[key].append(version)
    best = min if model.lower_is_better else max
    best_score = best(scores.values()) if model.score_metric and scores else None
    return [
        _lineage_row(each, scores.get(each.pk), best_score, versions[str(each.result.name)])
        for each in reversed(aggregates)
    ]


def _lineage_row(
    aggregate: ModelAggregate, score: float | None, best: float | None, versions: list[str]
) -> Row:
    made_by = getattr(aggregate, "round", None)
    return {
        "aggregate": aggregate,
        "score": score,
        "is_best": score is not None and score == best,
        "held_back": aggregate.dropped(),
        "versions": ", ".join(versions),
        "round": made_by,
        "took": amount(seconds_of(made_by), TIMES),
        "functions": made_by.workers.get("functions") if made_by else None,
        "read": amount(made_by.bytes_read, BYTES) if made_by else "",
        "rolled_back_to": made_by.config_snapshot.get("rolled_back_to") if made_by else None,
    }
