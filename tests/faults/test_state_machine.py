"""A model-based test: the invariants hold after every step, in any order of events.

The connector, its database and its storage are real: SQLite and a directory. Processes die by an exception
that nothing in the code under test catches, or sleep in a thread of their own until they wake up too late.

`pytest tests/faults/test_state_machine.py --hypothesis-profile=long` drives it for hours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.conf import settings as django_settings
from django.test import override_settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aggregation.errors import Conflict, TemporarilyUnavailable
from aggregation.round import Status, run_round
from connectors import DjangoAggConnector, application
from connectors.intake.updates import UpdateIntake
from connectors.intake.upload import Upload
from connectors.rounds.connector import DjangoRoundConnector
from connectors.storage.garbage import collect_garbage
from models_app.models import AggregationRound, Client, FederatedModel, ModelArtifact, ModelUpdate
from tests.connectors.workflow.backends import pass_time
from tests.factories import client_id, make_model
from tests.faults.interruptions import Interrupted, Killed, Sleeper, raising
from tests.faults.workflows import Workflow, call_closing_hook, mean
from tests.untyped import default_storage

State = AggregationRound.State
ENDS = (ModelUpdate.Status.COMPLETE, ModelUpdate.Status.INVALID)

CLIENTS = 3

#: A client that is no member of the model.
NONMEMBER = 4
LAYOUT = {"w": (7, 3), "b": (4,)}
LEASE = timedelta(minutes=15)

#: A part of the result holds so many bytes of the hundred that the model has.
PART_BYTES = 32

SEEDS = st.integers(1, 1000)

#: Before which of its calls to the connector something happens to a process.
CALLS = st.integers(2, 16)
REQUIREMENTS = st.sampled_from(
    [("", None), ("all_clients", None), ("require_x_updates", [2]), ("require_fraction", [0.6])]
)
BAD: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "nan": lambda tensors: {**tensors, "w": np.where(tensors["w"] > 0, np.nan, tensors["w"])},
    "infinite": lambda tensors: {**tensors, "b": np.full_like(tensors["b"], np.inf)},
    "reshaped": lambda tensors: {**tensors, "w": tensors["w"].T.copy()},
    "lacking": lambda tensors: {"w": tensors["w"]},
}


class Federation(RuleBasedStateMachine):
    """One model, its clients, and all processes that can change its rounds."""

    uploads = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self.registered: set[tuple[str, str]] = set()
        self.bytes: dict[tuple[str, str], bytes] = {}
        self.ended: dict[int, tuple[int, int | None]] = {}
        self.sleepers: list[Sleeper] = []
        self.workflows: list[Workflow] = []
        self.root = Path(default_storage.location)

    def connector(self) -> DjangoRoundConnector:
        """Return the round connector of a new process."""
        return application.round_connector(lambda: LEASE)

    def workflow_connector(self) -> DjangoAggConnector:
        """Return the connector of a new workflow."""
        metadata = {"lease_seconds": LEASE.total_seconds()}
        return DjangoAggConnector(
            {"metadata_connector": {"type": "DjangoMetadataConnector", "settings": metadata}}
        )

    # Clients

    @initialize(
        requirement=REQUIREMENTS, furthest=st.sampled_from([None, 1, 2]), initial=st.booleans()
    )
    def begin(self, requirement: Any, furthest: int | None, initial: bool) -> None:
        self.model = make_model(
            CLIENTS,
            requirement=requirement[0],
            requirement_args=requirement[1],
            furthest_base_agg=furthest,
        )
        Client.objects.get_or_create(pk=client_id(NONMEMBER))
        Client.objects.update(paused=False)
        if initial:
            key = f"artifacts/{self.model.pk}/initial.safetensors"
            self._write(key, safetensors.numpy.save(_tensors(0)))
            self.model.current_artifact = ModelArtifact.objects.create(
                federated_model=self.model, values=key, version="initial"
            )
            self.model.save()

    @rule(
        target=uploads,
        client=st.sampled_from([*range(1, CLIENTS + 1), NONMEMBER]),
        seed=SEEDS,
        bad=st.sampled_from(["", *BAD]),
        back=st.integers(0, 3),
    )
    def upload(self, client: int, seed: int, bad: str, back: int) -> Any:
        """An update of a client, sound or bad, based on one of the latest aggregates."""
        return self._upload(client, seed, bad, back)

    @rule(target=uploads, seed=SEEDS)
    def upload_all(self, seed: int) -> Any:
        """Each client uploads an update based on the latest aggregate."""
        return multiple(*[self._upload(client, seed + client) for client in range(1, CLIENTS + 1)])

    def _upload(self, client: int, seed: int, bad: str = "", back: int = 0) -> Upload:
        tensors = _tensors(seed)
        body = safetensors.numpy.save(BAD[bad](tensors) if bad else tensors)
        name = f"{len(self.registered)}.safetensors"
        upload = self._store(f"updates/{self.model.pk}/{client_id(client)}/{name}", body)
        if self._register(upload):
            # A directory keeps no metadata with a file, as S3 does.
            base = self.model.aggregates.order_by("-number")[back : back + 1].first()
            ModelUpdate.objects.filter(data=upload.key).update(
                num_examples=1 + seed % 9, base_aggregate=base
            )
        return upload

    @rule(target=uploads, upload=uploads, seed=SEEDS)
    def overwrite(self, upload: Upload, seed: int) -> Any:
        """A client overwrites an object."""
        again = self._store(upload.key, safetensors.numpy.save(_tensors(seed)))
        self._register(again)
        return again

    @rule(upload=uploads)
    def delete(self, upload: Upload) -> None:
        """A client deletes its object."""
        (self.root / upload.key).unlink(missing_ok=True)

    @rule(upload=uploads)
    def deliver_again(self, upload: Upload) -> None:
        """A message is delivered again, perhaps much later."""
        with suppress(TemporarilyUnavailable):  # As long as the object is not there.
            self._register(upload)

    # Schedules and faults

    @rule()
    def tick(self) -> None:
        """The schedule requests a round."""
        run_round(self.connector(), self.model.pk)

    @rule(call=CALLS)
    def tick_and_be_killed(self, call: int) -> None:
        """The schedule requests a round, and the process dies."""
        with suppress(Killed):
            run_round(Interrupted(self.connector(), call, raising(Killed())), self.model.pk)

    @rule(chunks=st.integers(0, 4))
    def tick_and_run_out_of_time(self, chunks: int) -> None:
        """The schedule requests a round, and the time is up after some chunks."""
        left = iter(range(chunks))
        run_round(self.connector(), self.model.pk, out_of_time=lambda: next(left, None) is None)

    @rule(call=CALLS)
    def tick_and_meet_an_outage(self, call: int) -> None:
        """The schedule requests a round, and storage or the database fails for a moment."""
        outage = TemporarilyUnavailable("out of reach")
        with suppress(TemporarilyUnavailable):
            run_round(Interrupted(self.connector(), call, raising(outage)), self.model.pk)

    @rule(call=CALLS)
    def tick_and_meet_a_bug(self, call: int) -> None:
        """The schedule requests a round, which raises an unexpected error."""
        bug = ZeroDivisionError("a bug")
        with suppress(ZeroDivisionError):
            run_round(Interrupted(self.connector(), call, raising(bug)), self.model.pk)

    @precondition(lambda self: len(self.sleepers) < 3)
    @rule(call=CALLS)
    def tick_and_fall_asleep(self, call: int) -> None:
        """The schedule requests a round, and the process stops."""
        sleeper = Sleeper(self.connector(), self.model.pk, call)
        if sleeper.is_asleep:
            self.sleepers.append(sleeper)
        else:
            self._wake(sleeper)

    @precondition(lambda self: self.sleepers)
    @rule(which=st.integers(0, 2))
    def wake(self, which: int) -> None:
        """A stopped process resumes, in time or too late."""
        self._wake(self.sleepers.pop(which % len(self.sleepers)))

    @rule(minutes=st.sampled_from([1, 8, 16, 60]))
    def wait(self, minutes: int) -> None:
        """Time passes, and leases end."""
        pass_time(timedelta(minutes=minutes))

    @rule()
    def take_over(self) -> None:
        """A lease ends, if there is one, and the schedule ticks."""
        pass_time(LEASE)
        self.tick()

    # Operators

    @rule(allow=st.sampled_from([True, True, False]))
    def pause_or_resume(self, allow: bool) -> None:
        FederatedModel.objects.filter(pk=self.model.pk).update(
            allow_aggregation=allow, pause_reason="" if allow else "by an operator", failed_rounds=0
        )

    @rule(paused=st.sets(st.integers(1, CLIENTS), max_size=1))
    def pause_a_client(self, paused: set[int]) -> None:
        """At most one client is paused."""
        Client.objects.update(paused=False)
        Client.objects.filter(pk__in=map(client_id, paused)).update(paused=True)

    # What workflows do: each step is one call, and they are interleaved with everything else.

    @precondition(lambda self: len(self.workflows) < 3)
    @rule(partial=st.booleans(), steps=st.integers(1, 8))
    def start_a_workflow(self, partial: bool, steps: int) -> None:
        """A workflow with its own connector makes its first calls."""
        self.workflows.append(
            Workflow(self.workflow_connector(), self.model.pk, self._tensors_of, partial=partial)
        )
        self._step(len(self.workflows) - 1, steps)

    @precondition(lambda self: len(self.workflows) < 3)
    @rule(steps=st.integers(1, 6))
    def continue_an_open_round(self, steps: int) -> None:
        """Another connector continues the round of a workflow, which may be alive."""
        self.workflows.append(
            Workflow(self.workflow_connector(), self.model.pk, self._tensors_of, continues=True)
        )
        self._step(len(self.workflows) - 1, steps)

    @precondition(lambda self: self.workflows)
    @rule(which=st.integers(0, 2), steps=st.integers(1, 8))
    def step(self, which: int, steps: int) -> None:
        """One of the workflows makes its next calls, in time or too late."""
        self._step(which % len(self.workflows), steps)

    @precondition(lambda self: self.workflows)
    @rule(which=st.integers(0, 2))
    def crash(self, which: int) -> None:
        """The process of a workflow dies between two calls."""
        self.workflows.pop(which % len(self.workflows))

    @rule(is_successful=st.booleans())
    def call_the_closing_hook(self, is_successful: bool) -> None:
        """A process calls the closing hook with the id of the model."""
        with suppress(Conflict):
            call_closing_hook(self.workflow_connector(), self.model.pk, is_successful=is_successful)

    @rule(data=st.data())
    def contradict(self, data: st.DataObject) -> None:
        """A step with arbitrary updates is refused if it contradicts their state."""
        updates = list(self.model.model_updates.order_by("pk"))
        aggregates = list(self.model.aggregates.order_by("pk"))
        if not updates:
            return
        chosen = data.draw(st.lists(st.sampled_from(updates), min_size=1, max_size=3))
        connectors = [self.workflow_connector(), *(each.connector for each in self.workflows)]
        connector = data.draw(st.sampled_from(connectors))
        acts: list[Callable[[], Any]] = [
            lambda: connector.register_model_updates_for_aggregation(chosen),
            lambda: connector.register_model_updates_use_in_aggregation_complete(chosen, True),
            lambda: connector.register_model_updates_use_in_aggregation_failed(chosen),
        ]
        settled = [each for each in aggregates if each.round.state != State.RUNNING]
        if settled:
            aggregate = data.draw(st.sampled_from(settled))
            acts.append(
                lambda: connector.register_model_update_used_in_aggregate(chosen, aggregate)
            )
        with suppress(Conflict):
            data.draw(st.sampled_from(acts))()

    def _step(self, which: int, steps: int) -> None:
        for _ in range(steps):
            if not self.workflows[which].step():
                del self.workflows[which]
                return

    # Invariants

    @invariant()
    def every_invariant_holds(self) -> None:
        """Check all invariants of the current database."""
        updates = list(self.model.model_updates.select_related("round"))
        aggregates = list(self.model.aggregates.order_by("number"))
        rounds = list(self.model.rounds.all())
        running = [each for each in rounds if each.state == State.RUNNING]

        assert [each.number for each in aggregates] == list(range(1, len(aggregates) + 1))
        assert [each.parent_id for each in aggregates] == [
            None,
            *[each.pk for each in aggregates[:-1]],
        ][: len(aggregates)]

        assert len(running) <= 1
        published = [each.aggregate_id for each in rounds if each.state == State.PUBLISHED]
        posted = [each.aggregate_id for each in running if each.aggregate_id]
        known = [each for each in (*published, *posted) if each is not None]
        assert sorted(known) == [each.pk for each in aggregates]

        assert {(str(each.data), each.etag) for each in updates} == self.registered
        for update in updates:
            self._check(update)
        for aggregate in aggregates:
            if aggregate.pk in published:
                used = [each for each in updates if each.applied_aggregate_id == aggregate.pk]
                self._check_mean(aggregate, used)

    def _check(self, update: ModelUpdate) -> None:
        status = ModelUpdate.Status(update.status)
        assert (status == status.COMPLETE) == (update.applied_aggregate_id is not None)
        assert (status == status.INVALID) == bool(update.rejection_reason)
        if status == status.RUNNING:
            assert update.round is not None
            assert update.round.state == State.RUNNING
        end = (update.status, update.applied_aggregate_id)
        assert self.ended.get(update.pk, end) == end, "what is settled is settled"
        if update.status in ENDS:
            self.ended[update.pk] = end

    def _check_mean(self, aggregate: Any, used: list[ModelUpdate]) -> None:
        """Check that an aggregate is the mean of these updates, one of each client."""
        assert used
        used.sort(key=lambda update: update.client_id)
        assert len({update.client_id for update in used}) == len(used)
        stored = safetensors.numpy.load((self.root / aggregate.result.name).read_bytes())
        expected = mean([(self._tensors_of(each), each.num_examples) for each in used])
        assert stored.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(stored[name], tensor, strict=True)

    def teardown(self) -> None:
        """Check that all rounds end after processes resume, leases expire and sweeps run."""
        for sleeper in self.sleepers:
            self._wake(sleeper)
        for workflow in self.workflows:
            workflow.finish()
        if not hasattr(self, "model"):
            return
        self.pause_or_resume(True)
        pass_time(2 * LEASE)
        for _ in range(20):
            self.pause_or_resume(True)  # A round that is given up may have paused the model.
            answer = run_round(self.connector(), self.model.pk)
            if answer.status == Status.WAITING:
                break
        assert answer.status == Status.WAITING
        self.every_invariant_holds()
        assert not self.model.rounds.filter(state=State.RUNNING).exists()
        objects = self.connector().weights.objects
        collect_garbage(objects, datetime.now(UTC) + timedelta(hours=2))
        folder = self.root / "aggregates" / str(self.model.pk)
        left = {f"aggregates/{self.model.pk}/{path.name}" for path in folder.glob("*")}
        assert left == set(self.model.aggregates.values_list("result", flat=True))

    # Helpers

    def _wake(self, sleeper: Sleeper) -> None:
        answer = sleeper.wake()
        if isinstance(answer, Exception):
            raise answer

    def _write(self, key: str, body: bytes) -> str:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_bytes(body)
        new.replace(path)
        return self.connector().weights.objects.stat(key).etag

    def _store(self, key: str, body: bytes) -> Upload:
        etag = self._write(key, body)
        self.bytes[key, etag] = body
        bucket = django_settings.BUCKET
        return Upload(bucket=bucket, key=key, etag=etag, version="", size=len(body))

    def _register(self, upload: Upload) -> bool:
        """Return whether the upload became a ready update."""
        result = UpdateIntake(application.objects()).register(upload)
        assert result.seen_before == ((upload.key, upload.etag) in self.registered)
        self.registered.add((upload.key, upload.etag))
        return not result.seen_before and not result.reason

    def _tensors_of(self, update: ModelUpdate) -> dict[str, Any]:
        return safetensors.numpy.load(self.bytes[str(update.data), update.etag])


def _tensors(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in LAYOUT.items()}


def _is_sound(tensors: dict[str, Any]) -> bool:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return shapes == LAYOUT and all(np.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("database")
def test_the_invariants_hold_in_any_order_of_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All invariants hold after every step, and at the end no round or update is left unfinished."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", PART_BYTES)
    monkeypatch.setattr("connectors.rounds.ledger.CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("connectors.storage.retries.FIRST_PAUSE_SECONDS", 0)
    storage = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(tmp_path / "storage")},
    }
    with override_settings(STORAGES={**django_settings.STORAGES, "default": storage}):
        run_state_machine_as_test(
            Federation,
            settings=settings(
                max_examples=settings().max_examples // 5,
                stateful_step_count=40,
                deadline=None,
            ),
        )
