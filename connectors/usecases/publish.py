"""Versions, and the way back: what people do with aggregates once rounds have made them."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.utils import timezone

from aggregation.errors import AggregationError, LeaseLost
from connectors.errors import translate_database_errors
from connectors.publication.pointer import try_write_pointer
from connectors.rounds import selectors
from connectors.rounds.selectors import State
from connectors.storage.keys import aggregate_key
from connectors.storage.port import Objects, Orphan, copy_to_sink
from connectors.workflow.aggregator import DjangoAggConnector
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelArtifact

#: As long as the database keeps.
MAX_VERSION = 255


class NotPublished(AggregationError):
    """No version was made of an aggregate; the message says why."""


def publish(aggregate: ModelAggregate, version: str) -> ModelArtifact:
    """Publish an aggregate under a version, and make that the model's current artifact.

    The artifact names the aggregate's own object: nothing is copied
    (docs/decisions/2026-11-24-publish-and-roll-back.md).

    Raises
    ------
    NotPublished
        If the version exists or is no name, or the model's `max_score_drop` forbids it.
    """
    _check_version(version)
    reason = score_refusal(aggregate)
    if reason:
        raise NotPublished(f"{reason}; to publish it anyway, change max_score_drop in the admin")
    model_id = aggregate.federated_model_id
    try:
        with translate_database_errors(), transaction.atomic():
            artifact = ModelArtifact.objects.create(
                federated_model_id=model_id, values=str(aggregate.result.name), version=version
            )
            FederatedModel.objects.filter(pk=model_id).update(current_artifact=artifact)
    except IntegrityError as error:
        raise NotPublished(
            f"model {model_id} has a version {version!r} already: versions never change, choose another"
        ) from error
    return artifact


def score_refusal(aggregate: ModelAggregate) -> str:
    """Return why the model's `max_score_drop` forbids a version of an aggregate, or an empty string.

    The aggregate must have a score. It is not compared with a parent that has none.
    """
    if aggregate.federated_model.max_score_drop is None:
        return ""
    if aggregate.validation_score is None:
        return f"{aggregate} has no validation score yet, and max_score_drop requires one"
    return aggregate.dropped()


def _check_version(version: str) -> None:
    if not version.strip() or not version.isprintable() or len(version) > MAX_VERSION:
        raise NotPublished(
            f"a version needs a name of at most {MAX_VERSION} printable characters, such as 1.2.0"
        )


def roll_back(connector: DjangoAggConnector, aggregate: ModelAggregate) -> ModelAggregate:
    """Make an earlier aggregate's bytes the next aggregate of its model.

    The lineage goes on: nothing in it is changed or removed. Updates that wait, and are based on an
    aggregate further back than the model now allows, become INVALID, as after any round.

    Raises
    ------
    LeaseLost
        If it is the latest aggregate already, a round is running, or one was published meanwhile.
    """
    model = aggregate.federated_model
    latest = connector.pull_latest_model_aggregate(model)
    if latest is None or latest.pk == aggregate.pk:
        raise LeaseLost(f"{aggregate} is the latest already: there is nothing to roll back")
    objects = connector.model_data.objects
    key = _copied(objects, aggregate, latest.number + 1)
    try:
        with translate_database_errors(), transaction.atomic():
            new = _append_aggregate(connector, latest, aggregate, key)
    except Exception:
        objects.remove(Orphan(key=key, since=timezone.now()))
        raise
    try_write_pointer(objects, model.pk)  # What is not told now, the next sweep tells.
    return new


def _copied(objects: Objects, aggregate: ModelAggregate, number: int) -> str:
    """The key of a copy of an aggregate's object."""
    original = str(aggregate.result.name)
    stored = objects.stat(original)
    source = objects.source(original, size=stored.size, etag=stored.etag)
    extension = original.rsplit(".", 1)[1]
    sink = objects.sink(aggregate_key(aggregate.federated_model_id, number, extension), None)
    return copy_to_sink(source, sink)


def _append_aggregate(
    connector: DjangoAggConnector, latest: ModelAggregate, original: ModelAggregate, key: str
) -> ModelAggregate:
    """Create the aggregate, and the round that tells where it comes from, under the model's lock."""
    model = original.federated_model
    selectors.lock_model(model.pk)
    model_snapshot = selectors.model_snapshot(model.pk)
    if model_snapshot.running:
        raise LeaseLost(
            f"{model_snapshot.running} is running: roll back once it has ended, with its model paused"
        )
    new = connector.metadata.append_aggregate(model_snapshot, latest, key)
    now = timezone.now()
    AggregationRound.objects.create(
        federated_model=model,
        number=new.number,
        parent=latest,
        aggregate=new,
        state=State.PUBLISHED,
        config_snapshot={"rolled_back_to": original.pk},
        external=True,
        lease_expires_at=now,
        started_on=now,
        finished_on=now,
    )
    selectors.reject_stale(model, new.number)
    return new
