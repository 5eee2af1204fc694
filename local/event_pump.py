"""Delivers messages of a queue to the function, as Lambda's event source mapping for SQS does.

It follows AWS's developer guide, "Using Lambda with Amazon SQS" and "Handling errors for an SQS event
source in Lambda", with ``ReportBatchItemFailures``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from local.cloud import queue_arn

logger = logging.getLogger(__name__)

#: The most messages that one request to SQS receives or deletes.
SQS_BATCH = 10

#: How long closing waits for a running delivery. The thread is a daemon: it ends with the process.
STOP_SECONDS = 5


class EventPump:
    """Delivers a queue's messages to a function in batches.

    Messages that the function handled are deleted. Those that it named in ``batchItemFailures`` are
    delivered again, and so is a whole batch if the function failed or its response is invalid, until the
    queue's redrive policy makes them dead letters.

    Use it as a context manager to deliver in the background, or call `pump_once`.

    Parameters
    ----------
    queue_url : str
    function : callable
        Takes the event and returns the response, or raises, such as ``LambdaRuntime.invoke``.
    sqs : optional
        boto3's SQS client; by default it is created from the environment.
    batch_size : int
        The most messages of an invocation.
    batch_window_seconds : float
        How long a batch that is not full waits for more messages.
    wait_seconds : int
        How long SQS holds a request while there is no message (long polling).
    retry_seconds : int
        After how long a failed message is delivered again. On AWS it is the rest of the queue's
        visibility timeout, which is too long to watch.

    Attributes
    ----------
    last_error : Exception or None
        Why the last batch failed as a whole.
    """

    def __init__(
        self,
        queue_url: str,
        function: Callable[[Any], Any],
        *,
        sqs: Any = None,
        batch_size: int = SQS_BATCH,
        batch_window_seconds: float = 0,
        wait_seconds: int = 1,
        retry_seconds: int = 0,
    ) -> None:
        self._queue_url = queue_url
        self._function = function
        self._sqs = sqs or boto3.client("sqs")
        self._batch_size = batch_size
        self._batch_window_seconds = batch_window_seconds
        self._wait_seconds = wait_seconds
        self._retry_seconds = retry_seconds
        self._arn = queue_arn(self._sqs, queue_url)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._pump_until_stopped, name="event pump", daemon=True
        )
        self.last_error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop delivering. A running batch is completed."""
        self._stopped.set()
        self._thread.join(STOP_SECONDS)

    def pump_once(self) -> int:
        """Deliver one batch, if there are messages.

        Returns
        -------
        int
            The number of messages delivered, including those that failed.
        """
        messages = self._receive_batch()
        if messages:
            failed = self._deliver(messages)
            self._delete([each for each in messages if each["MessageId"] not in failed])
            self._return_to_queue([each for each in messages if each["MessageId"] in failed])
        return len(messages)

    def _pump_until_stopped(self) -> None:
        while not self._stopped.is_set():
            try:
                self.pump_once()
            except (BotoCoreError, ClientError) as error:
                logger.warning("the queue is not available: %s", error)
                self._stopped.wait(1)

    def _receive_batch(self) -> list[dict[str, Any]]:
        messages = self._receive(self._batch_size, self._wait_seconds)
        closes = time.monotonic() + self._batch_window_seconds
        while messages and len(messages) < self._batch_size and time.monotonic() < closes:
            self._stopped.wait(0.02)
            messages += self._receive(self._batch_size - len(messages), wait_seconds=0)
        return messages

    def _receive(self, count: int, wait_seconds: int) -> list[dict[str, Any]]:
        answer = self._sqs.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=min(count, SQS_BATCH),
            WaitTimeSeconds=wait_seconds,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return list(answer.get("Messages", ()))

    def _deliver(self, messages: Sequence[dict[str, Any]]) -> set[str]:
        """Invoke the function with a batch, and return the ids of the messages that it did not handle."""
        ids = {message["MessageId"] for message in messages}
        try:
            answer = self._function({"Records": [self._record(message) for message in messages]})
            failed = failed_messages(answer, ids)
        except Exception as error:  # Whatever the function raises fails the batch.
            logger.warning("a batch of %d messages failed: %s", len(messages), error)
            self.last_error = error
            return ids
        self.last_error = None
        return failed

    def _record(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a received message in the form of a Lambda event's record."""
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": {
                name: _message_attribute(value)
                for name, value in message.get("MessageAttributes", {}).items()
            },
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self._arn,
            "awsRegion": self._arn.split(":")[3],
        }

    def _delete(self, messages: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(messages), SQS_BATCH):
            self._sqs.delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]}
                    for i, message in enumerate(messages[start : start + SQS_BATCH])
                ],
            )

    def _return_to_queue(self, messages: Sequence[dict[str, Any]]) -> None:
        for message in messages:
            self._sqs.change_message_visibility(
                QueueUrl=self._queue_url,
                ReceiptHandle=message["ReceiptHandle"],
                VisibilityTimeout=self._retry_seconds,
            )


def failed_messages(answer: Any, ids: Collection[str]) -> set[str]:
    """Return which messages of a batch are to be delivered again, according to the function's response.

    Null, ``{}`` and an empty or null list of failures mean that all were handled.

    Parameters
    ----------
    answer : JSON-able
    ids : collection of str
        The ids of the batch's messages.

    Returns
    -------
    set of str

    Raises
    ------
    ValueError
        If the response has another form, or names a message that was not in the batch. Lambda then
        treats the whole batch as failed.
    """
    if answer is None:
        return set()
    if not isinstance(answer, dict):
        raise ValueError(f"the function responded to a batch with {answer!r}")
    failures = answer.get("batchItemFailures") or []
    try:
        failed = {failure["itemIdentifier"] for failure in failures}
    except (TypeError, KeyError) as error:
        raise ValueError(f"batchItemFailures is {failures!r}") from error
    if not failed <= set(ids):
        raise ValueError(f"batchItemFailures names messages that were not sent: {failures!r}")
    return failed


def _message_attribute(value: dict[str, Any]) -> dict[str, Any]:
    """Return a message attribute with the names that Lambda uses."""
    names = {"StringValue": "stringValue", "BinaryValue": "binaryValue", "DataType": "dataType"}
    given = {spelled: value[name] for name, spelled in names.items() if name in value}
    return {"stringListValues": [], "binaryListValues": [], **given}
