"""What follows a round and must not fail it: events to the bus, `latest.json`, and what dead rounds left in
the bucket. Whatever cannot be done now is done later, at the latest by a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.utils import timezone

from connectors.application import event_publisher
from connectors.publication.pointer import stale_pointers, write_pointer
from connectors.runtime.telemetry import log_collected, log_not_sent, log_sent, logger
from connectors.storage.garbage import collect_garbage
from connectors.storage.port import Objects

#: Before every moment there is.
NEVER = datetime.min.replace(tzinfo=UTC)

#: How often an environment that sweeps also looks for what dead rounds left behind.
COLLECT_EVERY = timedelta(hours=1)


@dataclass
class Collecting:
    """When this environment looks for leftovers next; forgotten with it, and no harm done."""

    next_on: datetime = NEVER


collecting = Collecting()


def announce() -> None:
    """Tell what has happened; what cannot be told now is told by the next invocation."""
    to = event_publisher()
    if to is None:
        return
    try:
        log_sent(to.publish())
    except Exception:
        log_not_sent()


def write_pointer_later(objects: Objects, model_id: int) -> None:
    """Bring `latest.json` up to date; if that fails, the sweep does it."""
    try:
        write_pointer(objects, model_id)
    except Exception:
        logger.exception("latest.json not written: it is written later", model_id=model_id)


def write_stale_pointers(objects: Objects) -> None:
    """Write each `latest.json` that is behind; what fails now is found again by the next sweep."""
    try:
        behind = stale_pointers()
    except Exception:
        logger.exception("models whose latest.json is behind not found: the next sweep looks again")
        return
    for model_id in behind:
        write_pointer_later(objects, model_id)


def collect_orphans(objects: Objects) -> None:
    """Remove what dead rounds left behind: from time to time, since it lists the bucket."""
    now = timezone.now()
    if now < collecting.next_on:
        return
    collecting.next_on = now + COLLECT_EVERY
    try:
        for orphan in collect_garbage(objects, now):
            log_collected(orphan)
    except Exception:
        logger.exception("leftovers not collected: they are looked for again later")
