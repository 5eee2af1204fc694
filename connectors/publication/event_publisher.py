"""Publishes the events of the outbox on an EventBridge bus, so that nobody needs to poll."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

from aggregation.errors import TemporarilyUnavailable
from connectors.errors import translate_aws_errors, translate_database_errors
from connectors.publication.outbox import OutboxEvent, mark_published, pending_events

#: The `source` of all events.
SOURCE = "federated-aggregation"

#: Events that EventBridge accepts in one request.
BATCH = 10


class EventPublisher:
    """Publishes events on an event bus.

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

    def publish(self) -> int:
        """Publish the pending events and return how many there were.

        Raises
        ------
        TemporarilyUnavailable
            If the bus did not accept every event. Those it accepted are not sent again.
        """
        sent, refused = 0, []
        events = pending_events()
        with translate_database_errors():
            while batch := list(islice(events, BATCH)):
                failures = self._send(batch)
                sent += len(batch) - len(failures)
                refused += failures
        if refused:
            raise TemporarilyUnavailable(
                f"the event bus refused {len(refused)} events; the first: {refused[0]}"
            )
        return sent

    def _send(self, batch: Sequence[OutboxEvent]) -> list[str]:
        """Send some events; return the reasons for which some were refused."""
        entries = [
            {
                "EventBusName": self._bus,
                "Source": SOURCE,
                "DetailType": event.detail_type,
                "Detail": json.dumps(event.detail),
            }
            for event in batch
        ]
        with translate_aws_errors("the event bus"):
            answers = self._client.put_events(Entries=entries)["Entries"]
        answered = list(zip(batch, answers, strict=True))
        mark_published([event for event, answer in answered if "ErrorCode" not in answer])
        return [
            f"{answer['ErrorCode']}: {answer.get('ErrorMessage', '')}"
            for _, answer in answered
            if "ErrorCode" in answer
        ]
