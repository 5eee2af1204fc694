"""A round over several functions: the real handlers in the real runtime, under the real state machine."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from local.cloud import REGION
from local.errors import FunctionError
from local.lambda_runtime import LambdaRuntime
from local.step_functions import FunctionPool, await_executions, state_machine
from models_app.models import AggregationRound, FederatedModel, ModelUpdate
from tests import factories
from tests.factories import make_model, ready_update
from tests.faults.federation import tensors
from tests.killing import KILLED

pytestmark = pytest.mark.usefixtures("database", "cloud")

#: A database that no worker can reach, because workers need none.
NO_DATABASE = "postgres://nobody@127.0.0.1:1/none?connect_timeout=1"

RULES: dict[str, dict[str, Any]] = {"weighted_mean": {}, "multi_krum": {"f": 1}}


class Functions:
    """The aggregating function and the workers' function, and how often each task was invoked.

    Parameters
    ----------
    main : LambdaRuntime
    workers : list of LambdaRuntime
    endpoint, arn : str
        Where the state machine is.
    """

    def __init__(
        self, main: LambdaRuntime, workers: list[LambdaRuntime], endpoint: str, arn: str
    ) -> None:
        self.main = main
        self._arn = arn
        self._endpoint = endpoint
        self._workers = FunctionPool(workers)
        self.invocations: Counter[str] = Counter()
        self.disturb: Callable[[dict[str, Any]], None] = lambda event: None
        self._lock = threading.Lock()

    def await_executions(self) -> None:
        await_executions(self._endpoint, self._arn, REGION)

    def invoke(self, name: str, event: Any) -> Any:
        with self._lock:
            self.invocations[event["task"]] += 1
        self.disturb(event)
        return (self._workers if name == "worker" else self.main).invoke(*_arguments(name, event))


def _arguments(name: str, event: Any) -> tuple[Any, ...]:
    return (name, event) if name == "worker" else (event,)


@contextmanager
def running_functions(cloud: Any, folder: Path, **of_workers: str) -> Iterator[Functions]:
    """Run both functions, and the state machine that invokes them.

    Parameters
    ----------
    cloud, folder
    of_workers
        Environment variables of the workers.
    """
    found: list[Functions] = []
    environment = {
        **cloud.environment(),
        "DATABASE_URL": os.environ["DATABASE_URL"],
        "DJANGO_SETTINGS_MODULE": "settings",
        "POWERTOOLS_METRICS_NAMESPACE": "tests",
        "POWERTOOLS_TRACE_DISABLED": "true",
        "MAX_FUNCTIONS": "2",
        "FUNCTION_BYTES_PER_SECOND": "500",
    }
    with ExitStack() as stack:
        arn = stack.enter_context(
            state_machine(cloud.endpoint, lambda *call: found[0].invoke(*call), REGION)
        )
        environment["STATE_MACHINE_ARN"] = arn

        def start(handler: str, **variables: str) -> LambdaRuntime:
            return stack.enter_context(
                LambdaRuntime(
                    f"tests.faults.function.{handler}",
                    environment=environment | variables,
                    log=folder / f"{handler}.log",
                )
            )

        workers = [start("work", DATABASE_URL=NO_DATABASE, **of_workers) for _ in range(2)]
        found.append(Functions(start("handler"), workers, cloud.endpoint, arn))
        yield found[0]
        found[0].await_executions()


def model_with_updates(rule: str, **fields: Any) -> FederatedModel:
    """Create a model with three parts and five ready updates."""
    model = make_model(
        5, initial=tensors(0), aggregator=rule, aggregator_args=RULES[rule], **fields
    )
    for client in range(1, 6):
        ready_update(model, client, tensors(client), num_examples=client)
    return model


def run(functions: Functions, model: FederatedModel) -> AggregationRound:
    """Request a round, and wait until it has ended."""
    event = {"detail-type": "Scheduled Event", "detail": {"model_id": model.pk}}
    functions.main.invoke(event)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended = model.rounds.exclude(state=AggregationRound.State.RUNNING).last()
        if ended:
            return ended
        time.sleep(0.1)
    pytest.fail("the round has not ended")


def bytes_of(ended: AggregationRound) -> bytes:
    assert ended.aggregate, ended.error
    return factories.get(str(ended.aggregate.result.name))


@pytest.mark.parametrize("rule", RULES)
def test_several_functions_give_the_bytes_of_one(
    rule: str, cloud: Any, tmp_path: Path, uploads: Counter[Any]
) -> None:
    """A distributed round publishes the bytes of one function; the part of a killed worker is kept."""
    killed = tmp_path / "killed"
    with running_functions(cloud, tmp_path, **{KILLED: str(killed)}) as functions:
        expected = bytes_of(run(functions, model_with_updates(rule, max_functions=1)))
        assert not functions.invocations
        uploads.clear()
        ended = run(functions, model_with_updates(rule))
    assert killed.exists()
    assert list(uploads.values()) == [1] * 4
    assert bytes_of(ended) == expected
    assert ended.updates_used == 5
    assert functions.invocations["combine"] == 5  # Four parts, and one task repeated.
    assert functions.invocations["publish"] == 1
    assert ended.workers["functions"] == 2
    combined = [each for each in ended.workers["tasks"] if each["kind"] == "combine"]
    assert [(each["first"], each["last"]) for each in combined] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert sum(each["retries"] for each in combined) == 1
    assert bool(functions.invocations["measure"]) == (rule == "multi_krum")


def test_a_bad_update_is_left_out_by_a_new_plan(cloud: Any, tmp_path: Path) -> None:
    """An update that a worker rejects is INVALID with its reason, and the round continues."""
    bad = tensors(6)
    bad["w"][2, 2999] = np.nan
    with running_functions(cloud, tmp_path) as functions:
        model = model_with_updates("weighted_mean")
        expected = bytes_of(run(functions, model_with_updates("weighted_mean", max_functions=1)))
        model.clients.create(uuid=factories.client_id(6))
        update = ready_update(model, 6, bad)
        ended = run(functions, model)
    update.refresh_from_db()
    assert update.status == ModelUpdate.Status.INVALID
    assert update.rejection_reason == "nan in tensor 'w' at [2, 2999]"
    assert bytes_of(ended) == expected
    assert ended.updates_rejected == 1
    assert functions.invocations["publish"] == 2


def test_the_next_request_resumes_a_failed_execution(cloud: Any, tmp_path: Path) -> None:
    """After an execution has failed, the same updates are aggregated without the finished tasks."""

    def fail_last_task(event: dict[str, Any]) -> None:
        if event["task"] == "combine" and event["item"] == 2:
            raise FunctionError("ValueError", "a defect")

    with running_functions(cloud, tmp_path) as functions:
        functions.disturb = fail_last_task
        model = model_with_updates("weighted_mean")
        event = {"detail-type": "Scheduled Event", "detail": {"model_id": model.pk}}
        assert functions.main.invoke(event)["status"] == "busy"
        functions.await_executions()
        assert functions.invocations["fail"] == 1
        assert model.rounds.get().state == AggregationRound.State.RUNNING
        functions.disturb = lambda event: None
        before = functions.invocations["combine"]
        ended = run(functions, model)
    assert ended.attempt == 2
    assert ended.updates_used == 5
    assert functions.invocations["combine"] == before + 1
