"""Messages to the function's own queue: a round request each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from aggregation.errors import TemporarilyUnavailable

#: As many as SQS takes in one request.
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
            try:
                answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
            except (BotoCoreError, ClientError) as error:
                raise TemporarilyUnavailable(f"the queue cannot be reached: {error}") from error
            if answer.get("Failed"):
                raise TemporarilyUnavailable(f"the queue refused messages: {answer['Failed']}")
