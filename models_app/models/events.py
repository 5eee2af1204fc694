"""Events that are to be published on the event bus."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings


def publishes_events() -> bool:
    """Return whether events are published: whether an event bus is configured."""
    return bool(settings.EVENT_BUS)


def pause_changes(reason: str, now: datetime) -> dict[str, Any]:
    """Return the column values that pause a federated model, for `QuerySet.update`."""
    return {
        "allow_aggregation": False,
        "pause_reason": reason,
        "event_pending": now if publishes_events() else None,
    }
