"""The in-memory twin of `DjangoRoundConnector`, on which the tests of the core run rounds.

`tests/connectors/rounds/test_round_contract.py` compares it with the real one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

from aggregation.engine.output import MemorySink
from aggregation.errors import LeaseLost, ProgressLost, UpdateRejected
from aggregation.formats import Spool, format_of, open_weights
from aggregation.freeze import FreezeSchedule
from aggregation.layout import TensorLayout
from aggregation.optimizers import create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.requirements import Readiness, create_requirement
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

PENDING, RUNNING, COMPLETE, FAILED, INVALID = range(5)


class Stored(NamedTuple):
    """An object in storage, as Django's file fields name it."""

    name: str


@dataclass(eq=False)
class MemoryAggregate:
    id: int
    number: int
    result: Stored
    parent: MemoryAggregate | None
    server_optimizer: str = ""
    optimizer_state: str | None = None


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


@dataclass(eq=False)
class MemoryRound:
    id: int
    number: int
    lease_expires_at: datetime
    updates: list[MemoryUpdate]
    parent: str | None
    optimizer_state: str | None
    members: int
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
    clients: list[str]
    aggregator: str = "weighted_mean"
    aggregator_args: dict[str, Any] = field(default_factory=dict)
    server_optimizer: str = "none"
    server_optimizer_args: dict[str, Any] = field(default_factory=dict)
    requirement: str = ""
    requirement_args: Any = None
    update_kind: str = "weights"
    tensor_policies: list[Any] = field(default_factory=list)
    freeze: dict[str, Any] = field(default_factory=dict)
    furthest_base_agg: int | None = None
    allow_aggregation: bool = True
    initial: str | None = None
    updates: list[MemoryUpdate] = field(default_factory=list)
    aggregates: list[MemoryAggregate] = field(default_factory=list)
    rounds: list[MemoryRound] = field(default_factory=list)

    @property
    def running(self) -> MemoryRound | None:
        return next((each for each in self.rounds if each.state == "running"), None)

    @property
    def latest(self) -> MemoryAggregate | None:
        return self.aggregates[-1] if self.aggregates else None

    @property
    def optimizer_state(self) -> str | None:
        """Where the state is that the model's optimizer left with the latest aggregate."""
        latest = self.latest
        same = latest and latest.server_optimizer == self.server_optimizer
        return latest.optimizer_state if latest and same else None

    @property
    def parent(self) -> str | None:
        """Where the weights are that the next aggregate succeeds."""
        return self.latest.result.name if self.latest else self.initial


class MemoryObjects:
    """Objects in a dictionary, and results that are being written."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.unfinished: dict[str, MemorySink] = {}

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


class InMemoryRoundConnector:
    """Models, updates and objects in dictionaries; its clock passes when `now` is changed."""

    def __init__(self, lease: timedelta) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.lease = lease
        self.models: dict[int, MemoryModel] = {}
        self.storage = MemoryObjects()
        self._ids: Iterator[int] = count(1)

    # Setting up

    def add_model(
        self, clients: Sequence[str], initial: bytes | None = None, **fields: Any
    ) -> MemoryModel:
        model = MemoryModel(next(self._ids), list(clients), **fields)
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

    # The round port

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        model = self.models[model_id]
        if not model.allow_aggregation:
            return RoundAnswer(model_id=model_id, status=Status.PAUSED)
        if model.running:
            if model.running.lease_expires_at > self.now:
                return RoundAnswer(
                    model_id=model_id, status=Status.BUSY, round=model.running.number
                )
            model.running.attempt += 1
            model.running.lease_expires_at = self.now + self.lease
            return self._claim(model, model.running)
        ready = self._ready(model)
        requirement = create_requirement(model.requirement, model.requirement_args)
        unmet = requirement.unmet(Readiness(members=len(model.clients), ready=len(ready)))
        if unmet:
            return RoundAnswer(model_id=model_id, status=Status.WAITING, reason=unmet)
        opened = self._open_round(model, ready)
        for update in self._pending(model):
            if newer := [each for each in ready if each.client == update.client]:
                _reject(update, f"superseded by update {newer[0].id}")
        return self._claim(model, opened)

    def open_parent(self, claim: Claim, spool: Spool | None) -> Weights | None:
        return self._open(claim.parent, None, spool) if claim.parent else None

    def open_base(self, location: str, spool: Spool | None) -> Weights:
        return self._open(location, None, spool)

    def open_state(self, location: str) -> Weights:
        return self._open(location, None, None)

    def open_seed(self, claim: Claim) -> bytes:
        raise ValueError("no model of this connector is private")

    def open_update(
        self, update: ClaimedUpdate, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        if update.location not in self.storage.bodies:
            raise UpdateRejected("the object is not there")
        return self._open(update.location, expected_layout, spool)

    def new_result(self, claim: Claim, format: str, state: Any) -> StoredSink:
        return self.storage.sink(aggregate_key(claim.model_id, claim.number, format), state)

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        self._held(claim).checkpoint = _stored(checkpoint)

    def suspend_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> RoundAnswer:
        self._release(claim, checkpoint)
        return RoundAnswer(
            model_id=claim.model_id, status=Status.BUSY, round=claim.number, continues=True
        )

    def release_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        with suppress(LeaseLost):
            self._release(claim, checkpoint)

    def publish_round(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        held = self._held(claim)
        model = self.models[claim.model_id]
        held.aggregate = self._new_aggregate(model, result.location)
        held.aggregate.server_optimizer = claim.optimizer.name
        held.aggregate.optimizer_state = result.optimizer_state
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

    def _pending(self, model: MemoryModel) -> list[MemoryUpdate]:
        return [
            update
            for update in model.updates
            if update.status in (PENDING, FAILED) and update.client in model.clients
        ]

    def _ready(self, model: MemoryModel) -> list[MemoryUpdate]:
        latest = model.latest.number if model.latest else 0
        newest = {
            update.client: update
            for update in self._pending(model)
            if not _is_stale(update, model, latest)
        }
        return [newest[client] for client in sorted(newest)]

    def _open_round(self, model: MemoryModel, updates: list[MemoryUpdate]) -> MemoryRound:
        opened = MemoryRound(
            id=next(self._ids),
            number=len(model.aggregates) + 1,
            lease_expires_at=self.now + self.lease,
            updates=updates,
            parent=model.parent,
            optimizer_state=model.optimizer_state,
            members=len(model.clients),
        )
        for update in updates:
            update.status, update.round = RUNNING, opened
        model.rounds.append(opened)
        return opened

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
            policies=TensorPolicies.from_list(
                model.tensor_policies,
                FreezeSchedule.from_json(model.freeze).frozen_at(held.number - 1),
            ),
            parent=held.parent,
            optimizer=create_optimizer(model.server_optimizer, model.server_optimizer_args),
            optimizer_state=held.optimizer_state,
            checkpoint=held.checkpoint,
        )

    def _held(self, claim: Claim) -> MemoryRound:
        running = self.models[claim.model_id].running
        if running is None or (running.id, running.attempt) != (claim.round_id, claim.attempt):
            raise LeaseLost("this attempt no longer holds the round")
        return running

    def _release(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        held = self._held(claim)
        held.lease_expires_at, held.checkpoint = self.now, _stored(checkpoint)

    def _new_aggregate(self, model: MemoryModel, location: str) -> MemoryAggregate:
        number = len(model.aggregates) + 1
        aggregate = MemoryAggregate(next(self._ids), number, Stored(location), model.latest)
        model.aggregates.append(aggregate)
        return aggregate


def _stored(checkpoint: RoundCheckpoint | None) -> Any:
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
