"""The bucket and the queues of `template.yaml`, created in moto: uploads notify the queue."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import boto3
from botocore.config import Config

from local.moto_server import moto_server

Service = Literal["s3", "sqs", "events", "dynamodb", "secretsmanager"]

REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}

#: The prefixes under which clients upload.
UPLOAD_PREFIXES = ("updates/", "scores/")

#: boto3 refuses to work if one of these names a profile that is not in its files, which are hidden here.
PROFILE = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The addresses of a bucket and its queues."""

    endpoint: str
    bucket: str
    queue_url: str
    dead_letter_url: str

    def environment(self) -> dict[str, str]:
        """Return the variables with which a process uses this cloud, and never a real one.

        The user's own AWS files are hidden, and no proxy is used for this machine.
        """
        return {
            "BUCKET": self.bucket,
            "QUEUE_URL": self.queue_url,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            **CREDENTIALS,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def client(self, service: Service) -> Any:
        """Return a boto3 client of this cloud, whatever the process's environment says."""
        return _client(service, self.endpoint)


@contextmanager
def embedded_cloud() -> Iterator[Cloud]:
    """Run a cloud until the context is left."""
    with moto_server() as endpoint:
        yield create_cloud(endpoint)


def create_cloud(
    endpoint: str,
    *,
    bucket: str = "federation",
    visibility_seconds: int = 60,
    max_receive_count: int = 5,
) -> Cloud:
    """Create a versioned bucket, and a queue with dead letters that it notifies of uploads.

    Parameters
    ----------
    endpoint : str
        The endpoint of a moto server.
    bucket : str
        Its name. The queues are named after it, so that one server can have several clouds.
    visibility_seconds : int
        How long a received message is hidden from other receivers, at least the function's timeout.
    max_receive_count : int
        A message that fails this many times becomes a dead letter.

    Returns
    -------
    Cloud
    """
    for name in PROFILE:
        os.environ.pop(name, None)
    sqs = _client("sqs", endpoint)
    dead_letter_url = sqs.create_queue(QueueName=f"{bucket}-dead-letters")["QueueUrl"]
    redrive = {
        "deadLetterTargetArn": queue_arn(sqs, dead_letter_url),
        "maxReceiveCount": max_receive_count,
    }
    queue_url = sqs.create_queue(
        QueueName=f"{bucket}-events",
        Attributes={
            "VisibilityTimeout": str(visibility_seconds),
            "RedrivePolicy": json.dumps(redrive),
        },
    )["QueueUrl"]
    _create_bucket(_client("s3", endpoint), bucket, notified=queue_arn(sqs, queue_url))
    return Cloud(
        endpoint=endpoint, bucket=bucket, queue_url=queue_url, dead_letter_url=dead_letter_url
    )


def queue_arn(sqs: Any, queue_url: str) -> str:
    """Return the ARN of a queue, which the records of SQS events contain."""
    answer = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    return str(answer["Attributes"]["QueueArn"])


@cache  # Creating a client takes longer than most requests.
def _client(service: Service, endpoint: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        config=Config(proxies={}),
    )


def _create_bucket(s3: Any, bucket: str, *, notified: str) -> None:
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "QueueArn": notified,
                    "Events": ["s3:ObjectCreated:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
                }
                for prefix in UPLOAD_PREFIXES
            ]
        },
    )
