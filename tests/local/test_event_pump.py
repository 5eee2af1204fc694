"""Tests of the event pump with moto's SQS, by the rules of Lambda's event source mapping."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local.cloud import Cloud
from local.event_pump import EventPump, failed_messages

EVENTS = Path(__file__).parents[2] / "events"


@pytest.fixture
def queue(own_cloud: Cloud) -> Queue:
    return Queue(own_cloud)


class Queue:
    """An empty queue, and what a test does with it."""

    def __init__(self, cloud: Cloud) -> None:
        self.sqs = cloud.client("sqs")
        self.url, self.dead_letter_url = cloud.queue_url, cloud.dead_letter_url

    def send(self, body: str, **options: Any) -> str:
        return str(
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body, **options)["MessageId"]
        )

    def pump(self, function: Callable[[Any], Any], **options: Any) -> EventPump:
        return EventPump(self.url, function, sqs=self.sqs, wait_seconds=0, **options)

    def size(self, url: str | None = None) -> int:
        """Return the number of messages in the queue, including those that were received and are hidden."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        answer = self.sqs.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=[*names])
        return sum(int(answer["Attributes"][name]) for name in names)


class Recorder:
    """A function that records its events, and gives the same response to all."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.events: list[Any] = []

    def __call__(self, event: Any) -> Any:
        self.events.append(event)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def bodies(self) -> list[str]:
        return [record["body"] for event in self.events for record in event["Records"]]


def test_record_has_the_form_of_a_real_one(queue: Queue) -> None:
    """A delivered record has the fields of a real one, with the values of SQS."""
    real = json.loads((EVENTS / "sqs-model.json").read_text())["Records"][0]
    message_id = queue.send('{"model_id": 3}')
    function = Recorder()
    queue.pump(function).pump_once()
    (record,) = function.events[0]["Records"]
    assert record.keys() == real.keys()
    assert record["attributes"].keys() == real["attributes"].keys()
    assert record["messageId"] == message_id
    assert record["body"] == '{"model_id": 3}'
    assert record["md5OfBody"] == "b5515abfcccbb6a6154d8ba149d521fd"
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"].startswith("arn:aws:sqs:eu-central-1:123456789012:test-")
    assert record["awsRegion"] == "eu-central-1"


def test_message_attributes_have_the_names_of_lambda(queue: Queue) -> None:
    """A message attribute has lower-case field names and empty lists."""
    queue.send("x", MessageAttributes={"kind": {"DataType": "String", "StringValue": "round"}})
    function = Recorder()
    queue.pump(function).pump_once()
    assert function.events[0]["Records"][0]["messageAttributes"] == {
        "kind": {
            "stringValue": "round",
            "dataType": "String",
            "stringListValues": [],
            "binaryListValues": [],
        }
    }


def test_handled_messages_are_deleted(queue: Queue) -> None:
    """After a batch without failures the queue is empty, hidden messages included."""
    for body in "abc":
        queue.send(body)
    function = Recorder({"batchItemFailures": []})
    assert queue.pump(function).pump_once() == 3
    assert sorted(function.bodies()) == ["a", "b", "c"]
    assert queue.size() == 0


def test_only_named_failures_are_delivered_again(queue: Queue) -> None:
    """Only the messages that batchItemFailures names are delivered again."""
    queue.send("good")
    bad = queue.send("bad")
    function = Recorder({"batchItemFailures": [{"itemIdentifier": bad}]})
    pump = queue.pump(function)
    pump.pump_once()
    function.answer = None
    pump.pump_once()
    assert sorted(function.bodies()) == ["bad", "bad", "good"]
    assert function.events[1]["Records"][0]["attributes"]["ApproximateReceiveCount"] == "2"
    assert queue.size() == 0


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("the function failed"),
        "done",
        {"batchItemFailures": [{"itemIdentifier": "of no message"}]},
    ],
    ids=["raised", "no object", "unknown id"],
)
def test_error_or_invalid_response_fails_the_whole_batch(queue: Queue, answer: Any) -> None:
    """All messages of such a batch are delivered again, and the pump has the error."""
    queue.send("a")
    queue.send("b")
    function = Recorder(answer)
    pump = queue.pump(function)
    pump.pump_once()
    assert pump.last_error is not None
    function.answer = None
    pump.pump_once()
    assert sorted(function.bodies()) == ["a", "a", "b", "b"]
    assert pump.last_error is None


def test_message_that_keeps_failing_becomes_a_dead_letter(queue: Queue) -> None:
    """After maxReceiveCount deliveries a message is in the dead-letter queue only."""
    queue.send("poison")
    function = Recorder(RuntimeError("always"))
    pump = queue.pump(function)
    assert [pump.pump_once() for _ in range(3)] == [1, 1, 0]
    assert (queue.size(), queue.size(queue.dead_letter_url)) == (0, 1)


def test_batch_has_at_most_the_configured_size(queue: Queue) -> None:
    """Five messages in batches of two are three invocations."""
    for number in range(5):
        queue.send(str(number))
    function = Recorder()
    pump = queue.pump(function, batch_size=2)
    assert [pump.pump_once() for _ in range(4)] == [2, 2, 1, 0]
    assert len(function.events) == 3


def test_batch_window_collects_several_receives(queue: Queue) -> None:
    """With a batch window, a batch can be larger than one response of SQS."""
    for number in range(12):
        queue.send(str(number))
    function = Recorder()
    pump = queue.pump(function, batch_size=12, batch_window_seconds=30)
    assert pump.pump_once() == 12
    assert queue.size() == 0


def test_background_delivery_continues_after_an_error(queue: Queue) -> None:
    """A failed batch is delivered again in the background."""
    handled = threading.Event()
    calls: list[str] = []

    def fail_once(event: Any) -> None:
        calls.append(event["Records"][0]["body"])
        if len(calls) == 1:
            raise RuntimeError("once")
        handled.set()

    with queue.pump(fail_once):
        queue.send("a")
        assert handled.wait(30)
    assert calls == ["a", "a"]
    assert queue.size() == 0


@pytest.mark.parametrize(
    "answer",
    [None, {}, {"batchItemFailures": []}, {"batchItemFailures": None}],
    ids=["null", "empty", "no failures", "null failures"],
)
def test_responses_that_mean_success(answer: Any) -> None:
    """Null and empty responses mean that every message was handled, as AWS documents."""
    assert failed_messages(answer, {"1", "2"}) == set()


@pytest.mark.parametrize(
    "failures",
    [
        [{"itemIdentifier": ""}],
        [{"itemIdentifier": None}],
        [{"id": "1"}],
        ["1"],
        "1",
        7,
        [{"itemIdentifier": ["1"]}],
    ],
    ids=str,
)
def test_invalid_failures_are_refused(failures: Any) -> None:
    """Failures that name no message of the batch are invalid, as AWS documents."""
    with pytest.raises(ValueError, match="batchItemFailures"):
        failed_messages({"batchItemFailures": failures}, {"1", "2"})
