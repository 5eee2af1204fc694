"""Events out: what has happened is told to an EventBridge bus, so that nobody needs to poll.

The rows that changed are the outbox: a round, an update, a model or an aggregate is marked `event_pending`
as it is written, in the transaction that makes the news, and the mark is taken away once the bus has the
event.
What could not be sent is sent by the next invocation, at the latest by the next sweep. Hence an event
comes at least once; its `detail.event_id` is the same whenever it comes.

The schema of the events is in docs/events-out.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count

from aggregation.errors import TemporarilyUnavailable
from connectors.errors import translate_aws_errors, translate_database_errors
from connectors.rounds.selectors import State, UpdateStatus
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate

#: What events say they come from.
SOURCE = "federated-aggregation"

#: Raised when a field changes its meaning or goes; fields may be added without.
SCHEMA = 1

#: As many as EventBridge takes in one request.
BATCH = 10

#: Of one kind, in one invocation: telling must not eat up the time of rounds.
AT_MOST = 200

#: Longest reason that is told; an entry may have 256 kB.
MAX_REASON = 1000


@dataclass(frozen=True, kw_only=True)
class OutboxEvent:
    """Something that has happened and is to be told.

    Parameters
    ----------
    detail_type : str
    detail : dict
    row
        What bears the mark.
    """

    detail_type: str
    detail: dict[str, Any]
    row: AggregationRound | ModelUpdate | FederatedModel | ModelAggregate


class EventPublisher:
    """Tells what has happened to an event bus.

    Parameters
    ----------
    client
        boto3's EventBridge client.
    bus : str
        Name or ARN.
    """

    def __init__(self, client: Any, bus: str) -> None:
        self._client = client
        self._bus = bus

    def announce(self) -> int:
        """Send what has not been told yet; how many events there were.

        Raises
        ------
        TemporarilyUnavailable
            If the bus did not take every event; those it took are done with.
        """
        sent, refused = 0, []
        with translate_database_errors():
            for batch in _batches(pending()):
                failures = self._send(batch)
                sent += len(batch) - len(failures)
                refused += failures
        if refused:
            raise TemporarilyUnavailable(f"the event bus refused {len(refused)}: {refused[0]}")
        return sent

    def _send(self, batch: Sequence[OutboxEvent]) -> list[str]:
        """Send some events; why those were refused that were."""
        entries = [
            {
                "EventBusName": self._bus,
                "Source": SOURCE,
                "DetailType": news.detail_type,
                "Detail": json.dumps(news.detail),
            }
            for news in batch
        ]
        with translate_aws_errors("the event bus"):
            answers = self._client.put_events(Entries=entries)["Entries"]
        _mark_told([n for n, a in zip(batch, answers, strict=True) if "ErrorCode" not in a])
        return [
            f"{a['ErrorCode']}: {a.get('ErrorMessage', '')}" for a in answers if "ErrorCode" in a
        ]


def pending() -> Iterator[OutboxEvent]:
    """What has not been told yet, oldest first within its kind."""
    yield from _ended_rounds()
    yield from _rejected_updates()
    yield from _paused_models()
    yield from _dropped_scores()


_ROUND_ENDED = {
    State.PUBLISHED: "Aggregate Published",
    State.FAILED: "Round Failed",
    State.REJECTED: "Round Rejected",
}


def _ended_rounds() -> Iterator[OutboxEvent]:
    rounds = AggregationRound.objects.filter(event_pending=True, state__gt=State.RUNNING)
    for ended in rounds.select_related("aggregate").order_by("pk")[:AT_MOST]:
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
        yield OutboxEvent(
            detail_type=_ROUND_ENDED[State(ended.state)],
            detail=detail,
            row=ended,
        )


def _origin(ended: AggregationRound) -> dict[str, Any]:
    """What made a round's aggregate."""
    original = ended.config_snapshot.get("rolled_back_to")
    if original:
        return {"made_by": "rollback", "rolled_back_to": original}
    return {"made_by": "workflow" if ended.external else "round"}


def _rejected_updates() -> Iterator[OutboxEvent]:
    updates = ModelUpdate.objects.filter(event_pending=True, status=UpdateStatus.INVALID)
    for update in updates.order_by("pk")[:AT_MOST]:
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
    for model in paused.order_by("pk")[:AT_MOST]:
        on = model.event_pending
        detail = {
            **_detail(_at(f"pause-{model.pk}", on), model.pk, on),
            "reason": model.pause_reason[:MAX_REASON],
        }
        yield OutboxEvent(detail_type="Model Paused", detail=detail, row=model)


def _dropped_scores() -> Iterator[OutboxEvent]:
    marked = ModelAggregate.objects.filter(event_pending__isnull=False)
    counted = marked.annotate(n=Count("client_scores")).select_related("federated_model", "parent")
    for aggregate in counted.order_by("pk")[:AT_MOST]:
        on = aggregate.event_pending
        detail = {
            **_detail(_at(f"score-{aggregate.pk}", on), aggregate.federated_model_id, on),
            "aggregate_id": aggregate.pk,
            "score": aggregate.validation_score,
            "parent_score": aggregate.parent.validation_score if aggregate.parent else None,
            "clients": aggregate.n,
            "reason": aggregate.dropped()[:MAX_REASON],
        }
        yield OutboxEvent(detail_type="Score Dropped", detail=detail, row=aggregate)


def _at(event_id: str, on: datetime | None) -> str:
    """The id of an event that may happen to the same row again."""
    return f"{event_id}-{on:%Y%m%dT%H%M%S.%f}"


def _detail(event_id: str, model_id: int, on: datetime | None) -> dict[str, Any]:
    detail: dict[str, Any] = {"schema": SCHEMA, "event_id": event_id, "model_id": model_id}
    return detail | ({"on": on.isoformat()} if on else {})


def _mark_told(sent: Sequence[OutboxEvent]) -> None:
    """Take the marks away that were seen: a model paused anew meanwhile bears another."""
    for kind, unmarked in _UNMARKED:
        seen = {news.row.pk: news.row.event_pending for news in sent if isinstance(news.row, kind)}
        if seen:
            marked = kind._default_manager.filter(pk__in=seen.keys())
            marked.filter(event_pending__in=set(seen.values())).update(event_pending=unmarked)


_UNMARKED = (
    (AggregationRound, False),
    (ModelUpdate, False),
    (FederatedModel, None),
    (ModelAggregate, None),
)


def _batches(news: Iterable[OutboxEvent]) -> Iterator[list[OutboxEvent]]:
    batch: list[OutboxEvent] = []
    for each in news:
        batch.append(each)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
