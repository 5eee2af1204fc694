"""Many concurrent copies of the function, and one that resumes late."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection

from models_app.models import AggregationRound, FederatedModel, ModelUpdate
from tests.factories import SMALL, make_model, ready_update, upload
from tests.faults.federation import end_state, expire_leases, tensors
from tests.faults.processes import WarmFunction

pytestmark = pytest.mark.usefixtures("database", "cloud")

COPIES = 8
CLIENTS = 4

#: Longer than any wait in these tests takes.
PATIENCE_SECONDS = 30


def upload_all(model: FederatedModel, wave: int) -> list[Any]:
    """Upload updates of all clients for one round; return the events of S3."""
    return [
        {"Records": [upload(model, n, tensors(10 * wave + n, SMALL), name=f"{wave}.safetensors")]}
        for n in range(1, CLIENTS + 1)
    ]


def is_quiet(cloud: Any) -> bool:
    """Return whether no message is waiting or in flight, and no update is running."""
    counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    attributes = cloud.client("sqs").get_queue_attributes(
        QueueUrl=cloud.queue_url, AttributeNames=list(counts)
    )["Attributes"]
    between = ModelUpdate.objects.filter(status=ModelUpdate.Status.RUNNING)
    return all(attributes[count] == "0" for count in counts) and not between.exists()


def wait_until_quiet(cloud: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_quiet(cloud):
        assert time.monotonic() < deadline, "it does not become quiet"
        time.sleep(0.1)


def test_eight_copies_end_in_the_state_of_one(
    function: WarmFunction, cloud: Any, tmp_path: Path
) -> None:
    """Eight copies with shuffled and repeated messages end in the state of a single copy."""
    alone, *models = [make_model(CLIENTS, requirement="all_clients") for _ in range(3)]
    sqs = cloud.client("sqs")
    for wave in (1, 2):
        function.answer("settle", events=upload_all(alone, wave))
    expected = end_state(alone)
    assert [number for number, *_ in expected["aggregates"]] == [1, 2]
    stop = tmp_path / "stop"
    copies = [
        function.start("pump", queue_url=cloud.queue_url, until=str(stop), batch_size=3)
        for _ in range(COPIES)
    ]
    for wave in (1, 2):
        # The bucket has notified the queue; these are the second and the third delivery.
        bodies = [body for model in models for body in upload_all(model, wave)] * 2
        bodies += [{"model_id": model.pk} for model in models] * 3
        random.Random(wave).shuffle(bodies)
        for body in bodies:
            sqs.send_message(QueueUrl=cloud.queue_url, MessageBody=json.dumps(body))
        wait_until_quiet(cloud)
    stop.touch()
    outcomes = [copy.wait() for copy in copies]
    assert [outcome.ended for outcome in outcomes] == [0] * COPIES
    assert sum(outcome.answer > 0 for outcome in outcomes) > 1
    for model in models:
        assert end_state(model) == expected
    dead = sqs.receive_message(QueueUrl=cloud.dead_letter_url).get("Messages", [])
    assert dead == []


@pytest.mark.parametrize("at", ["GetObject", "UploadPart", "CompleteMultipartUpload", "publishing"])
def test_a_copy_that_wakes_up_late_changes_nothing(function: WarmFunction, at: str) -> None:
    """A copy that resumes after another has published changes nothing, and reports the lost lease."""
    if at == "publishing":
        at = {"sqlite": "BEGIN 2", "postgresql": "SELECT federatedmodel 4"}[connection.vendor]
    model = make_model(2)
    for client in (1, 2):
        ready_update(model, client, tensors(client))
    request = {"detail-type": "Scheduled Event", "detail": {"model_id": model.pk}}
    late = function.start("invoke", at=at, signal="SIGSTOP", event=request)
    assert late.wait().ended == "SIGSTOP"
    expire_leases()
    function.answer("settle", events=[request])
    before = end_state(model)
    assert before["aggregates"]
    woken = late.resume()
    assert (woken.ended, woken.answer["status"]) == (0, "busy")
    assert "attempt 1 no longer holds round 1" in woken.answer["reason"]
    assert end_state(model) == before
    assert AggregationRound.objects.get(federated_model=model).attempt == 2
    (line,) = [
        line
        for line in function.logged("round busy")
        if line["function_request_id"] == f"process-{late.pid}"
    ]
    assert line["reason"] == woken.answer["reason"]


@pytest.fixture
def no_idle_transactions(migrated_postgres: str) -> Iterator[None]:
    """Let the server end idle transactions."""
    name = "idle_in_transaction_session_timeout"
    with psycopg.connect(migrated_postgres, autocommit=True) as server:
        server.execute(f"ALTER SYSTEM SET {name} = 500")
        server.execute("SELECT pg_reload_conf()")
        yield
        server.execute(f"ALTER SYSTEM RESET {name}")
        server.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@pytest.mark.usefixtures("no_idle_transactions")
def test_a_copy_that_stops_with_a_lock_does_not_block_the_others(
    function: WarmFunction,
) -> None:
    """The server ends the transaction of a stopped copy, and another copy publishes the round."""
    model = make_model(2)
    for client in (1, 2):
        ready_update(model, client, tensors(client))
    request = {"detail-type": "Scheduled Event", "detail": {"model_id": model.pk}}
    late = function.start("invoke", at="INSERT modelaggregate", signal="SIGSTOP", event=request)
    assert late.wait().ended == "SIGSTOP"
    expire_leases()
    function.answer("settle", events=[request])
    before = end_state(model)
    assert len(before["aggregates"]) == 1
    assert late.resume().answer["errorType"] == "TemporarilyUnavailable"
    assert end_state(model) == before
