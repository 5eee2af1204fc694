"""What the tests of the embedded cloud share."""

from __future__ import annotations

import uuid

import pytest

from local.cloud import Cloud, create_cloud


@pytest.fixture
def own_cloud(cloud: Cloud) -> Cloud:
    """A bucket and queues that nothing has happened to, but that S3 tried its notifications."""
    own = create_cloud(cloud.endpoint, bucket=f"test-{uuid.uuid4()}", max_receive_count=2)
    sqs = own.client("sqs")
    (tried,) = sqs.receive_message(QueueUrl=own.queue_url)["Messages"]
    assert "s3:TestEvent" in tried["Body"]
    sqs.delete_message(QueueUrl=own.queue_url, ReceiptHandle=tried["ReceiptHandle"])
    return own
