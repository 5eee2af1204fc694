"""The in-memory twin of `DjangoAggConnector`: what tests of the core run rounds on.

`tests/connectors/workflow/test_contract.py` holds it to what the real one does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

from django.core.files.base import File

from aggregation.engine.output import MemorySink
from aggregation.errors import LeaseLost, ProgressLost, UpdateRejected
from aggregation.formats import Spool, format_of, open_weights
from aggregation.layout import TensorLayout
from aggregation.requirements import Readiness, create_requirement, positional_arguments
from aggregation.round import (
    Claim,
    ClaimedUpdate,
    RoundAnswer,
    RoundCheckpoint,
    RoundResult,
    Status,
)
from aggregation.rules import create_rule
from aggregation.sources import BytesSource
from aggregation.weights import Weights
from connectors.storage.keys import aggregate_key
from connectors.storage.port import StoredObject
from connectors.workflow.base import BaseAggConnector
from connectors.workflow.model_data import DjangoModelDataConnector

PENDING, RUNNING, COMPLETE, FAILED, INVALID = range(5)


class Stored(NamedTuple):
    """An object in storage, as Django's file fields name it."""

    name: str


class Members(list[str]):
    """The clients of a model; `all` is what workflows written for Django call."""

    def all(self) -> Members:
        return self


@dataclass(eq=False)
class MemoryAggregate:
    id: int
    number: int
    result: Stored
    parent: MemoryAggregate | None

    @property
    def pk(self) -> int:
        return self.id


@dataclass(eq=False)
class MemoryUpdate:
    id: int
    client: str
    federated_model: MemoryModel
    data: Any
    num_examples: int = 1
    base_aggregate: MemoryAggregate | None = None
    status: int = PENDING
    applied_aggregate: MemoryAggregate | None = None
    rejection_reason: str = ""
    round: MemoryRound | None = None
    size: int | None = None
    etag: str = ""

    @property
    def pk(self) -> int:
        return self.id


@dataclass(eq=False)
class MemoryRound:
    id: int
    number: int
    lease_expires_at: datetime
    updates: list[MemoryUpdate]
    parent: str | None
    members: int
    external: bool = False
    attempt: int = 1
    state: str = "running"
    aggregate: MemoryAggregate | None = None
    checkpoint: RoundCheckpoint | None = None

    @property
    def registered(self) -> list[MemoryUpdate]:
        """Its updates that are not settled."""
        return [each for each in self.updates if each.round is self and each.status == RUNNING]


@dataclass(eq=False)
class MemoryModel:
    id: int
    clients: Members
    aggregator: str = "weighted_mean"
    aggregator_args: dict[str, Any] = field(default_factory=dict)
    requirement: str = ""
    requirement_args: Any = None
    update_kind: str = "weights"
    furthest_base_agg: int | None = None
    allow_aggregation: bool = True
    initial: str | None = None
    updates: list[MemoryUpdate] = field(default_factory=list)
    aggregates: list[MemoryAggregate] = field(default_factory=list)
    rounds: list[MemoryRound] = field(default_factory=list)

    @property
    def pk(self) -> int:
        return self.id

    @property
    def running(self) -> MemoryRound | None:
        return next((each for each in self.rounds if each.state == "running"), None)

    @property
    def latest(self) -> MemoryAggregate | None:
        return self.aggregates[-1] if self.aggregates else None

    @property
    def parent(self) -> str | None:
        """Where the weights are that the next aggregate succeeds."""
        return self.latest.result.name if self.latest else self.initial


class MemoryObjects:
    """What `connectors.storage.port.Objects` asks of storage, of a dictionary."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.unfinished: dict[str, MemorySink] = {}

    def stat(self, key: str, *, etag: str = "") -> StoredObject:
        body = self.bodies[key]
        return StoredObject(size=len(body), etag="", uploaded_on=datetime(2026, 1, 1, tzinfo=UTC))

    def source(self, key: str, *, size: int, etag: str) -> BytesSource:
        return BytesSource(self.bodies[key])

    def sink(self, key: str, state: Mapping[str, Any] | None) -> StoredSink:
        return StoredSink(self, key, state)


class StoredSink(MemorySink):
    """A result that shows in the dictionary once it is complete."""

    def __init__(self, objects: MemoryObjects, key: str, state: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._objects = objects
        self.location = state["key"] if state else key
        if state:
            if self.location not in objects.unfinished:
                raise ProgressLost("the unfinished result is no longer there")
            self._parts = objects.unfinished[self.location]._parts[: state["parts"]]
        objects.unfinished[self.location] = self

    def state(self) -> dict[str, Any]:
        return {"key": self.location, "parts": len(self._parts)}

    def complete(self) -> None:
        self._objects.bodies[self.location] = self.data
        self._objects.unfinished.pop(self.location, None)

    def abort(self) -> None:
        super().abort()
        self._objects.unfinished.pop(self.location, None)


class MemoryModelData(DjangoModelDataConnector):
    """The real one but for where the bytes are."""

    def __init__(self, objects: MemoryObjects) -> None:
        self.objects: Any = objects


class InMemoryAggConnector(BaseAggConnector):
    """Models, updates and objects in dictionaries."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.clock: Callable[[], datetime] = settings.get(
            "clock", lambda: datetime(2026, 1, 1, tzinfo=UTC)
        )
        self.lease = timedelta(seconds=settings.get("lease_seconds", 900))
        self.models: dict[int, MemoryModel] = {}
        self.storage = MemoryObjects()
        self.model_data = MemoryModelData(self.storage)
        self._ids: Iterator[int] = count(1)

    # Setting up

    def add_model(
        self, clients: Sequence[str], initial: bytes | None = None, **fields: Any
    ) -> MemoryModel:
        model = MemoryModel(next(self._ids), Members(clients), **fields)
        if initial is not None:
            model.initial = f"artifacts/{model.id}/initial.safetensors"
            self.storage.bodies[model.initial] = initial
        self.models[model.id] = model
        return model

    def add_update(
        self, model: MemoryModel, client: str, body: bytes, suffix: str, **fields: Any
    ) -> MemoryUpdate:
        number = next(self._ids)
        data = Stored(f"updates/{model.id}/{client}/{number}.{suffix}")
        update = MemoryUpdate(number, client, model, data, **fields)
        self.storage.bodies[data.name] = body
        model.updates.append(update)
        return update

    # Step by step

    def pull_federated_model_w_id(self, fed_model_id: int) -> MemoryModel | None:
        return self.models.get(fed_model_id)

    def pull_latest_model_aggregate(self, model: MemoryModel) -> MemoryAggregate | None:
        return model.latest

    def pull_model_requirements(self, model: MemoryModel) -> list[Any]:
        requirement = create_requirement(model.requirement, model.requirement_args)
        return [model.requirement or None, positional_arguments(requirement)]

    def pull_model_updates_pending_aggregation(self, model: MemoryModel) -> list[MemoryUpdate]:
        return [
            update
            for update in model.updates
            if update.status in (PENDING, FAILED) and update.client in model.clients
        ]

    def pull_model_updates_ready_for_aggregation(
        self, model: MemoryModel, parent_agg: MemoryAggregate | None
    ) -> list[MemoryUpdate]:
        latest = parent_agg.number if parent_agg else 0
        newest = {
            update.client: update
            for update in self.pull_model_updates_pending_aggregation(model)
            if not _is_stale(update, model, latest)
        }
        return [newest[client] for client in sorted(newest)]

    def pull_model_updates_registered_for_aggregation(
        self, model: MemoryModel
    ) -> list[MemoryUpdate]:
        registered = [update for update in model.updates if update.status == RUNNING]
        return sorted(registered, key=lambda update: update.client)

    def pull_model_updates_data(self, model_updates: Sequence[Any]) -> list[Any]:
        updates: Any = list(model_updates)
        model = updates[0].federated_model if updates else None
        expected_layout = self.model_data.layout(model.parent) if model and model.parent else None
        loaded, rejected = self.model_data.load(updates, expected_layout)
        if rejected:
            for update in map(self._stored, updates):
                held_by_hand = update.status == RUNNING and update.round.external
                if update.id in rejected and (update.status in (PENDING, FAILED) or held_by_hand):
                    _reject(update, rejected[update.id])
            told = "; ".join(f"update {key}: {reason}" for key, reason in rejected.items())
            raise UpdateRejected(told)
        return loaded

    def prep_model_data_for_storage(self, data: Any) -> Any:
        return self.model_data.prep_model_data_for_storage(data)

    def post_new_model_aggregate(
        self, model: MemoryModel, parent_agg: MemoryAggregate | None, results: Any
    ) -> MemoryAggregate:
        file = results if isinstance(results, File) else self.prep_model_data_for_storage(results)
        running = model.running
        known = model.parent or (running.updates[0].data.name if running else None)
        number = parent_agg.number + 1 if parent_agg else 1
        location = self.model_data.store_result(file, known, model.id, number)
        if parent_agg is not model.latest:
            raise LeaseLost("not the latest aggregate: the lineage is a line")
        if running and not running.external:
            raise LeaseLost("a round is running: it will make the next aggregate")
        if running and running.aggregate:
            raise LeaseLost("the round has made its aggregate: its updates count once")
        if not running and any(
            each.external and each.state == "failed" and each.number == number
            for each in model.rounds
        ):
            raise LeaseLost("a round by hand has failed: in this aggregate they would count twice")
        aggregate = self._new_aggregate(model, location)
        if running:
            running.aggregate = aggregate
        return aggregate

    def register_model_updates_for_aggregation(self, model_updates: Sequence[Any]) -> None:
        updates = [self._stored(update) for update in model_updates]
        models = {update.federated_model.id for update in updates}
        if len(models) != 1:
            raise ValueError(f"expected updates of one federated model, got {len(models)}")
        model = updates[0].federated_model
        self._recover(model)
        if model.running:
            raise LeaseLost("a round is running: its model can have no other")
        if not model.allow_aggregation:
            raise LeaseLost("the model is paused: no round of it starts")
        if any(update.status not in (PENDING, FAILED) for update in updates):
            raise LeaseLost("an update is not ready any more")
        self._open_round(model, updates, external=True)

    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[Any], aggregate: MemoryAggregate
    ) -> None:
        updates = self._settled_by_hand(model_updates)
        if any(update.applied_aggregate not in (None, aggregate) for update in updates):
            raise ValueError("an update is already part of another aggregate")
        for update in updates:
            update.status, update.applied_aggregate = COMPLETE, aggregate
        for model in self.models.values():
            if model.running and model.running.aggregate is aggregate:
                _close(model.running, "published", FAILED)

    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[Any], is_successful: bool
    ) -> None:
        updates = self._settled_by_hand(model_updates)
        for update in updates:
            posted = update.status == RUNNING and update.round and update.round.aggregate
            if not is_successful and posted:
                raise ValueError("its round has posted its aggregate")
            if bool(update.applied_aggregate) != is_successful:
                raise ValueError("what is said contradicts whether the update is in an aggregate")
        for update in updates:
            if update.status != INVALID:
                update.status = COMPLETE if is_successful else FAILED
            running = update.federated_model.running
            if running and not running.registered:
                running.state = "failed"

    def update_metadata_database_arch(self) -> None:
        """There is none."""

    # A round of our own

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        model = self.models[model_id]
        if not model.allow_aggregation:
            return RoundAnswer(model_id=model_id, status=Status.PAUSED)
        self._recover(model)
        if model.running:
            if model.running.lease_expires_at > self.clock():
                return RoundAnswer(
                    model_id=model_id, status=Status.BUSY, round=model.running.number
                )
            model.running.attempt += 1
            model.running.lease_expires_at = self.clock() + self.lease
            return self._claim(model, model.running)
        ready = self.pull_model_updates_ready_for_aggregation(model, model.latest)
        requirement = create_requirement(model.requirement, model.requirement_args)
        unmet = requirement.unmet(Readiness(members=len(model.clients), ready=len(ready)))
        if unmet:
            return RoundAnswer(model_id=model_id, status=Status.WAITING, reason=unmet)
        opened = self._open_round(model, ready)
        for update in self.pull_model_updates_pending_aggregation(model):
            if newer := [each for each in ready if each.client == update.client]:
                _reject(update, f"superseded by update {newer[0].id}")
        return self._claim(model, opened)

    def open_parent(self, claim: Claim, spool: Spool) -> Weights | None:
        return self._open(claim.parent, None, spool) if claim.parent else None

    def open_update(
        self, update: ClaimedUpdate, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        if update.location not in self.storage.bodies:
            raise UpdateRejected("the object is not there")
        return self._open(update.location, expected_layout, spool)

    def new_result(self, claim: Claim, format: str, state: Any) -> StoredSink:
        return self.storage.sink(aggregate_key(claim.model_id, claim.number, format), state)

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        self._held(claim).checkpoint = _kept(checkpoint)

    def suspend_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> RoundAnswer:
        self._let_go(claim, checkpoint)
        return RoundAnswer(
            model_id=claim.model_id, status=Status.BUSY, round=claim.number, continues=True
        )

    def release_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        with suppress(LeaseLost):
            self._let_go(claim, checkpoint)

    def publish_round(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        held = self._held(claim)
        model = self.models[claim.model_id]
        held.aggregate = self._new_aggregate(model, result.location)
        for update in held.registered:
            if update.id in result.rejected:
                _reject(update, result.rejected[update.id])
            else:
                update.status, update.applied_aggregate = COMPLETE, held.aggregate
        _close(held, "published", FAILED)
        for update in model.updates:
            if update.status in (PENDING, FAILED) and _is_stale(update, model, held.number):
                _reject(update, "based on an older aggregate than the model allows")
        return RoundAnswer(
            model_id=claim.model_id,
            status=Status.PUBLISHED,
            round=claim.number,
            aggregate_id=held.aggregate.id,
            updates_used=len(result.used),
            updates_rejected=len(result.rejected),
            bytes_read=result.combined.bytes_read,
        )

    def reject_round(self, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        held = self._held(claim)
        for update in held.registered:
            if update.id in rejected:
                _reject(update, rejected[update.id])
        _close(held, "rejected", PENDING)
        return RoundAnswer(
            model_id=claim.model_id,
            status=Status.REJECTED,
            round=claim.number,
            updates_rejected=len(rejected),
            reason=reason,
        )

    def fail_round(self, claim: Claim, error: Exception) -> bool:
        with suppress(LeaseLost):
            _close(self._held(claim), "failed", FAILED)
            return True
        return False

    # How it is done

    def _open(self, key: str, expected_layout: TensorLayout | None, spool: Spool | None) -> Weights:
        source = BytesSource(self.storage.bodies[key])
        return open_weights(source, format_of(key), expected_layout=expected_layout, spool=spool)

    def _stored(self, update: Any) -> MemoryUpdate:
        """The update itself, of which a workflow may have a copy."""
        return next(each for each in update.federated_model.updates if each.id == update.id)

    def _settled_by_hand(self, model_updates: Sequence[Any]) -> list[MemoryUpdate]:
        """The updates, unless a round that is not by hand has registered one of them."""
        updates = [self._stored(update) for update in model_updates]
        for update in updates:
            if update.status == RUNNING and update.round and not update.round.external:
                raise LeaseLost("a round that is running settles its updates itself")
        return updates

    def _open_round(
        self, model: MemoryModel, updates: list[MemoryUpdate], *, external: bool = False
    ) -> MemoryRound:
        opened = MemoryRound(
            id=next(self._ids),
            number=len(model.aggregates) + 1,
            lease_expires_at=self.clock() + self.lease,
            updates=updates,
            parent=model.parent,
            members=len(model.clients),
            external=external,
        )
        for update in updates:
            update.status, update.round = RUNNING, opened
        model.rounds.append(opened)
        return opened

    def _recover(self, model: MemoryModel) -> None:
        """Close a round by hand whose workflow did not finish it in time."""
        left = model.running
        if not left or not left.external or left.lease_expires_at > self.clock():
            return
        for update in left.registered:
            update.status, update.applied_aggregate = (
                (COMPLETE, left.aggregate) if left.aggregate else (FAILED, None)
            )
        left.state = "published" if left.aggregate else "failed"

    def _claim(self, model: MemoryModel, held: MemoryRound) -> Claim:
        updates = tuple(
            ClaimedUpdate(id=update.id, num_examples=update.num_examples, location=update.data.name)
            for update in held.registered
        )
        return Claim(
            model_id=model.id,
            round_id=held.id,
            number=held.number,
            attempt=held.attempt,
            rule=create_rule(model.aggregator, model.aggregator_args),
            requirement=create_requirement(model.requirement, model.requirement_args),
            readiness=Readiness(members=held.members, ready=len(updates)),
            updates=updates,
            differences=model.update_kind == "differences",
            parent=held.parent,
            checkpoint=held.checkpoint,
        )

    def _held(self, claim: Claim) -> MemoryRound:
        running = self.models[claim.model_id].running
        if running is None or (running.id, running.attempt) != (claim.round_id, claim.attempt):
            raise LeaseLost("this attempt no longer holds the round")
        return running

    def _let_go(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        held = self._held(claim)
        held.lease_expires_at, held.checkpoint = self.clock(), _kept(checkpoint)

    def _new_aggregate(self, model: MemoryModel, location: str) -> MemoryAggregate:
        number = len(model.aggregates) + 1
        aggregate = MemoryAggregate(next(self._ids), number, Stored(location), model.latest)
        model.aggregates.append(aggregate)
        return aggregate


def _kept(checkpoint: RoundCheckpoint | None) -> Any:
    """The checkpoint as a database gives it back."""
    return json.loads(json.dumps(checkpoint))


def _close(held: MemoryRound, state: str, status: int) -> None:
    for update in held.registered:
        update.status = status
    held.state = state


def _reject(update: MemoryUpdate, reason: str) -> None:
    update.status, update.rejection_reason = INVALID, reason


def _is_stale(update: MemoryUpdate, model: MemoryModel, latest: int) -> bool:
    if model.furthest_base_agg is None:
        return False
    number = update.base_aggregate.number if update.base_aggregate else 0
    return number <= latest - model.furthest_base_agg
