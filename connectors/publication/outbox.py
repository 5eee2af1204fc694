"""The outbox: what has happened and has not been published on the event bus yet.

The changed rows themselves are the outbox. A row with something to publish is marked `event_pending` by
the transaction that changes it (rounds and updates by the column's default), and the mark is removed once
the bus has accepted the event. An event that could not be sent is sent by a later invocation, at the
latest by the next sweep. Events are therefore delivered at least once; `detail.event_id` is the same for
each delivery.

The schema of the events is in docs/events-out.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count

from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate

#: Raised when a field changes its meaning or is removed. Fields may be added without raising it.
SCHEMA = 1

#: Events of one kind in one invocation: publishing them must leave time for rounds.
MAX_EVENTS = 200

#: Characters of a reason in an event; EventBridge accepts 256 kB for an event.
MAX_REASON = 1000

State = AggregationRound.State


@dataclass(frozen=True, kw_only=True)
class OutboxEvent:
    """Something that has happened and is to be published.

    Parameters
    ----------
    detail_type : str
    detail : dict
    row
        The marked row.
    """

    detail_type: str
    detail: dict[str, Any]
    row: AggregationRound | ModelUpdate | FederatedModel | ModelAggregate


def pending_events() -> Iterator[OutboxEvent]:
    """Yield the events that have not been published, the oldest of each kind first."""
    yield from _ended_rounds()
    yield from _rejected_updates()
    yield from _paused_models()
    yield from _dropped_scores()


def mark_published(events: Sequence[OutboxEvent]) -> None:
    """Remove the marks of published events.

    A mark that has changed since it was read stays: the model was paused again meanwhile.
    """
    for kind, unmarked in _UNMARKED:
        rows = [event.row for event in events if isinstance(event.row, kind)]
        marks = {row.pk: row.event_pending for row in rows}
        if marks:
            marked = kind._default_manager.filter(pk__in=marks.keys())
            marked.filter(event_pending__in=set(marks.values())).update(event_pending=unmarked)


_UNMARKED = (
    (AggregationRound, False),
    (ModelUpdate, False),
    (FederatedModel, None),
    (ModelAggregate, None),
)


_ROUND_ENDED = {
    State.PUBLISHED: "Aggregate Published",
    State.FAILED: "Round Failed",
    State.REJECTED: "Round Rejected",
}


def _ended_rounds() -> Iterator[OutboxEvent]:
    rounds = AggregationRound.objects.filter(event_pending=True, state__gt=State.RUNNING)
    for ended in rounds.select_related("aggregate").order_by("pk")[:MAX_EVENTS]:
        detail = {
            **_detail(f"round-{ended.pk}", ended.federated_model_id, ended.finished_on),
            "round": ended.number,
            "attempt": ended.attempt,
            "updates_used": ended.updates_used,
            "updates_rejected": ended.updates_rejected,
        }
        if ended.aggregate:
            detail |= {
                "aggregate_id": ended.aggregate_id,
                "key": ended.aggregate.result.name,
                **_origin(ended),
            }
        if ended.error:
            detail["reason"] = ended.error[:MAX_REASON]
        yield OutboxEvent(detail_type=_ROUND_ENDED[State(ended.state)], detail=detail, row=ended)


def _origin(ended: AggregationRound) -> dict[str, Any]:
    """Return what made a round's aggregate."""
    original = ended.config_snapshot.get("rolled_back_to")
    if original:
        return {"made_by": "rollback", "rolled_back_to": original}
    return {"made_by": "workflow" if ended.external else "round"}


def _rejected_updates() -> Iterator[OutboxEvent]:
    rejected = ModelUpdate.objects.filter(event_pending=True, status=ModelUpdate.Status.INVALID)
    for update in rejected.order_by("pk")[:MAX_EVENTS]:
        detail = {
            **_detail(f"update-{update.pk}", update.federated_model_id, update.uploaded_on),
            "client_id": str(update.client_id),
            "key": update.data.name,
            "version": update.storage_version,
            "reason": update.rejection_reason[:MAX_REASON],
        }
        yield OutboxEvent(detail_type="Update Rejected", detail=detail, row=update)


def _paused_models() -> Iterator[OutboxEvent]:
    paused = FederatedModel.objects.filter(allow_aggregation=False).exclude(event_pending=None)
    for model in paused.order_by("pk")[:MAX_EVENTS]:
        on = model.event_pending
        detail = {
            **_detail(_dated_id(f"pause-{model.pk}", on), model.pk, on),
            "reason": model.pause_reason[:MAX_REASON],
        }
        yield OutboxEvent(detail_type="Model Paused", detail=detail, row=model)


def _dropped_scores() -> Iterator[OutboxEvent]:
    marked = ModelAggregate.objects.filter(event_pending__isnull=False)
    counted = marked.annotate(n=Count("client_scores")).select_related("federated_model", "parent")
    for aggregate in counted.order_by("pk")[:MAX_EVENTS]:
        on = aggregate.event_pending
        event_id = _dated_id(f"score-{aggregate.pk}", on)
        detail = {
            **_detail(event_id, aggregate.federated_model_id, on),
            "aggregate_id": aggregate.pk,
            "score": aggregate.validation_score,
            "parent_score": aggregate.parent.validation_score if aggregate.parent else None,
            "clients": aggregate.n,
            "reason": aggregate.dropped()[:MAX_REASON],
        }
        yield OutboxEvent(detail_type="Score Dropped", detail=detail, row=aggregate)


def _dated_id(event_id: str, on: datetime | None) -> str:
    """Return the id of an event that may happen to the same row again."""
    return f"{event_id}-{on:%Y%m%dT%H%M%S.%f}"


def _detail(event_id: str, model_id: int, on: datetime | None) -> dict[str, Any]:
    detail: dict[str, Any] = {"schema": SCHEMA, "event_id": event_id, "model_id": model_id}
    return detail | ({"on": on.isoformat()} if on else {})
