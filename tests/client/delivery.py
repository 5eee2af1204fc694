"""Lambda's event source mapping, one batch at a time."""

from __future__ import annotations

import json

from local.cloud import Cloud
from tests.factories import sqs_event
from tests.test_lambda_handler import invoke


def deliver(cloud: Cloud) -> int:
    """Hand the messages in the queue to the function; return how many there were."""
    sqs = cloud.client("sqs")
    answer = sqs.receive_message(QueueUrl=cloud.queue_url, MaxNumberOfMessages=10)
    messages = answer.get("Messages", ())
    if messages:
        bodies = [json.loads(message["Body"]) for message in messages]
        assert invoke(sqs_event(*bodies)) == {"batchItemFailures": []}
    for message in messages:
        sqs.delete_message(QueueUrl=cloud.queue_url, ReceiptHandle=message["ReceiptHandle"])
    return len(messages)
