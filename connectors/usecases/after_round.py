"""The steps after a round, which must not fail it: `latest.json`, the clients' status, and events.

A step that fails is reported and repeated later, at the latest by a sweep.
"""

from __future__ import annotations

from django.conf import settings

from connectors.publication.event_publisher import EventPublisher
from connectors.publication.pointer import write_pointer
from connectors.publication.status import write_statuses
from connectors.storage.port import Objects
from connectors.usecases.observer import Observer


def update_pointer(objects: Objects, model_id: int, observer: Observer) -> bool:
    """Bring a model's `latest.json` up to date; return whether that succeeded."""
    try:
        write_pointer(objects, model_id)
    except Exception as error:
        observer.step_delayed(f"writing latest.json of model {model_id}", error)
        return False
    return True


def update_statuses(objects: Objects, model_id: int, observer: Observer) -> None:
    """Bring the status documents of a model's clients up to date, if there are any."""
    if not settings.CLIENT_STATUS:
        return
    try:
        write_statuses(objects, model_id)
    except Exception as error:
        observer.step_delayed(f"writing the status of clients of model {model_id}", error)


def update_credentials(objects: Objects, observer: Observer) -> None:
    """Write the documents by which the API authenticates clients, where they are out of date."""
    # The aggregating function needs it in sweeps only.
    from connectors.publication.credentials import write_credentials

    try:
        write_credentials(objects)
    except Exception as error:
        observer.step_delayed("writing the credentials of clients", error)


def publish_events(publisher: EventPublisher | None, observer: Observer) -> None:
    """Send the events that are pending; those that cannot be sent now are sent by a later invocation."""
    if publisher is None:
        return
    try:
        observer.events_sent(publisher.publish())
    except Exception as error:
        observer.step_delayed("sending events", error)
