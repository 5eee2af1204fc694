"""`status/<model>/<client>.json`: what became of a client's updates, for clients that see only the bucket.

An update whose status has changed is found by `published_status`, the status that its client's document
shows. A document that could not be written is therefore written by a later invocation, at the latest by
the next sweep. The number of statements depends neither on the number of clients nor on that of updates.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from django.conf import settings
from django.db.models import Case, F, Q, QuerySet, When, Window
from django.db.models.functions import RowNumber

from aggregation.errors import AggregationError, TemporarilyUnavailable
from connectors.errors import translate_database_errors
from connectors.publication.progress import read_progress, write_progress
from connectors.rounds.sql import ids_in
from connectors.storage.keys import status_key
from connectors.storage.port import Objects
from models_app.models import ModelUpdate
from models_app.models.update import UNPUBLISHED

#: The version of the document's format.
FORMAT = 1

#: The newest updates of a client that its document shows.
MAX_UPDATES = 20

#: Characters of a reason.
MAX_REASON = 1000

#: Changed updates that one call handles: at 20 ms for a document, and 16 at a time, some six seconds.
MAX_CHANGED = 5_000

#: Documents that are held in memory at the same time.
BATCH = 200

#: The columns that a document shows.
SHOWN = (
    *("data", "status", "rejection_reason", "applied_aggregate_id"),
    *("scaling_factor", "uploaded_on"),
)

Status = ModelUpdate.Status
_STATES = {
    Status.PENDING: "registered",
    Status.FAILED: "registered",
    Status.RUNNING: "running",
    Status.COMPLETE: "complete",
    Status.INVALID: "rejected",
}


def changed_updates() -> QuerySet[ModelUpdate]:
    """Return the updates whose status is not the one that their client's document shows."""
    published = Q(published_status__isnull=False)
    return ModelUpdate.objects.filter(published & ~Q(published_status=F("status")))


def models_with_changes() -> list[int]:
    """Return the ids of the models of which a client's document is out of date."""
    changed = changed_updates().order_by("federated_model_id")
    with translate_database_errors():
        return list(changed.values_list("federated_model_id", flat=True).distinct())


def write_statuses(objects: Objects, model_id: int) -> int:
    """Write the documents of the clients whose updates have changed.

    Returns
    -------
    int
        The number of documents written.

    Raises
    ------
    UnknownModel
    TemporarilyUnavailable
        If a document could not be written. The others are, and it is written by a later call.
    """
    with translate_database_errors():
        changed = changed_updates().filter(federated_model_id=model_id).order_by("pk")
        rows = list(changed.values_list("pk", "client_id", "status")[:MAX_CHANGED])
        if not rows:
            return 0
        if settings.CLIENT_API:
            progress, refreshed = write_progress(objects, model_id)
        else:
            progress, refreshed = read_progress(model_id)
        documents = _documents(model_id, [*(pk for pk, _, _ in rows), *refreshed], asdict(progress))
        written, failures = _write(objects, model_id, documents)
        _mark((pk, status) for pk, client, status in rows if client not in failures)
    if failures:
        error = next(iter(failures.values()))
        raise TemporarilyUnavailable(f"{len(failures)} status documents not written: {error}")
    return written


def recorded_status(key: str) -> dict[str, Any] | None:
    """Return what the database says of an update, as documents show it; None if it is not registered."""
    recorded = ModelUpdate.objects.filter(data=key).order_by("-uploaded_on", "-pk")
    with translate_database_errors():
        row = recorded.values(*SHOWN).first()
    return _shown(row) if row else None


def _documents(
    model_id: int, updates: Iterable[int], progress: Mapping[str, Any]
) -> Iterator[tuple[uuid.UUID, bytes]]:
    """Yield the client and the document of each client that has one of these updates."""
    clients = ModelUpdate.objects.filter(pk__in=ids_in(updates)).values("client_id")
    rank = Window(RowNumber(), partition_by="client_id", order_by=["-uploaded_on", "-pk"])
    rows = (
        ModelUpdate.objects.filter(federated_model_id=model_id, client_id__in=clients)
        .annotate(rank=rank)
        .filter(rank__lte=MAX_UPDATES)
        .order_by("client_id", "rank")
        .values("client_id", *SHOWN)
    )
    for client_id, own in groupby(rows.iterator(), key=itemgetter("client_id")):
        document = {
            "format": FORMAT,
            "model": model_id,
            "client": str(client_id),
            "updates": [_shown(row) for row in own],
            **progress,
        }
        yield client_id, json.dumps(document, indent=1).encode()


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    reason = row["rejection_reason"]
    superseded = reason.startswith("superseded by")
    return {
        "key": row["data"],
        "state": "superseded" if superseded else _STATES[Status(row["status"])],
        "reason": reason[:MAX_REASON],
        "aggregate": row["applied_aggregate_id"],
        "weight": row["scaling_factor"],
        "at": row["uploaded_on"].isoformat(),
    }


def _write(
    objects: Objects, model_id: int, documents: Iterator[tuple[uuid.UUID, bytes]]
) -> tuple[int, dict[uuid.UUID, AggregationError]]:
    """Write documents in parallel; return how many were written, and the errors by client."""

    def write(document: tuple[uuid.UUID, bytes]) -> tuple[uuid.UUID, AggregationError | None]:
        client_id, body = document
        try:
            objects.put_json(status_key(model_id, client_id), body)
        except AggregationError as error:
            return client_id, error
        return client_id, None

    written, failures = 0, {}
    with ThreadPoolExecutor(settings.READ_THREADS, "status") as pool:
        while batch := list(islice(documents, BATCH)):
            for client_id, error in pool.map(write, batch):
                if error:
                    failures[client_id] = error
                else:
                    written += 1
    return written, failures


def _mark(updates: Iterable[tuple[int, int]]) -> None:
    """Record what the documents show.

    The document of an update that has changed meanwhile is out of date, or has just replaced a newer
    one, and is marked as such.
    """
    shown: dict[int, list[int]] = {}
    for pk, status in updates:
        shown.setdefault(status, []).append(pk)
    for status, pks in shown.items():
        ModelUpdate.objects.filter(pk__in=ids_in(pks)).update(
            published_status=Case(When(status=status, then=status), default=UNPUBLISHED)
        )
