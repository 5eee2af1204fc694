"""Rolling back: the bytes of an earlier aggregate become the model's next aggregate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from django.utils import timezone

from aggregation.errors import Conflict
from connectors.errors import translate_database_errors
from connectors.publication.pointer import try_write_pointer
from connectors.rounds import transitions
from connectors.rounds.selectors import model_snapshot
from connectors.storage.keys import aggregate_key
from connectors.storage.port import Objects, Orphan, copy_to_sink
from models_app.models import ModelAggregate


def roll_back(objects: Objects, aggregate: ModelAggregate) -> ModelAggregate:
    """Publish the bytes of an earlier aggregate as the next aggregate of its model.

    The state that the server optimizer left with it is published again as well, so that the optimizer
    continues as it would have after that aggregate.

    Nothing in the lineage is changed or removed. Pending updates that are based on an aggregate further
    back than the model now allows become INVALID, as after any round.

    Raises
    ------
    Conflict
        If it is the latest aggregate, a round is running, or one was published meanwhile.
    """
    with translate_database_errors():
        latest = model_snapshot(aggregate.federated_model_id).parent
    if latest is None or latest.pk == aggregate.pk:
        raise Conflict(f"{aggregate} is the latest already: there is nothing to roll back")
    with _orphans_removed(objects) as copied:
        key = _copy(objects, aggregate, str(aggregate.result.name), latest.number + 1)
        copied.append(key)
        state = str(aggregate.optimizer_state.name)
        if state:
            state = _copy(objects, aggregate, state, latest.number + 1)
            copied.append(state)
        with translate_database_errors(), transaction.atomic():
            new = _append(latest, aggregate, key, state)
    try_write_pointer(
        objects, aggregate.federated_model_id
    )  # If that fails, the next sweep does it.
    return new


@contextmanager
def _orphans_removed(objects: Objects) -> Iterator[list[str]]:
    """Yield a list of keys; remove the objects that it names if an exception occurs."""
    copied: list[str] = []
    try:
        yield copied
    except Exception:
        for key in copied:
            objects.remove(Orphan(key=key, since=timezone.now()))
        raise


def _copy(objects: Objects, aggregate: ModelAggregate, original: str, number: int) -> str:
    """Copy an object of an aggregate and return the key of the copy."""
    stored = objects.stat(original)
    source = objects.source(original, size=stored.size, etag=stored.etag)
    extension = original.rsplit("/", 1)[-1].split(".", 1)[1]
    sink = objects.sink(aggregate_key(aggregate.federated_model_id, number, extension), None)
    return copy_to_sink(source, sink)


def _append(
    latest: ModelAggregate, original: ModelAggregate, key: str, state: str
) -> ModelAggregate:
    """Create the aggregate, and the round that says where it comes from, under the model's lock."""
    transitions.lock_model(original.federated_model_id)
    snapshot = model_snapshot(original.federated_model_id)
    if snapshot.running:
        raise Conflict(
            f"{snapshot.running} is running: pause the model, and roll back once the round has ended"
        )
    new = transitions.append_aggregate(
        snapshot,
        latest,
        key,
        server_optimizer=original.server_optimizer,
        optimizer_state=state,
    )
    transitions.record_external_round(snapshot, new, rolled_back_to=original.pk)
    transitions.reject_stale(snapshot.model, new.number)
    return new
