"""Requests for rounds in the queue of the function."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from django.core.management import CommandError, call_command
from django.test import override_settings

from aggregation.errors import TemporarilyUnavailable
from connectors import application
from connectors.errors import ServiceRefused
from connectors.runtime.queue import RoundQueue, backoff_seconds


def requested(cloud: Any) -> list[int]:
    """Return the models of the round requests in the queue, without the test message of S3."""
    found: list[int] = []
    sqs, place = cloud.client("sqs"), {"QueueUrl": cloud.queue_url, "MaxNumberOfMessages": 10}
    while messages := sqs.receive_message(**place).get("Messages"):
        bodies = [json.loads(message["Body"]) for message in messages]
        found += [body["model_id"] for body in bodies if "model_id" in body]
    return sorted(found)


@pytest.mark.parametrize("count", [0, 1, 10, 11, 25])
def test_each_model_gets_one_message(cloud: Any, count: int) -> None:
    """Every model gets exactly one message, also if several batches of ten are needed."""
    queue = RoundQueue(cloud.client("sqs"), cloud.queue_url)
    queue.request_rounds(range(1, count + 1))
    assert requested(cloud) == list(range(1, count + 1))


def test_a_queue_that_cannot_be_reached_is_temporarily_unavailable(cloud: Any) -> None:
    """A request that cannot be sent raises an error, so that the caller retries."""
    once = Config(retries={"total_max_attempts": 1}, proxies={})
    nowhere = boto3.client("sqs", endpoint_url="http://127.0.0.1:1", config=once)
    with pytest.raises(TemporarilyUnavailable, match="queue cannot be reached"):
        RoundQueue(nowhere, cloud.queue_url).request_rounds([1])


def test_a_refused_message_raises_an_error(cloud: Any) -> None:
    """A batch of which SQS refuses some messages raises an error."""
    sqs = cloud.client("sqs")
    send = sqs.send_message_batch

    def refuse_one(**request: Any) -> Any:
        *accepted, refused = request["Entries"]
        response = send(**{**request, "Entries": accepted})
        return {**response, "Failed": [{"Id": refused["Id"], "Code": "InternalError"}]}

    sqs.send_message_batch = refuse_one
    with pytest.raises(TemporarilyUnavailable, match=r"refused messages: .*InternalError"):
        RoundQueue(sqs, cloud.queue_url).request_rounds([1, 2, 3])
    assert requested(cloud) == [1, 2]


@pytest.mark.parametrize(("deliveries", "seconds"), list(enumerate([60, 240, 960, 1800, 1800], 1)))
def test_the_backoff_grows_with_the_deliveries_of_a_message(deliveries: int, seconds: int) -> None:
    """A first failure is retried within a minute, and an outage of an hour produces no dead letter."""
    message = {"attributes": {"ApproximateReceiveCount": str(deliveries)}}
    assert backoff_seconds(message) == seconds


def test_denied_access_to_the_queue_is_not_temporary(cloud: Any) -> None:
    """A missing permission is a deployment error, which retries do not fix."""
    sqs = cloud.client("sqs")

    def deny(**request: Any) -> Any:
        error: Any = {"Error": {"Code": "AccessDenied", "Message": "not authorized"}}
        raise ClientError(error, "SendMessageBatch")

    sqs.send_message_batch = deny
    with pytest.raises(ServiceRefused, match="AccessDenied"):
        RoundQueue(sqs, cloud.queue_url).request_rounds([1])


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("database")
def test_redrive_requires_a_dead_letter_queue(cloud: Any) -> None:
    """The redrive command fails for a queue without a dead-letter queue."""
    application.round_queue.cache_clear()
    with (
        override_settings(QUEUE_URL=cloud.dead_letter_url),
        pytest.raises(CommandError, match="has no dead-letter queue"),
    ):
        call_command("redrive")
    application.round_queue.cache_clear()
