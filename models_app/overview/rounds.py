"""Rounds in a few numbers, and the current ones of several models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import OuterRef, Subquery

from models_app.models import AggregationRound, FederatedModel


@dataclass(frozen=True, kw_only=True)
class RoundSummary:
    """A round in a few numbers.

    Parameters
    ----------
    pk : int
    number, attempt : int
    state : AggregationRound.State
    started_on : datetime
    finished_on : datetime or None
    seconds : float or None
        How long it took; None while it runs.
    used, rejected : int
        Updates.
    bytes_read : int
    error : str
    """

    pk: int
    number: int
    attempt: int
    state: AggregationRound.State
    started_on: datetime
    finished_on: datetime | None
    seconds: float | None
    used: int
    rejected: int
    bytes_read: int
    error: str


def summarize(round: AggregationRound) -> RoundSummary:
    """Return a round in a few numbers."""
    return RoundSummary(
        pk=round.pk,
        number=round.number,
        attempt=round.attempt,
        state=AggregationRound.State(round.state),
        started_on=round.started_on,
        finished_on=round.finished_on,
        seconds=round.seconds,
        used=round.updates_used,
        rejected=round.updates_rejected,
        bytes_read=round.bytes_read,
        error=round.error,
    )


def current_rounds(models: Sequence[FederatedModel]) -> dict[int, list[AggregationRound]]:
    """Return the round of each model that runs, if one does, and the last one that ended."""
    running = AggregationRound.State.RUNNING
    own = AggregationRound.objects.filter(federated_model=OuterRef("pk"))
    newest = own.exclude(state=running).order_by("-pk")
    chosen = FederatedModel.objects.filter(pk__in=[model.pk for model in models]).annotate(
        ended=Subquery(newest.values("pk")[:1]),
        running=Subquery(own.filter(state=running).values("pk")[:1]),
    )
    pks = [pk for pair in chosen.values_list("ended", "running") for pk in pair if pk]
    found = defaultdict(list)
    rounds = AggregationRound.objects.filter(pk__in=pks)
    for each in rounds.defer("checkpoint", "workers", "config_snapshot"):
        found[each.federated_model_id].append(each)
    return found


def in_time(seconds: float | None) -> str:
    """Return seconds with a unit, with three digits."""
    if seconds is None:
        return "none"
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"
