"""A round that takes longer than the function may run, in the real Lambda runtime."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.engine.blocks import BLOCKS_IN_FLIGHT
from local.event_pump import EventPump
from local.lambda_runtime import LambdaRuntime
from models_app.models import FederatedModel
from tests import factories
from tests.factories import make_model, ready_update
from tests.faults.federation import tensors
from tests.faults.processes import CONSTANTS, PART_BYTES
from tests.faults.proxy import Proxy, Request, slow

pytestmark = pytest.mark.usefixtures("database", "cloud")

TIMEOUT_SECONDS = 6

#: The duration of a read, two at a time; the whole round exceeds the timeout of the function.
READ_SECONDS = 0.4
PARTS = 40
LONG = {"w": np.zeros(PARTS * PART_BYTES // 4, np.float32)}


def run_to_the_end(
    model: FederatedModel, cloud: Any, s3: Proxy, folder: Path, constants: dict[str, float]
) -> list[str]:
    """Run one round of a model through the queue; what each delivery came to."""
    environment = {
        **cloud.environment(),
        "AWS_ENDPOINT_URL": s3.endpoint,
        "DATABASE_URL": os.environ["DATABASE_URL"],
        "DJANGO_SETTINGS_MODULE": "settings",
        "POWERTOOLS_METRICS_NAMESPACE": "tests",
        "POWERTOOLS_TRACE_DISABLED": "true",
        CONSTANTS: json.dumps(constants),
    }
    deliveries = []
    with LambdaRuntime(
        "tests.faults.function.handler",
        environment=environment,
        log=folder / "function.log",
        timeout_seconds=TIMEOUT_SECONDS,
    ) as runtime:
        runtime.invoke({"Event": "s3:TestEvent"})  # The cold start has a time of its own.
        sqs = cloud.client("sqs")
        _empty(sqs, cloud.queue_url)
        sqs.send_message(QueueUrl=cloud.queue_url, MessageBody=json.dumps({"model_id": model.pk}))
        pump = EventPump(cloud.queue_url, runtime.invoke, sqs=sqs, wait_seconds=0)
        while pump.pump_once():
            deliveries.append(str(pump.last_error or "done"))
    return deliveries


def _empty(sqs: Any, queue_url: str) -> None:
    """Delete the notifications of the uploads of the test."""
    while messages := sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get(
        "Messages"
    ):
        for message in messages:
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])


def slow_model() -> FederatedModel:
    """Create a model with two updates that are slow to read."""
    model = make_model(2)
    for client, count in ((1, 1), (2, 3)):
        ready_update(model, client, tensors(client, LONG), num_examples=count)
    return model


def assert_is_the_mean(model: FederatedModel) -> None:
    """Check the weighted mean of `slow_model` without the code under test."""
    one, two = (tensors(client, LONG)["w"].astype(np.float64) for client in (1, 2))
    expected = ((one + 3 * two) / 4).astype(np.float32)
    result = safetensors.numpy.load(factories.get(model.aggregates.get().result.name))
    np.testing.assert_array_equal(result["w"], expected)


def parts_stored(s3: Proxy) -> list[int]:
    return [request.part for request in s3.requests if request.part]


def reads(s3: Proxy) -> Counter[Any]:
    """Count the reads of each range of each update, except the headers."""
    return Counter(
        (request.key, request.range)
        for request in s3.requests
        if request.range and request.range[0] > 0
    )


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_round_longer_than_the_timeout_ends_over_several_invocations(
    cloud: Any, s3: Proxy, tmp_path: Path
) -> None:
    """A round stops before each timeout, and resumes from its last finished part."""
    s3.fault = slow(READ_SECONDS)
    model = slow_model()
    deliveries = run_to_the_end(model, cloud, s3, tmp_path, {})
    assert set(deliveries) == {"done"}
    attempts = model.rounds.get().attempt
    assert attempts == len(deliveries) > 1
    assert_is_the_mean(model)
    assert parts_stored(s3) == list(range(1, PARTS + 1))
    assert len(reads(s3)) == 2 * PARTS
    read_again = reads(s3).total() - 2 * PARTS
    assert read_again <= 2 * (attempts - 1) * BLOCKS_IN_FLIGHT


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_function_killed_at_its_timeout_is_taken_over_from_its_last_part(
    cloud: Any, s3: Proxy, tmp_path: Path
) -> None:
    """After the runtime kills a function, the next attempt resumes from the last stored part."""
    hanging = iter([TIMEOUT_SECONDS + 1])

    def hang(request: Request) -> None:
        if request.range and request.range[0] > PARTS // 2 * PART_BYTES:
            time.sleep(next(hanging, 0))

    s3.fault = hang
    model = slow_model()
    deliveries = run_to_the_end(
        model, cloud, s3, tmp_path, {"connectors.limits.LEASE_SLACK_SECONDS": 0}
    )
    # On a busy machine a later attempt may also time out; it loses no more than the first.
    killed = [each for each in deliveries if each != "done"]
    assert f"Task timed out after {TIMEOUT_SECONDS}.00 seconds" in killed[0]
    assert deliveries[-1] == "done"
    assert model.rounds.get().attempt <= len(deliveries)
    assert_is_the_mean(model)
    stored = Counter(parts_stored(s3))
    assert sorted(stored) == list(range(1, PARTS + 1))
    assert stored.total() <= PARTS + len(killed)
    assert reads(s3).total() <= 2 * (PARTS + len(killed) * (1 + BLOCKS_IN_FLIGHT))
