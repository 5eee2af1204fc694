"""Fixtures for the tests of the embedded cloud."""

from __future__ import annotations

import uuid

import pytest

from local.cloud import Cloud, create_cloud


@pytest.fixture
def own_cloud(cloud: Cloud) -> Cloud:
    """A bucket and queues of the test's own; the test event of the notifications has been received."""
    own = create_cloud(cloud.endpoint, bucket=f"test-{uuid.uuid4()}", max_receive_count=2)
    sqs = own.client("sqs")
    (test_event,) = sqs.receive_message(QueueUrl=own.queue_url)["Messages"]
    assert "s3:TestEvent" in test_event["Body"]
    sqs.delete_message(QueueUrl=own.queue_url, ReceiptHandle=test_event["ReceiptHandle"])
    return own
