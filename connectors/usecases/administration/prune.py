"""Delete old records so that the database does not grow without bound, and keep every guarantee.

See docs/decisions/2026-11-28-pruning.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from aggregation.errors import Conflict
from models_app.models import (
    AggregationRound,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
)

#: An event of S3 may wait 14 days in the queue, and 14 more in the dead-letter queue.
MIN_AGE = timedelta(days=30)

#: Uploads are refused up to this long after the youngest deleted record. It covers the difference
#: between S3's clock, by which uploads are dated, and the database's, by which rounds are.
MARGIN = timedelta(days=1)

#: Statuses of updates whose records may be deleted.
SETTLED = (ModelUpdate.Status.COMPLETE, ModelUpdate.Status.INVALID)


@dataclass(kw_only=True)
class Pruned:
    """The number of records of a model that were, or would be, deleted."""

    model: int
    updates: int = 0
    scores: int = 0
    rounds: int = 0


def prune(older_than: timedelta, *, dry_run: bool = False) -> Iterator[Pruned]:
    """Delete records that are older than an age, and yield what was deleted, model by model.

    Deleted are settled updates, the scores of aggregates, and rounds that made no aggregate. Those of a
    model's latest aggregate, all aggregates, the rounds that made them, and the rounds that a privacy
    account contains are kept.

    Raises
    ------
    Conflict
        If the age is less than `MIN_AGE`.
    """
    if older_than < MIN_AGE:
        raise Conflict(
            f"the age must be {MIN_AGE.days}d or more: events of uploads may be delivered that late"
        )
    cutoff = timezone.now() - older_than
    for model_id in list(FederatedModel.objects.order_by("pk").values_list("pk", flat=True)):
        pruned = _prune_model(model_id, cutoff, dry_run=dry_run)
        if pruned.updates or pruned.scores or pruned.rounds:
            yield pruned


def _prune_model(model_id: int, cutoff: datetime, *, dry_run: bool) -> Pruned:
    pruned = Pruned(model=model_id)
    delete = QuerySet.count if dry_run else _delete
    batches = [
        _outside_rounds(model_id, cutoff),
        *(_of_round(pk) for pk in _finished_rounds(model_id, cutoff)),
    ]
    if not dry_run and any(batch.exists() for batch in batches):
        # From here on, no event of an upload whose record is deleted below can register it again.
        FederatedModel.objects.filter(pk=model_id).update(pruned_before=cutoff + MARGIN)
    for batch in batches:
        pruned.updates += delete(batch)
    for aggregate_id in _scored_aggregates(model_id, cutoff):
        if not dry_run:
            ModelAggregate.objects.filter(pk=aggregate_id).update(scores_pruned=True)
        pruned.scores += delete(ClientAggregateScore.objects.filter(aggregate=aggregate_id))
    pruned.rounds = delete(_rounds_without_result(model_id, cutoff))
    return pruned


def _delete(rows: QuerySet[Any]) -> int:
    """Delete rows in one statement, without the signals that protect them from everybody else."""
    return int(rows._raw_delete(rows.db))


def _outside_rounds(model_id: int, cutoff: datetime) -> QuerySet[ModelUpdate]:
    """Return the updates that were rejected before they were part of a round."""
    return ModelUpdate.objects.filter(
        federated_model=model_id,
        status=ModelUpdate.Status.INVALID,
        round=None,
        uploaded_on__lt=cutoff,
        created_on__lt=cutoff,
    )


def _of_round(round_id: int) -> QuerySet[ModelUpdate]:
    return ModelUpdate.objects.filter(round=round_id, status__in=SETTLED)


def _finished_rounds(model_id: int, cutoff: datetime) -> list[int]:
    """Return the rounds whose updates may be deleted, all of them or none.

    The round of the latest aggregate is kept, so that this can always be verified. A round with an
    upload that is dated after its end by more than the margin is kept, since that upload would not be
    refused.
    """
    latest = ModelAggregate.objects.filter(federated_model=model_id).order_by("-number")
    late = ModelUpdate.objects.filter(round=OuterRef("pk"), uploaded_on__gte=cutoff + MARGIN)
    rounds = AggregationRound.objects.filter(
        Exists(_of_round(OuterRef("pk"))),  # type: ignore[arg-type]
        ~Exists(late),
        federated_model=model_id,
        finished_on__lt=cutoff,
    ).exclude(aggregate__in=latest.values("pk")[:1])
    return list(rounds.order_by("pk").values_list("pk", flat=True))


def _rounds_without_result(model_id: int, cutoff: datetime) -> QuerySet[AggregationRound]:
    """Return the rounds that made no aggregate and whose updates may all be deleted."""
    kept = ModelUpdate.objects.filter(round=OuterRef("pk")).exclude(
        status__in=SETTLED, uploaded_on__lt=cutoff + MARGIN
    )
    return AggregationRound.objects.filter(
        ~Exists(kept),
        federated_model=model_id,
        finished_on__lt=cutoff,
        privacy_charge=0,  # The others are part of their models' accounts.
        state__in=(AggregationRound.State.FAILED, AggregationRound.State.REJECTED),
    )


def _scored_aggregates(model_id: int, cutoff: datetime) -> list[int]:
    """Return the aggregates, except the latest two, whose scores may be deleted."""
    aggregates = ModelAggregate.objects.filter(federated_model=model_id)
    latest = list(aggregates.order_by("-number").values_list("pk", flat=True)[:2])
    old = aggregates.filter(created_on__lt=cutoff, scores_pruned=False).exclude(pk__in=latest)
    return list(old.order_by("pk").values_list("pk", flat=True))
