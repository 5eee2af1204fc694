"""The overview of one model: tiles, the learning curve with its marks, durations and rejections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from django.db.models import Case, Count, F, QuerySet, TextField, Value, When

from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate
from models_app.overview.cards import ModelCard, model_card
from models_app.overview.marks import Mark, marks_of, with_settings
from models_app.overview.rounds import RoundSummary, in_time, summarize
from models_app.overview.scores import Scores, scores_by_model

#: The latest aggregates, and rounds that ended, that are drawn.
DRAWN, ROUNDS = 60, 120

#: The latest rejected updates that are counted, and the reasons that are shown.
MAX_COUNTED, MAX_REASONS = 2_000, 10


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A figure with its name.

    Parameters
    ----------
    label, value : str
    note : str
        What explains the value.
    round, aggregate, artifact : int or None
        The id of what the value is of.
    """

    label: str
    value: str
    note: str = ""
    round: int | None = None
    aggregate: int | None = None
    artifact: int | None = None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """An aggregate of the learning curve.

    Parameters
    ----------
    aggregate, number : int
        Its id and its number.
    score : float or None
    created_on : datetime
    round : int or None
        The id of its round.
    used, rejected : int
        Updates of that round.
    is_best : bool
        Whether no drawn aggregate scores better; only if the model names its metric.
    held_back : str
        Why it would not be published, as a sentence; usually empty.
    versions : tuple of str
        Published of it.
    """

    aggregate: int
    number: int
    score: float | None
    created_on: datetime
    round: int | None
    used: int
    rejected: int
    is_best: bool
    held_back: str
    versions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The scores of the latest aggregates, and what happened meanwhile."""

    metric: str
    lower_is_better: bool
    points: tuple[CurvePoint, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True)
class Durations:
    """How long the latest published rounds took, in seconds; None without a round.

    The 95th percentile is the nearest rank: a duration that was measured.
    """

    rounds: int
    median: float | None
    p95: float | None


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason for rejections, and how often it was given lately."""

    reason: str
    count: int


@dataclass(frozen=True, kw_only=True)
class ModelOverview:
    """What the first page of a model shows.

    Parameters
    ----------
    card : ModelCard
    tiles : tuple of Tile
    curve : Curve
    durations : Durations
    rounds : tuple of RoundSummary
        That ended, the latest first.
    reasons : tuple of Reason
        Of the latest rejections, the most frequent first.
    """

    card: ModelCard
    tiles: tuple[Tile, ...]
    curve: Curve
    durations: Durations
    rounds: tuple[RoundSummary, ...]
    reasons: tuple[Reason, ...]


def model_overview(model: FederatedModel) -> ModelOverview:
    """Return the overview of a model, in a constant number of statements."""
    card = model_card(model)
    newest = model.aggregates.select_related("round", "parent", "federated_model")
    newest = newest.defer("round__checkpoint", "round__workers", "round__config_snapshot")
    aggregates = list(newest.order_by("-number")[:DRAWN])[::-1]
    ended = model.rounds.exclude(state=AggregationRound.State.RUNNING)
    rounds = list(with_settings(ended).order_by("-pk")[:ROUNDS])[::-1]
    durations = _durations(rounds)
    return ModelOverview(
        card=card,
        tiles=tuple(_tiles(model, card, durations)),
        curve=_curve(model, aggregates, rounds),
        durations=durations,
        rounds=tuple(summarize(each) for each in reversed(rounds)),
        reasons=tuple(_reasons(model)),
    )


def _curve(
    model: FederatedModel, aggregates: Sequence[ModelAggregate], rounds: Sequence[Any]
) -> Curve:
    scores = scores_by_model([model], aggregates)[model.pk]
    keys = [str(each.result.name) for each in aggregates]
    artifacts = list(model.artifacts.filter(values__in=keys).order_by("pk"))
    versions: dict[str, tuple[str, ...]] = {}
    for each in artifacts:
        key = str(each.values.name)
        versions[key] = (*versions.get(key, ()), each.version)
    originals = [int(each.rolled_back_to) for each in rounds if each.rolled_back_to is not None]
    numbers = dict(model.aggregates.filter(pk__in=originals).values_list("pk", "number"))
    return Curve(
        metric=scores.metric,
        lower_is_better=model.lower_is_better,
        points=tuple(_points(model, aggregates, scores, versions)),
        marks=tuple(marks_of(rounds, aggregates, artifacts, numbers)),
    )


def _points(
    model: FederatedModel,
    aggregates: Sequence[ModelAggregate],
    scores: Scores,
    versions: Mapping[str, tuple[str, ...]],
) -> list[CurvePoint]:
    best = min if model.lower_is_better else max
    best_score = best(scores.values.values()) if model.score_metric and scores.values else None
    return [
        _point(
            each, scores.values.get(each.pk), best_score, versions.get(str(each.result.name), ())
        )
        for each in aggregates
    ]


def _point(
    aggregate: ModelAggregate,
    score: float | None,
    best: float | None,
    versions: tuple[str, ...],
) -> CurvePoint:
    made_by: AggregationRound | None = getattr(aggregate, "round", None)
    return CurvePoint(
        aggregate=aggregate.pk,
        number=aggregate.number,
        score=score,
        created_on=aggregate.created_on,
        round=made_by.pk if made_by else None,
        used=made_by.updates_used if made_by else 0,
        rejected=made_by.updates_rejected if made_by else 0,
        is_best=score is not None and score == best,
        held_back=aggregate.dropped(),
        versions=versions,
    )


def _durations(rounds: Sequence[Any]) -> Durations:
    seconds = sorted(
        each.seconds
        for each in rounds
        if each.state == AggregationRound.State.PUBLISHED and each.finished_on and not each.external
    )
    if not seconds:
        return Durations(rounds=0, median=None, p95=None)
    rank = math.ceil(0.95 * len(seconds)) - 1
    return Durations(rounds=len(seconds), median=median(seconds), p95=seconds[rank])


def latest_rejected(model: FederatedModel) -> QuerySet[ModelUpdate]:
    """Return the latest rejected updates of a model, of which there are at most `MAX_COUNTED`."""
    rejected = model.model_updates.filter(status=ModelUpdate.Status.INVALID)
    latest = rejected.order_by("-pk").values("pk")[:MAX_COUNTED]
    return ModelUpdate.objects.filter(pk__in=latest)


def _reasons(model: FederatedModel) -> list[Reason]:
    superseded = When(
        rejection_reason__startswith="superseded by", then=Value("superseded by a newer update")
    )
    reason = Case(superseded, default=F("rejection_reason"), output_field=TextField())
    counts = (
        latest_rejected(model).annotate(reason=reason).values("reason").annotate(count=Count("pk"))
    )
    frequent = counts.order_by("-count", "reason")[:MAX_REASONS]
    return [Reason(reason=each["reason"], count=each["count"]) for each in frequent]


def _tiles(model: FederatedModel, card: ModelCard, durations: Durations) -> list[Tile]:
    return [
        Tile(
            label="State",
            value=str(card.state),
            note=model.pause_reason if not model.allow_aggregation else "",
        ),
        Tile(label="Updates", value=card.readiness, note=card.requirement),
        Tile(
            label="Clients",
            value=str(card.members),
            note=f"{card.silent} silent" if card.silent else "",
        ),
        _aggregate_tile(card),
        _round_tile(card.last_round),
        Tile(label="Duration of a round", value=in_time(durations.median), note=_spread(durations)),
        Tile(
            label="Version",
            value=card.version or "none",
            artifact=model.current_artifact_id,
        ),
        *([Tile(label="Privacy", value=card.privacy)] if card.privacy else []),
    ]


def _aggregate_tile(card: ModelCard) -> Tile:
    if not card.aggregates:
        return Tile(label="Aggregate", value="none")
    latest = card.scores[-1] if card.scores else None
    note = f"{card.metric} {latest.score:.4g} at aggregate {latest.number}" if latest else ""
    return Tile(label="Aggregate", value=str(card.aggregates), note=note)


def _round_tile(last: RoundSummary | None) -> Tile:
    if last is None:
        return Tile(label="Last round", value="none")
    is_published = last.state == AggregationRound.State.PUBLISHED
    used = f"{last.used} used" if is_published else "no aggregate"
    words = f"{last.state.name.lower()}, {used}, {last.rejected} rejected"
    if last.seconds is not None:
        words += f", took {in_time(last.seconds)}"
    return Tile(label="Last round", value=str(last.number), note=words, round=last.pk)


def _spread(durations: Durations) -> str:
    if durations.p95 is None:
        return ""
    return f"median of {durations.rounds}; 95th percentile {in_time(durations.p95)}"
