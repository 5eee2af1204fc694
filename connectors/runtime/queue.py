"""The function's own queue: requests for rounds, backoff of failed messages, redrive."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aggregation.errors import TemporarilyUnavailable
from connectors.errors import translate_aws_errors
from connectors.limits import RETRY_FACTOR, RETRY_FIRST_SECONDS, RETRY_MAX_SECONDS

#: Messages in one request to SQS, which accepts no more.
BATCH = 10


class RoundQueue:
    """The queue that carries round requests to the function.

    Parameters
    ----------
    client
        boto3's SQS client.
    url : str
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    def redrive(self) -> int:
        """Move every dead-lettered message back to the queue, and return how many there were.

        A message is deleted only after the queue has it, so that none is lost in between.
        docs/decisions/2026-11-28-redrive.md says why SQS does not do this for us.

        Raises
        ------
        TemporarilyUnavailable
            If a queue cannot be reached.
        LookupError
            If the queue has no dead-letter queue.
        """
        with translate_aws_errors("the queue"):
            dead_letters = self._dead_letter_url()
            moved = 0
            while True:
                answer = self._client.receive_message(
                    QueueUrl=dead_letters, MaxNumberOfMessages=BATCH, WaitTimeSeconds=1
                )
                letters = answer.get("Messages", [])
                if not letters:
                    return moved
                for letter in letters:
                    self._client.send_message(QueueUrl=self._url, MessageBody=letter["Body"])
                    self._client.delete_message(
                        QueueUrl=dead_letters, ReceiptHandle=letter["ReceiptHandle"]
                    )
                moved += len(letters)

    def _dead_letter_url(self) -> str:
        response = self._client.get_queue_attributes(
            QueueUrl=self._url, AttributeNames=["RedrivePolicy"]
        )
        policy = response.get("Attributes", {}).get("RedrivePolicy")
        if not policy:
            raise LookupError(f"{self._url} has no dead-letter queue: its RedrivePolicy is not set")
        name = json.loads(policy)["deadLetterTargetArn"].rsplit(":", 1)[1]
        return str(self._client.get_queue_url(QueueName=name)["QueueUrl"])

    def delay(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Set when received messages return: after a backoff that grows with their deliveries.

        Parameters
        ----------
        messages : sequence of mapping
            Records of an event of SQS.

        Raises
        ------
        TemporarilyUnavailable, ServiceRefused
            The messages return after the visibility timeout of the queue.
        """
        for first in range(0, len(messages), BATCH):
            entries = [
                {
                    "Id": str(number),
                    "ReceiptHandle": message["receiptHandle"],
                    "VisibilityTimeout": backoff_seconds(message),
                }
                for number, message in enumerate(messages[first : first + BATCH])
            ]
            with translate_aws_errors("the queue"):
                self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

    def request_rounds(self, model_ids: Sequence[int]) -> None:
        """Ask for one round of each of these models.

        Raises
        ------
        TemporarilyUnavailable
            If the queue did not take every message.
        """
        for first in range(0, len(model_ids), BATCH):
            entries = [
                {"Id": str(model_id), "MessageBody": json.dumps({"model_id": model_id})}
                for model_id in model_ids[first : first + BATCH]
            ]
            with translate_aws_errors("the queue"):
                answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
            if answer.get("Failed"):
                raise TemporarilyUnavailable(f"the queue refused messages: {answer['Failed']}")


class MaskKeeperQueue:
    """The queue of the mask keeper, which is another account's.

    Parameters
    ----------
    client
        boto3's SQS client.
    url : str
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    def ask(self, request: str) -> None:
        """Ask the mask keeper to answer the request that is stored under a key.

        Raises
        ------
        TemporarilyUnavailable, ServiceRefused
        """
        with translate_aws_errors("the mask keeper's queue"):
            self._client.send_message(
                QueueUrl=self._url, MessageBody=json.dumps({"request": request})
            )


def backoff_seconds(message: Mapping[str, Any]) -> int:
    """Return how long a message that failed waits for its next delivery."""
    deliveries = int(message["attributes"]["ApproximateReceiveCount"])
    seconds: int = RETRY_FIRST_SECONDS * RETRY_FACTOR ** (deliveries - 1)
    return min(seconds, RETRY_MAX_SECONDS)
