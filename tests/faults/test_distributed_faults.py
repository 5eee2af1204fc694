"""Executions of a shared round that overlap, stall, are aborted, or are never started.

Whatever happens, the next request takes the round over, no part is stored twice without need, and each
update is counted once. The functions run in this process, each in a thread.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from aggregation.errors import ProgressLost, TemporarilyUnavailable
from connectors import application
from connectors.errors import ServiceRefused
from connectors.runtime.state_machine import StateMachine
from connectors.storage.s3_sink import S3Sink
from local.cloud import REGION
from local.errors import FunctionError
from local.step_functions import await_executions, state_machine
from models_app.models import AggregationRound, FederatedModel, ModelUpdate
from tests import factories
from tests.connectors.usecases.executions import ARN, Executions, shared_by, work
from tests.factories import client_id, make_model, ready_update
from tests.faults.federation import expire_leases, orphans, tensors
from tests.faults.processes import PART_BYTES
from tests.test_lambda_handler import invoke, scheduled

pytestmark = pytest.mark.usefixtures("database", "cloud")

UPDATES, PARTS = 5, 3
KRUM: dict[str, Any] = {"aggregator": "multi_krum", "aggregator_args": {"f": 1}}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of a model, so that three functions can share a round."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", PART_BYTES)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executions]:
    """Let three functions share each round."""
    with shared_by(PARTS, monkeypatch) as executions:
        yield executions


def model_with_updates(**fields: Any) -> FederatedModel:
    model = make_model(UPDATES, initial=tensors(0), **fields)
    for client in range(1, UPDATES + 1):
        ready_update(model, client, tensors(client), num_examples=client)
    return model


def alone(**fields: Any) -> bytes:
    """Return the bytes that one function gives."""
    model = model_with_updates(max_functions=1, **fields)
    assert invoke(scheduled(model))["status"] == "published"
    return factories.get(str(model.aggregates.get().result.name))


def assert_published_once(model: FederatedModel, expected: bytes) -> AggregationRound:
    """Assert that each update of a model is in its only aggregate; return the round."""
    aggregate = model.aggregates.get()
    assert factories.get(str(aggregate.result.name)) == expected
    good = model.model_updates.exclude(status=ModelUpdate.Status.INVALID)
    assert {update.status for update in good} == {ModelUpdate.Status.COMPLETE}
    assert {update.applied_aggregate for update in good} == {aggregate}
    assert aggregate.round.updates_used == len(good) == UPDATES
    call_command("sweep", older_than=0)
    assert orphans() == []
    return aggregate.round


@contextmanager
def function_threads() -> Iterator[Callable[..., Future[Any]]]:
    """Yield a function that runs another one in a thread, as an invocation of its own."""

    def closing(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        finally:
            connections.close_all()

    with ThreadPoolExecutor() as pool:
        yield lambda call, *arguments: pool.submit(closing, call, *arguments)


class Stall:
    """Stalls the first thread that is about to store a part of a result.

    Attributes
    ----------
    reached, released : threading.Event
        Set by the thread; and by the test, so that the thread goes on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        store = S3Sink.write_part

        def stall_and_store(sink: S3Sink, number: int, *data: Any, **options: Any) -> None:
            if sink.location.startswith("aggregates/") and not self.reached.is_set():
                self.reached.set()
                assert self.released.wait(60)
            store(sink, number, *data, **options)

        monkeypatch.setattr(S3Sink, "write_part", stall_and_store)


def combine(execution: Any, item: int) -> dict[str, Any]:
    """Return the event of a combining task."""
    return {"task": "combine", "plan": execution["plan"], "centre": "first", "item": item}


def test_a_task_that_runs_twice_at_the_same_time_is_harmless(
    shared: Executions, uploads: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two functions that do the same task at the same time store the same bytes."""
    expected, model = alone(), model_with_updates()
    invoke(scheduled(model))
    (execution,) = shared.started.values()
    uploads.clear()
    both = threading.Barrier(2)
    with monkeypatch.context() as patched, function_threads() as start:
        store = S3Sink.write_part

        def store_together(sink: S3Sink, number: int, *data: Any, **options: Any) -> None:
            if sink.location.startswith("aggregates/"):
                both.wait(60)
            store(sink, number, *data, **options)

        patched.setattr(S3Sink, "write_part", store_together)
        twice = [start(work, combine(execution, 0)) for _ in range(2)]
        assert [each.result() for each in twice] == [twice[0].result()] * 2
    (stored,) = uploads.values()
    assert (
        stored >= 2
    )  # moto answers 500 to one of two that it stores at once, which is sent again.
    shared.run()
    assert sum(uploads.values()) == PARTS - 1 + stored
    assert_published_once(model, expected)


def test_a_stalled_worker_cannot_alter_what_another_execution_published(
    shared: Executions, uploads: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stalls beyond the lease; the sweep takes the round over, and the late part is refused."""
    expected, model = alone(), model_with_updates()
    invoke(scheduled(model))
    (execution,) = shared.started.values()
    uploads.clear()
    stall = Stall(monkeypatch)
    with function_threads() as start:
        stalled = start(work, combine(execution, 0))
        assert stall.reached.wait(60)
        expire_leases()
        assert invoke(scheduled(model))["status"] == "busy"
        assert shared.run()["status"] == "published"
        assert set(uploads.values()) == {1}
        stall.released.set()
        with pytest.raises(ProgressLost):
            stalled.result()
    error = {"Error": "ProgressLost", "Cause": ""}
    failed = {"task": "fail", "plan": execution["plan"], "attempt": 1, "error": error}
    assert invoke(failed)["status"] == "busy"
    assert assert_published_once(model, expected).attempt == 2


def test_a_late_worker_cannot_write_into_a_new_upload(
    shared: Executions, uploads: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad update leads to a new upload; a worker that is still busy with the old one cannot alter it."""
    expected, model = alone(), model_with_updates()
    model.clients.create(uuid=client_id(UPDATES + 1))
    bad = tensors(UPDATES + 1)
    bad["w"][2, 2999] = np.nan
    update = ready_update(model, UPDATES + 1, bad)
    invoke(scheduled(model))
    (execution,) = shared.started.values()
    uploads.clear()
    stall = Stall(monkeypatch)
    with function_threads() as start:
        late = start(work, combine(execution, 0))
        assert stall.reached.wait(60)
        for item in (1, 2):  # The last one finds the bad value.
            work(combine(execution, item))
        again = invoke({"task": "publish", "plan": execution["plan"], "attempt": 1})
        assert again["plan"] != execution["plan"]
        for item in again["combine"]:
            work(combine(again, item))
        stall.released.set()
        with pytest.raises(ProgressLost):
            late.result()
        published = invoke({"task": "publish", "plan": again["plan"], "attempt": 1})
    assert published["status"] == "published"
    assert len({upload for upload, _ in uploads}) == 2
    update.refresh_from_db()
    assert update.rejection_reason == "nan in tensor 'w' at [2, 2999]"
    assert_published_once(model, expected)


def test_two_executions_at_the_same_time_publish_once(
    shared: Executions, uploads: Counter[Any]
) -> None:
    """An execution whose start was answered too late runs beside that of the next attempt."""
    expected, model = alone(), model_with_updates()
    invoke(scheduled(model))
    expire_leases()
    invoke(scheduled(model))
    first, second = shared.started.values()
    assert first["plan"] == second["plan"]
    with function_threads() as start:
        running = [start(_run_alone, each) for each in (first, second)]
        answers = [each.result() for each in running]
    assert {answer["status"] for answer in answers} <= {"busy", "published"}
    if (
        not model.aggregates.exists()
    ):  # The first one completed the upload, and the second met that.
        invoke(scheduled(model))
        shared.run()
    assert assert_published_once(model, expected).attempt >= 2


def _run_alone(execution: Any) -> Any:
    executions = Executions()
    executions.started["the only one"] = execution
    return executions.run()


# Starting


@contextmanager
def refusing() -> Iterator[str]:
    """Yield an endpoint at which nothing listens."""
    yield "http://127.0.0.1:1"


@contextmanager
def silent() -> Iterator[str]:
    """Yield an endpoint that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def answering(error: str) -> Callable[[], Any]:
    """Return a context manager of an endpoint that answers every request with an error of AWS."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"__type": error, "message": "refused by the test"}).encode()
            self.send_response(400)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    @contextmanager
    def endpoint() -> Iterator[str]:
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()

    return endpoint


def unreachable_machine(endpoint: str) -> StateMachine:
    config = Config(read_timeout=0.2, connect_timeout=1, retries={"total_max_attempts": 1})
    client = boto3.client("stepfunctions", endpoint_url=endpoint, config=config)
    return StateMachine(client, ARN)


@pytest.mark.parametrize(
    ("endpoint", "error"),
    [
        (refusing, TemporarilyUnavailable),
        (silent, TemporarilyUnavailable),
        (answering("ThrottlingException"), TemporarilyUnavailable),
        (answering("AccessDeniedException"), ServiceRefused),
    ],
    ids=["refused", "silent", "throttled", "denied"],
)
def test_a_state_machine_that_does_not_answer_delays_a_round(
    endpoint: Callable[[], Any],
    error: type[Exception],
    shared: Executions,
    uploads: Counter[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request for the round fails, so that it is delivered again; the next one finishes the round."""
    expected, model = alone(), model_with_updates()
    uploads.clear()
    of_machine = override_settings(STATE_MACHINE_ARN=ARN)
    with monkeypatch.context() as patched, endpoint() as address, of_machine:
        patched.setattr(application, "state_machine", lambda: unreachable_machine(address))
        with pytest.raises(error, match="Step Functions"):
            invoke(scheduled(model))
    assert not model.model_updates.filter(status=ModelUpdate.Status.COMPLETE).exists()
    assert invoke(scheduled(model))["status"] == "busy"
    assert shared.run()["status"] == "published"
    assert sum(uploads.values()) == PARTS
    made = assert_published_once(model, expected)
    # Denied access does not pass: the round has failed, and the next request began another one.
    assert made.attempt == (1 if error is ServiceRefused else 2)
    failed = model.rounds.filter(state=AggregationRound.State.FAILED)
    assert failed.count() == (1 if error is ServiceRefused else 0)


# Aborting


@pytest.mark.parametrize(
    "state",
    [
        *(
            pytest.param(each, marks=pytest.mark.exhaustive)
            for each in ("measure", "select", "fail")
        ),
        "combine",
        "publish",
    ],
)
def test_an_aborted_execution_is_taken_over(state: str, cloud: Any, uploads: Counter[Any]) -> None:
    """An execution is aborted before a task of each state ends; the next request finishes the round."""
    expected, model = alone(**KRUM), model_with_updates(**KRUM)
    uploads.clear()
    one_at_a_time, aborted = threading.Lock(), threading.Event()
    client: Any = boto3.client("stepfunctions")

    def abort_all(arn: str) -> None:
        running: Any = {"stateMachineArn": arn, "statusFilter": "RUNNING"}
        for each in client.list_executions(**running)["executions"]:
            client.stop_execution(executionArn=each["executionArn"])

    def invoke_function(name: str, event: Any) -> Any:
        with one_at_a_time:
            try:
                if event["task"] == state and not aborted.is_set():
                    abort_all(settings.STATE_MACHINE_ARN)
                    aborted.set()
                if (state, event["task"]) == ("fail", "select") and not aborted.is_set():
                    raise FunctionError("ValueError", "a defect")  # It leads to the state.
                return work(event) if name == "worker" else invoke(event)
            finally:
                connections.close_all()

    application.state_machine.cache_clear()
    with ExitStack() as stack:
        arn = stack.enter_context(state_machine(cloud.endpoint, invoke_function, REGION))
        several = {"MAX_FUNCTIONS": PARTS, "FUNCTION_BYTES_PER_SECOND": 500}
        stack.enter_context(override_settings(STATE_MACHINE_ARN=arn, **several))
        stack.callback(application.state_machine.cache_clear)
        assert invoke(scheduled(model))["status"] == "busy"
        assert aborted.wait(60)
        await_executions(cloud.endpoint, arn, REGION)
        with one_at_a_time:  # What is running ends, as a function does that nobody waits for.
            expire_leases()
        assert invoke(scheduled(model))["status"] in ("busy", "waiting")
        await_executions(cloud.endpoint, arn, REGION)
    assert_published_once(model, expected)
    assert set(uploads.values()) == {1}
