"""One card for each federated model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import reduce
from itertools import pairwise
from operator import or_
from statistics import median

from django.db.models import OuterRef, Q, Subquery, prefetch_related_objects
from django.utils import timezone

from models_app.models import AggregationRound, FederatedModel, ModelAggregate
from models_app.overview.alerts import Alert, alerts_of
from models_app.overview.readiness import (
    Ready,
    count_members,
    count_ready,
    count_silent,
    readiness_of,
)
from models_app.overview.rounds import RoundSummary, current_rounds, summarize
from models_app.overview.scores import Scores, scores_by_model
from models_app.privacy import in_words, spent_by_model, spent_epsilon
from models_app.requirements import needed_updates, requirement_in_words

#: Aggregates of a sparkline.
DRAWN = 20

#: A client is silent if it has sent nothing for this many of the usual intervals between aggregates,
#: which are taken as at least an hour; without any interval, for a week.
SILENT_INTERVALS, LEAST_INTERVAL, SILENT_WITHOUT_INTERVAL = 5, timedelta(hours=1), timedelta(days=7)


class State(StrEnum):
    """What a model is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    FAILING = "failing"
    READY = "ready"
    WAITING = "waiting"


@dataclass(frozen=True, kw_only=True)
class ScorePoint:
    """The score of an aggregate."""

    aggregate: int
    number: int
    score: float


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The state of a model.

    Parameters
    ----------
    pk : int
    name, rule : str
    state : State
    ready, needed : int
        Clients with an update that the next round could use, and how many it needs.
    members : int
        Clients that are not paused.
    requirement : str
        In words.
    aggregates : int
        The number of the latest aggregate; 0 if there is none.
    metric : str
        What the score is; empty if no score was reported.
    lower_is_better : bool
    scores : tuple of ScorePoint
        Of the latest aggregates, the oldest first.
    version : str
        The current version; empty if none is published.
    running, last_round : RoundSummary or None
        The round that runs, and the last one that ended.
    silent : int
        Members that have sent nothing since ``silent_since``.
    silent_since : datetime
    alerts : tuple of Alert
    epsilon : float or None
        What the finished rounds of a private model have spent; None for other models, and above 50.
    privacy : str
        The same in words, with the limit and the neighbouring relation; empty for other models.
    """

    pk: int
    name: str
    rule: str
    state: State
    ready: int
    needed: int
    members: int
    requirement: str
    aggregates: int
    metric: str
    lower_is_better: bool
    scores: tuple[ScorePoint, ...]
    version: str
    running: RoundSummary | None
    last_round: RoundSummary | None
    silent: int
    silent_since: datetime
    alerts: tuple[Alert, ...]
    epsilon: float | None = None
    privacy: str = ""

    @property
    def readiness(self) -> str:
        """The updates that are ready: ``3 of 5 updates ready``, or ``7 updates ready, 5 needed``."""
        if self.ready > self.needed:
            return f"{self.ready} updates ready, {self.needed} needed"
        return f"{self.ready} of {self.needed} update{'' if self.needed == 1 else 's'} ready"

    @property
    def score(self) -> float | None:
        """The score of the latest aggregate; None if it has none yet."""
        latest = self.scores[-1] if self.scores else None
        return latest.score if latest and latest.number == self.aggregates else None


def model_card(model: FederatedModel) -> ModelCard:
    """Return the card of one model."""
    (card,) = model_cards([model])
    return card


def model_cards(models: Sequence[FederatedModel], now: datetime | None = None) -> list[ModelCard]:
    """Return a card for each model, in at most nine statements for all of them; ten if one is private.

    Parameters
    ----------
    models : sequence of FederatedModel
        A page of them: the statements have a few parameters for each model.
    now : datetime, optional
    """
    models = list(models)
    if not models:
        return []
    now = now or timezone.now()
    prefetch_related_objects(models, "current_artifact")
    aggregates = _latest_aggregates(models)
    numbers = {pk: own[-1].number for pk, own in aggregates.items() if own}
    scores = scores_by_model(models, [each for own in aggregates.values() for each in own])
    rounds = current_rounds(models)
    members = count_members(models)
    ready = count_ready(models, numbers)
    since = {model.pk: _silent_since(aggregates[model.pk], now) for model in models}
    silent = count_silent(since)
    spent = spent_by_model(models)
    return [
        _card(
            model,
            aggregates[model.pk],
            scores[model.pk],
            rounds[model.pk],
            members=members.get(model.pk, 0),
            ready=ready.get(model.pk, Ready()),
            silent=silent.get(model.pk, 0),
            silent_since=since[model.pk],
            spent=spent.get(model.pk, 0),
            now=now,
        )
        for model in models
    ]


def _card(
    model: FederatedModel,
    aggregates: Sequence[ModelAggregate],
    scores: Scores,
    rounds: Sequence[AggregationRound],
    *,
    members: int,
    ready: Ready,
    silent: int,
    silent_since: datetime,
    spent: int,
    now: datetime,
) -> ModelCard:
    running = next((each for each in rounds if each.state == AggregationRound.State.RUNNING), None)
    last = next((each for each in rounds if each.state != AggregationRound.State.RUNNING), None)
    needed = needed_updates(model, readiness_of(members, ready, now))
    return ModelCard(
        pk=model.pk,
        name=model.name,
        rule=model.aggregator,
        state=_state(model, running, ready.clients >= needed),
        ready=ready.clients,
        needed=needed,
        members=members,
        requirement=requirement_in_words(model, members),
        aggregates=aggregates[-1].number if aggregates else 0,
        metric=scores.metric,
        lower_is_better=model.lower_is_better,
        scores=tuple(
            ScorePoint(aggregate=each.pk, number=each.number, score=scores.values[each.pk])
            for each in aggregates
            if each.pk in scores.values
        ),
        version=model.current_artifact.version if model.current_artifact else "",
        running=summarize(running) if running else None,
        last_round=summarize(last) if last else None,
        silent=silent,
        silent_since=silent_since,
        alerts=tuple(alerts_of(model, aggregates, last, silent, members, now - silent_since)),
        epsilon=spent_epsilon(model.differential_privacy, spent),
        privacy=in_words(model.differential_privacy, spent),
    )


def _state(model: FederatedModel, running: AggregationRound | None, may_start: bool) -> State:
    if running:
        return State.RUNNING
    if not model.allow_aggregation:
        return State.PAUSED
    if model.failed_rounds:
        return State.FAILING
    return State.READY if may_start else State.WAITING


def _latest_aggregates(models: Sequence[FederatedModel]) -> dict[int, list[ModelAggregate]]:
    """Return the latest `DRAWN` aggregates of each model, by their numbers, which have no gaps."""
    ids = [model.pk for model in models]
    newest = ModelAggregate.objects.filter(federated_model=OuterRef("pk")).order_by("-number")
    latest = FederatedModel.objects.filter(pk__in=ids).annotate(
        latest=Subquery(newest.values("number")[:1])
    )
    found: dict[int, list[ModelAggregate]] = {pk: [] for pk in ids}
    drawn = [
        Q(federated_model=pk, number__gt=number - DRAWN)
        for pk, number in latest.values_list("pk", "latest")
        if number
    ]
    if drawn:
        rows = ModelAggregate.objects.filter(reduce(or_, drawn)).defer("score_state")
        for each in rows.order_by("number"):
            found[each.federated_model_id].append(each)
    return found


def _silent_since(aggregates: Sequence[ModelAggregate], now: datetime) -> datetime:
    """Return the time since which a client should have sent something."""
    intervals = [(b.created_on - a.created_on).total_seconds() for a, b in pairwise(aggregates)]
    if not intervals:
        return now - SILENT_WITHOUT_INTERVAL
    usual = max(timedelta(seconds=median(intervals)), LEAST_INTERVAL)
    return now - SILENT_INTERVALS * usual
