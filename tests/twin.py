"""The in-memory twin of `DjangoAggConnector`: what tests of the core run rounds on.

`tests/connectors/test_contract.py` holds it to what the real one does.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from aggregation.errors import LostRound, UpdateRejected
from aggregation.formats import Spool, open_weights
from aggregation.layout import TensorLayout
from aggregation.parts import MemorySink
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
from aggregation.weights import Weights, read_tensors
from connectors.base import BaseAggConnector

PENDING, RUNNING, COMPLETE, FAILED, INVALID = range(5)


@dataclass(eq=False)
class MemoryAggregate:
    id: int
    number: int
    result: str
    parent: MemoryAggregate | None


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
    created_on: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    @property
    def pk(self) -> int:
        return self.id


@dataclass(eq=False)
class MemoryRound:
    id: int
    number: int
    attempt: int
    lease_expires_at: datetime
    updates: list[MemoryUpdate]
    by_hand: bool = False
    state: str = "running"
    aggregate: MemoryAggregate | None = None
    checkpoint: RoundCheckpoint | None = None


@dataclass(eq=False)
class MemoryModel:
    id: int
    clients: list[str]
    aggregator: str = "weighted_mean"
    aggregator_args: dict[str, Any] = field(default_factory=dict)
    requirement: str = ""
    requirement_args: Any = None
    furthest_base_agg: int | None = None
    allow_aggregation: bool = True
    initial: str | None = None
    updates: list[MemoryUpdate] = field(default_factory=list)
    aggregates: list[MemoryAggregate] = field(default_factory=list)
    rounds: list[MemoryRound] = field(default_factory=list)

    @property
    def running(self) -> MemoryRound | None:
        return next((each for each in self.rounds if each.state == "running"), None)


class InMemoryAggConnector(BaseAggConnector):
    """Models, updates and objects in dictionaries."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings or {})
        self.clock: Callable[[], datetime] = lambda: datetime(2026, 1, 1, tzinfo=UTC)
        self.models: dict[int, MemoryModel] = {}
        self.objects: dict[str, bytes] = {}
        self._ids = iter(range(1, 1_000_000))

    # Setting up

    def add_model(self, clients: Sequence[str], **fields: Any) -> MemoryModel:
        model = MemoryModel(next(self._ids), list(clients), **fields)
        self.models[model.id] = model
        return model

    def add_update(
        self, model: MemoryModel, client: str, key: str, data: bytes, **fields: Any
    ) -> MemoryUpdate:
        self.objects[key] = data
        update = MemoryUpdate(next(self._ids), client, model, key, **fields)
        model.updates.append(update)
        return update

    # Step by step

    def pull_federated_model_w_id(self, fed_model_id: int) -> MemoryModel | None:
        return self.models.get(fed_model_id)

    def pull_latest_model_aggregate(self, model: MemoryModel) -> MemoryAggregate | None:
        return model.aggregates[-1] if model.aggregates else None

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
            if _allowed(update, model, latest)
        }
        return [newest[client] for client in sorted(newest)]

    def pull_model_updates_registered_for_aggregation(
        self, model: MemoryModel
    ) -> list[MemoryUpdate]:
        registered = [update for update in model.updates if update.status == RUNNING]
        return sorted(registered, key=lambda update: update.client)

    def pull_model_updates_data(self, model_updates: Sequence[MemoryUpdate]) -> list[MemoryUpdate]:
        loaded = []
        for update in model_updates:
            twin = copy.copy(update)
            try:
                with Spool() as spool:
                    twin.data = list(read_tensors(self._open(update.data, None, spool)).values())
            except UpdateRejected as error:
                raise UpdateRejected(f"update {update.id}: {error}") from error
            loaded.append(twin)
        return loaded

    def prep_model_data_for_storage(self, data: Any) -> bytes:
        return json.dumps([np.asarray(layer).tolist() for layer in data], allow_nan=False).encode()

    def post_new_model_aggregate(
        self, model: MemoryModel, parent_agg: MemoryAggregate | None, results: Any
    ) -> MemoryAggregate:
        latest = self.pull_latest_model_aggregate(model)
        if parent_agg is not latest:
            raise LostRound("not the latest aggregate: the lineage is a line")
        if model.running and not model.running.by_hand:
            raise LostRound("a round is running: it will make the next aggregate")
        data = results if isinstance(results, bytes) else self.prep_model_data_for_storage(results)
        location = f"aggregates/{uuid.uuid4()}.json"
        self.objects[location] = data
        aggregate = self._new_aggregate(model, location)
        if model.running:
            model.running.aggregate = aggregate
        return aggregate

    def register_model_updates_for_aggregation(self, model_updates: Sequence[Any]) -> None:
        updates = [self._stored(update) for update in model_updates]
        models = {update.federated_model.id for update in updates}
        if len(models) != 1:
            raise ValueError(f"expected updates of one federated model, got {len(models)}")
        model = updates[0].federated_model
        if model.running:
            raise LostRound("a round is running: its model can have no other")
        if any(update.status not in (PENDING, FAILED) for update in updates):
            raise LostRound("an update is not ready any more")
        self._open_round(model, updates, by_hand=True)

    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[Any], aggregate: MemoryAggregate
    ) -> None:
        updates = [self._stored(update) for update in model_updates]
        if any(update.applied_aggregate not in (None, aggregate) for update in updates):
            raise ValueError("an update is already part of another aggregate")
        for update in updates:
            update.status, update.applied_aggregate = COMPLETE, aggregate
        for model in self.models.values():
            running = model.running
            if running and running.aggregate is aggregate:
                self._close(running, "published", FAILED)

    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[Any], is_successful: bool
    ) -> None:
        updates = [self._stored(update) for update in model_updates]
        for update in updates:
            if bool(update.applied_aggregate) != is_successful:
                raise ValueError("what is said contradicts whether the update is in an aggregate")
        for update in updates:
            update.status = COMPLETE if is_successful else FAILED
            running = update.federated_model.running
            if running and not any(each.status == RUNNING for each in running.updates):
                running.state = "failed"

    def update_metadata_database_arch(self) -> None:
        """There is none."""

    # A round of our own

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        model = self.models[model_id]
        if not model.allow_aggregation:
            return RoundAnswer(model_id=model_id, status=Status.PAUSED)
        if model.running:
            if model.running.lease_expires_at > self.clock():
                return RoundAnswer(model_id=model_id, status=Status.BUSY)
            model.running.attempt += 1
            return self._claim(model, model.running)
        latest = self.pull_latest_model_aggregate(model)
        ready = self.pull_model_updates_ready_for_aggregation(model, latest)
        requirement = create_requirement(model.requirement, model.requirement_args)
        unmet = requirement.unmet(Readiness(members=len(model.clients), ready=len(ready)))
        if unmet:
            return RoundAnswer(model_id=model_id, status=Status.WAITING, reason=unmet)
        return self._claim(model, self._open_round(model, ready))

    def open_parent(self, claim: Claim, spool: Spool) -> Weights | None:
        return self._open(claim.parent, None, spool) if claim.parent else None

    def open_update(
        self, update: ClaimedUpdate, like: TensorLayout | None, spool: Spool
    ) -> Weights:
        return self._open(update.location, like, spool)

    def new_result(self, claim: Claim, format: str, state: Any) -> _StoredSink:
        location = f"aggregates/{claim.model_id}/{uuid.uuid4()}.{format}"
        return _StoredSink(self.objects, location, state)

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        self._held(claim).checkpoint = checkpoint

    def suspend_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> RoundAnswer:
        self.release_round(claim, checkpoint)
        return RoundAnswer(model_id=claim.model_id, status=Status.BUSY, continues=True)

    def release_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        held = self._held(claim)
        held.lease_expires_at, held.checkpoint = self.clock(), checkpoint

    def publish_round(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        held = self._held(claim)
        aggregate = self._new_aggregate(self.models[claim.model_id], result.location)
        for update in held.updates:
            if update.id in result.rejected:
                update.status, update.rejection_reason = INVALID, result.rejected[update.id]
            else:
                update.status, update.applied_aggregate = COMPLETE, aggregate
        held.state, held.aggregate = "published", aggregate
        return RoundAnswer(
            model_id=claim.model_id,
            status=Status.PUBLISHED,
            round=claim.number,
            aggregate_id=aggregate.id,
            updates_used=len(result.used),
            updates_rejected=len(result.rejected),
        )

    def reject_round(self, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        held = self._held(claim)
        for update in held.updates:
            if update.id in rejected:
                update.status, update.rejection_reason = INVALID, rejected[update.id]
        self._close(held, "rejected", PENDING)
        return RoundAnswer(
            model_id=claim.model_id,
            status=Status.REJECTED,
            round=claim.number,
            updates_rejected=len(rejected),
            reason=reason,
        )

    def fail_round(self, claim: Claim, error: Exception) -> None:
        self._close(self._held(claim), "failed", FAILED)

    # How it is done

    def _open(self, key: str, like: TensorLayout | None, spool: Spool) -> Weights:
        source = BytesSource(self.objects[key])
        return open_weights(source, key.rsplit(".", 1)[1], like=like, spool=spool)

    def _stored(self, update: Any) -> MemoryUpdate:
        model = update.federated_model
        return next(each for each in model.updates if each.id == update.id)

    def _open_round(
        self, model: MemoryModel, updates: list[MemoryUpdate], *, by_hand: bool = False
    ) -> MemoryRound:
        for update in updates:
            update.status = RUNNING
        lease = self.clock() + timedelta(minutes=15)
        number = len(model.aggregates) + 1
        opened = MemoryRound(next(self._ids), number, 1, lease, updates, by_hand)
        model.rounds.append(opened)
        return opened

    def _claim(self, model: MemoryModel, held: MemoryRound) -> Claim:
        latest = self.pull_latest_model_aggregate(model)
        return Claim(
            model_id=model.id,
            round_id=held.id,
            number=held.number,
            attempt=held.attempt,
            rule=create_rule(model.aggregator, model.aggregator_args),
            requirement=create_requirement(model.requirement, model.requirement_args),
            readiness=Readiness(members=len(model.clients), ready=len(held.updates)),
            updates=tuple(
                ClaimedUpdate(id=update.id, num_examples=update.num_examples, location=update.data)
                for update in held.updates
            ),
            parent=latest.result if latest else model.initial,
            checkpoint=held.checkpoint,
        )

    def _held(self, claim: Claim) -> MemoryRound:
        running = self.models[claim.model_id].running
        if running is None or (running.id, running.attempt) != (claim.round_id, claim.attempt):
            raise LostRound("this attempt no longer holds the round")
        return running

    def _new_aggregate(self, model: MemoryModel, location: str) -> MemoryAggregate:
        parent = self.pull_latest_model_aggregate(model)
        number = len(model.aggregates) + 1
        model.aggregates.append(MemoryAggregate(next(self._ids), number, location, parent))
        return model.aggregates[-1]

    def _close(self, held: MemoryRound, state: str, status: int) -> None:
        for update in held.updates:
            if update.status == RUNNING:
                update.status = status
        held.state = state


class _StoredSink(MemorySink):
    """A result whose parts so far are in the dictionary, under a name nobody looks for."""

    def __init__(self, objects: dict[str, bytes], location: str, state: Any) -> None:
        super().__init__()
        self._objects = objects
        self.location = state["location"] if state else location
        self.data = objects[self.location + ".part"] if state else b""

    def write_part(self, number: int, data: bytes, *, last: bool = False) -> None:
        super().write_part(number, data, last=last)
        self._objects[self.location + ".part"] = self.data

    def state(self) -> dict[str, Any]:
        return {"location": self.location}

    def complete(self) -> None:
        self._objects[self.location] = self._objects.pop(self.location + ".part")


def _allowed(update: MemoryUpdate, model: MemoryModel, latest: int) -> bool:
    if model.furthest_base_agg is None:
        return True
    number = update.base_aggregate.number if update.base_aggregate else 0
    return number > latest - model.furthest_base_agg
