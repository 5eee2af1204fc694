"""Rounds that several functions share, through the real handlers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import numpy as np
import pytest
from django.db import connection, connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from aggregation.errors import InvalidWeights, TemporarilyUnavailable
from aggregation.round.reports import TaskReport
from aggregation.round.worker import Worker
from connectors import application
from connectors.limits import MAX_ATTEMPTS_WITHOUT_PROGRESS
from connectors.storage.s3_sink import S3Sink
from local.cloud import REGION
from local.step_functions import state_machine
from models_app.models import AggregationRound, FederatedModel, ModelUpdate
from tests import factories
from tests.connectors.usecases.executions import Executions, shared_by, work
from tests.factories import client_id, make_model, ready_update
from tests.faults.federation import expire_leases, orphans, tensors
from tests.faults.processes import PART_BYTES
from tests.test_lambda_handler import Context, invoke, round_requests, scheduled
from tests.untyped import default_storage

pytestmark = [
    pytest.mark.usefixtures("database", "cloud"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

KRUM: dict[str, Any] = {"aggregator": "multi_krum", "aggregator_args": {"f": 1}}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of a model, so that three functions can share a round."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", PART_BYTES)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executions]:
    """Let three functions share each round."""
    with shared_by(3, monkeypatch) as executions:
        yield executions


def model_with_updates(updates: int = 5, **fields: Any) -> FederatedModel:
    model = make_model(updates, initial=tensors(0), **fields)
    for client in range(1, updates + 1):
        ready_update(model, client, tensors(client), num_examples=client)
    return model


def plans() -> list[str]:
    """Return the keys of all objects of plans."""
    return [each.key for each in application.objects().listing("plans/")]


def alone(**fields: Any) -> bytes:
    """Return the bytes that one function gives."""
    model = model_with_updates(max_functions=1, **fields)
    assert invoke(scheduled(model))["status"] == "published"
    return factories.get(str(model.aggregates.get().result.name))


@pytest.mark.parametrize("fields", [{}, KRUM], ids=["mean", "krum"])
def test_a_finished_round_leaves_no_plan(fields: Any, shared: Executions) -> None:
    """The last task publishes the bytes of one function, and deletes the plan and what tasks stored."""
    expected = alone(**fields)
    model = model_with_updates(**fields)
    assert invoke(scheduled(model))["status"] == "busy"
    assert shared.run()["status"] == "published"
    assert factories.get(str(model.aggregates.get().result.name)) == expected
    assert plans() == orphans() == []


def test_a_repeated_last_task_changes_nothing(shared: Executions) -> None:
    """Step Functions repeats a task whose answer was lost; the plan is gone by then."""
    model = model_with_updates()
    invoke(scheduled(model))
    (execution,) = shared.started.values()
    assert shared.run()["status"] == "published"
    again = {"task": "publish", "plan": execution["plan"], "attempt": 1}
    assert invoke(again)["status"] == "busy"
    failed = {**again, "task": "fail", "error": {"Error": "States.Timeout", "Cause": ""}}
    assert invoke(failed)["status"] == "busy"
    assert model.aggregates.count() == 1


def test_a_result_that_was_completed_is_published_by_the_next_attempt(
    shared: Executions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the publisher dies after it completed the upload, no task is repeated."""
    model = model_with_updates()
    invoke(scheduled(model))
    complete = S3Sink.complete

    def complete_and_die(sink: S3Sink) -> None:
        complete(sink)
        if sink.location.startswith("aggregates/"):
            raise TemporarilyUnavailable("the process died")

    with monkeypatch.context() as patched:
        patched.setattr(S3Sink, "complete", complete_and_die)
        with pytest.raises(TemporarilyUnavailable):
            shared.run()
    done = Counter(shared.tasks)
    expire_leases()
    assert invoke(scheduled(model))["status"] == "busy"
    assert shared.run()["status"] == "published"
    assert Counter(shared.tasks)["combine"] == done["combine"] == 3


def test_an_error_of_a_worker_is_the_error_of_the_round(shared: Executions) -> None:
    """Step Functions says only that a task of the map failed; the reason is found beside the plan."""
    model = model_with_updates()
    invoke(scheduled(model))
    assert model.current_artifact
    factories.put(
        model.current_artifact.values.name, b"not the weights that the plan was made with"
    )
    assert shared.run()["status"] == "failed"
    failed = model.rounds.get()
    assert failed.state == AggregationRound.State.FAILED
    assert failed.error.startswith("TaskFailed: InvalidWeights: artifacts/")
    assert plans() == orphans() == []


def unavailable(event: Any) -> Any:
    raise TemporarilyUnavailable("S3 cannot be reached")


def test_a_transient_fault_of_a_worker_releases_the_round(shared: Executions, cloud: Any) -> None:
    """The round is requested again at once, and its plan is resumed."""
    model = model_with_updates()
    invoke(scheduled(model))
    shared.work = unavailable
    assert shared.run()["status"] == "busy"
    assert round_requests(cloud) == [{"model_id": model.pk}]
    assert invoke(scheduled(model))["status"] == "busy"
    first, second = (each["plan"] for each in shared.started.values())
    assert first == second
    shared.work = work
    assert shared.run()["status"] == "published"


def test_attempts_without_progress_are_counted(shared: Executions) -> None:
    """A round whose workers never finish a task is given up; one finished task starts the count again."""
    model = model_with_updates()
    shared.work = unavailable
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS - 1):
        invoke(scheduled(model))
        shared.run()
    invoke(scheduled(model))
    assert model.rounds.get().attempts_without_progress == MAX_ATTEMPTS_WITHOUT_PROGRESS - 1
    shared.work = first_task_only()
    shared.run()
    assert model.rounds.get().attempts_without_progress == 0
    shared.work = unavailable
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS):
        invoke(scheduled(model))
        shared.run()
    given_up = model.rounds.first()
    assert given_up
    assert given_up.error == "given up: 5 attempts in a row made no progress"


def test_an_aborted_execution_counts_as_progress_if_tasks_have_finished(
    shared: Executions,
) -> None:
    """Nobody reports that an execution was aborted; the next attempt sees what it has stored."""
    model = model_with_updates()
    for _ in range(2):
        invoke(scheduled(model))
        expire_leases()
    assert model.rounds.get().attempts_without_progress == 1
    (execution,) = [each for name, each in shared.started.items() if name.endswith("attempt-2")]
    work({"task": "combine", "plan": execution["plan"], "centre": "first", "item": 0})
    invoke(scheduled(model))
    assert model.rounds.get().attempts_without_progress == 0


def first_task_only() -> Callable[[Any], Any]:
    """Return a worker that does one task and is unavailable afterwards."""
    left = [work]

    def invoke_once(event: Any) -> Any:
        return (left.pop() if left else unavailable)(event)

    return invoke_once


def test_a_resumed_round_is_held_as_long_as_an_execution_lasts(shared: Executions) -> None:
    """The lease of an attempt that resumes a plan is not that of one invocation."""
    model = model_with_updates()
    invoke(scheduled(model))
    first = model.rounds.get().lease_expires_at
    expire_leases()
    invoke(scheduled(model))
    assert model.rounds.get().lease_expires_at >= first


def test_a_plan_that_has_expired_is_made_again(shared: Executions) -> None:
    """If the lifecycle of the bucket has deleted the plan or the parts, the round starts again."""
    model = model_with_updates()
    invoke(scheduled(model))
    application.objects().remove_objects(plans())
    expire_leases()
    invoke(scheduled(model))
    assert shared.run()["status"] == "published"


def test_parts_that_have_expired_are_stored_again(shared: Executions) -> None:
    """A plan whose upload is gone is replaced."""
    model = model_with_updates()
    invoke(scheduled(model))
    for orphan in application.objects().orphans("aggregates/"):
        application.objects().remove(orphan)
    expire_leases()
    invoke(scheduled(model))
    assert shared.run()["status"] == "published"
    assert set(shared.tasks) == {"combine", "publish"}


def test_too_many_bad_updates_end_the_round(shared: Executions) -> None:
    """What several workers find is rejected with its reason, without spending an attempt."""
    model = model_with_updates(4, requirement="require_x_updates", requirement_args={"x": 5})
    model.clients.create(uuid=client_id(5))
    bad = tensors(5)
    bad["w"][2, 2999] = np.nan
    update = ready_update(model, 5, bad)
    invoke(scheduled(model))
    assert shared.run()["status"] == "rejected"
    update.refresh_from_db()
    assert update.status == ModelUpdate.Status.INVALID
    assert update.rejection_reason == "nan in tensor 'w' at [2, 2999]"
    ended = model.rounds.get()
    assert ended.attempt == 1
    assert sum(row["tasks"] for row in ended.task_rows()) == 3
    assert plans() == orphans() == []


def test_a_failed_round_keeps_what_its_functions_did(
    shared: Executions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three tasks the last fails; the other two are shown with the round."""
    combine = Worker.combine

    def fail_last(self: Worker, task: int, retries: int = 0) -> TaskReport:
        if task == 2:
            raise InvalidWeights("a defect")
        return combine(self, task, retries)

    monkeypatch.setattr(Worker, "combine", fail_last)
    model = model_with_updates()
    invoke(scheduled(model))
    assert shared.run()["status"] == "failed"
    failed = model.rounds.get()
    assert failed.state == AggregationRound.State.FAILED
    assert [row["range"] for row in failed.task_rows()] == ["part 1", "part 2"]
    assert failed.workers["functions"] == 3
    assert plans() == orphans() == []


@contextmanager
def counted_requests() -> Iterator[Counter[str]]:
    """Count the S3 requests of the SDK by operation."""
    events = default_storage.connection.meta.client.meta.events
    counts: Counter[str] = Counter()

    def count(model: Any, **_: Any) -> None:
        counts[model.name] += 1

    events.register("before-call.s3", count)
    try:
        yield counts
    finally:
        events.unregister("before-call.s3", count)


def statements_with(tasks: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the statements of a round of so many tasks; fail if a worker executes one."""
    model = model_with_updates()
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", part_bytes)
    with shared_by(tasks, monkeypatch) as executions:

        def without_statements(event: Any) -> Any:
            with CaptureQueriesContext(connection) as of_worker:
                answer = work(event)
            assert list(of_worker.captured_queries) == []
            return answer

        executions.work = without_statements
        with CaptureQueriesContext(connection) as captured:
            invoke(scheduled(model))
            assert executions.run()["status"] == "published"
        assert executions.tasks.count("combine") == tasks
    return [query["sql"][:50] for query in captured.captured_queries]


def test_the_statements_of_a_round_do_not_grow_with_its_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers execute no statements, and a round of seven functions those of a round of three."""
    few = statements_with(3, PART_BYTES, monkeypatch)
    assert statements_with(7, PART_BYTES // 3, monkeypatch) == few


@pytest.mark.parametrize("updates", [2, 5])
def test_the_requests_of_a_worker_follow_from_its_share(updates: int, shared: Executions) -> None:
    """A worker reads the plan, the selection, headers and its share of each update, and stores its part
    and a report."""
    invoke(scheduled(model_with_updates(updates)))
    (execution,) = shared.started.values()
    with counted_requests() as counts:
        work({"task": "combine", "plan": execution["plan"], "centre": "first", "item": 1})
    small, parent = 2, 2
    assert counts == {
        "GetObject": small + parent + updates * 2,
        "HeadObject": 1 + updates,  # Of the parent, and of updates that intake has not seen.
        "ListParts": 1,
        "UploadPart": 1,
        "PutObject": 1,
    }


def register_versions(model: FederatedModel) -> None:
    """Register what intake would have seen of the updates: sizes, ETags and versions."""
    s3 = default_storage.connection.meta.client
    for update in model.model_updates.all():
        head = s3.head_object(Bucket=default_storage.bucket_name, Key=update.data.name)
        update.size, update.etag = head["ContentLength"], head["ETag"].strip('"')
        update.version_id = head["VersionId"]
        update.save()


def test_each_function_calls_what_its_role_allows(cloud: Any) -> None:
    """Under the real definition, the calls of both functions and of the state machine are recorded and
    compared with their roles; the updates have versions, and their parent is an aggregate."""
    lock = threading.Lock()

    def invoke_function(name: str, event: Any) -> Any:
        try:
            with lock:
                return work(event) if name == "worker" else invoke(event, context=Context())
        finally:
            connections.close_all()

    model = model_with_updates(**KRUM)
    assert invoke(scheduled(model))["status"] == "published"
    for client in range(1, 6):
        ready_update(model, client, tensors(10 + client))
    register_versions(model)
    application.state_machine.cache_clear()
    with (
        state_machine(cloud.endpoint, invoke_function, REGION) as arn,
        override_settings(STATE_MACHINE_ARN=arn, MAX_FUNCTIONS=3, FUNCTION_BYTES_PER_SECOND=500),
    ):
        assert invoke(scheduled(model))["status"] == "busy"
        machines = boto3.client("stepfunctions")
        running: Any = {"stateMachineArn": arn, "statusFilter": "RUNNING"}
        while machines.list_executions(**running)["executions"]:
            threading.Event().wait(0.05)
    application.state_machine.cache_clear()
    assert model.aggregates.count() == 2
