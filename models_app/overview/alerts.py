"""What an operator should look at, as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from django.utils import timezone
from django.utils.timesince import timesince

from models_app.models import AggregationRound, FederatedModel, ModelAggregate


class AlertKind(StrEnum):
    """What is wrong with a model."""

    PAUSED = "paused"
    FAILING = "failing"
    HELD_BACK = "held back"
    SILENT = "silent"


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something that an operator should look at, as a sentence."""

    kind: AlertKind
    text: str


def alerts_of(
    model: FederatedModel,
    aggregates: Sequence[ModelAggregate],
    last: AggregationRound | None,
    silent: int,
    members: int,
    silent_for: timedelta,
) -> list[Alert]:
    """Return the alerts of a model.

    Parameters
    ----------
    model : FederatedModel
    aggregates : sequence of ModelAggregate
        The latest, by their numbers.
    last : AggregationRound or None
        The last round that ended.
    silent, members : int
        Members that have sent nothing for ``silent_for``, and all members.
    silent_for : timedelta
    """
    alerts = []
    if not model.allow_aggregation:
        reason = f": {model.pause_reason}" if model.pause_reason else ""
        alerts.append(Alert(kind=AlertKind.PAUSED, text=f"Paused{reason}"))
    if model.failed_rounds:
        rounds = f"{model.failed_rounds} failed round{'s' if model.failed_rounds > 1 else ''}"
        error = f": {last.error}" if last and last.error else ""
        alerts.append(Alert(kind=AlertKind.FAILING, text=f"{rounds} in a row{error}"))
    if len(aggregates) > 1 and (dropped := _dropped(model, *aggregates[-2:])):
        alerts.append(Alert(kind=AlertKind.HELD_BACK, text=dropped))
    if silent:
        have = "has" if silent == 1 else "have"
        text = f"{silent} of {members} clients {have} sent nothing for {_in_words(silent_for)}"
        alerts.append(Alert(kind=AlertKind.SILENT, text=text))
    return alerts


def _in_words(duration: timedelta) -> str:
    """Return a duration such as ``5 hours``: unlike a time, it needs no zone."""
    now = timezone.now()
    return timesince(now - duration, now).replace("\xa0", " ")


def _dropped(model: FederatedModel, parent: ModelAggregate, latest: ModelAggregate) -> str:
    """Return by how much the latest aggregate scores worse than its parent, as a sentence."""
    if latest.parent_id != parent.pk:
        return ""
    latest.parent, latest.federated_model = parent, model
    return latest.dropped()
