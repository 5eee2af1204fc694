"""Checks of the AWS services: clock, notifications, queue and dead letters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import boto3
from botocore.config import Config
from django.conf import settings

from connectors.usecases.health.findings import Finding, failed, ok, skipped, warning

#: Prefixes of the keys that clients upload.
UPLOAD_PREFIXES = ("updates/", "scores/")

#: S3 refuses requests whose signature is 15 minutes off; one minute shows that NTP does not run.
MAX_CLOCK_SECONDS = 60

#: A service that does not answer is reported soon.
FAIL_FAST = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1})

#: The environment variables of credentials: both, or neither.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class IncompleteCredentials(Exception):
    """Only one of the two environment variables of the credentials is set."""


def aws_client(service: Literal["s3", "sqs"]) -> Any:
    """Return a boto3 client that fails fast.

    Raises
    ------
    IncompleteCredentials
    """
    present = [name for name in CREDENTIALS if os.environ.get(name)]
    if len(present) == 1:
        (missing,) = set(CREDENTIALS) - set(present)
        raise IncompleteCredentials(
            f"credentials are incomplete: {present[0]} is set, {missing} is not"
        )
    return boto3.client(service, config=FAIL_FAST)


def check_clock() -> Iterator[Finding]:
    """Compare this machine's clock with S3's."""
    if not settings.BUCKET:
        yield skipped("clock", "storage is a directory: there is no clock of S3 to compare with")
        return
    answer = aws_client("s3").head_bucket(Bucket=settings.BUCKET)
    theirs = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    seconds = abs((datetime.now(UTC) - theirs).total_seconds())
    message = f"{seconds:.0f} s from S3's clock"
    if seconds <= MAX_CLOCK_SECONDS:
        yield ok("clock", message)
    else:
        why = f"{message}: leases and signatures depend on it"
        yield failed("clock", why, "set the clock: timedatectl set-ntp true")


def check_notifications() -> Iterator[Finding]:
    """Check that the bucket sends notifications of uploads."""
    if not settings.BUCKET:
        yield skipped("notification", "storage is a directory: it sends no notifications")
        return
    configuration = aws_client("s3").get_bucket_notification_configuration(Bucket=settings.BUCKET)
    for prefix in UPLOAD_PREFIXES:
        target = notification_target(configuration, prefix)
        if target:
            yield ok("notification", f"uploads below {prefix} are sent to {target}")
        else:
            yield failed(
                "notification",
                f"the bucket sends no notification of uploads below {prefix}",
                "deploy template.yaml, or configure s3:ObjectCreated:* with this prefix to go to the "
                "queue",
            )


def notification_target(configuration: dict[str, Any], prefix: str) -> str:
    """Return where notifications of uploads below a prefix are sent; empty if nowhere."""
    for kind, target in (
        ("QueueConfigurations", "QueueArn"),
        ("LambdaFunctionConfigurations", "LambdaFunctionArn"),
    ):
        for each in configuration.get(kind, ()):
            rules = each.get("Filter", {}).get("Key", {}).get("FilterRules", ())
            wanted = {rule["Name"].lower(): rule["Value"] for rule in rules}
            creates = any(event.startswith("s3:ObjectCreated") for event in each["Events"])
            if creates and prefix.startswith(wanted.get("prefix", "")) and not wanted.get("suffix"):
                return str(each[target])
    return "EventBridge" if "EventBridgeConfiguration" in configuration else ""


def check_queue() -> Iterator[Finding]:
    """Check the function's queue and its dead-letter queue."""
    if not settings.QUEUE_URL:
        if settings.STORAGE_ROOT:
            yield skipped("queue", "storage is a directory: rounds are run by hand")
        else:
            yield warning(
                "queue",
                "QUEUE_URL is not set: rounds that run out of time wait for the next sweep",
                "set QUEUE_URL to the function's own queue",
            )
        return
    sqs = aws_client("sqs")
    attributes: dict[str, str] = sqs.get_queue_attributes(
        QueueUrl=settings.QUEUE_URL, AttributeNames=["All"]
    )["Attributes"]
    yield ok("queue", f"about {attributes['ApproximateNumberOfMessages']} messages are waiting")
    yield _check_dead_letters(sqs, attributes.get("RedrivePolicy", ""))


def _check_dead_letters(sqs: Any, policy: str) -> Finding:
    if not policy:
        return failed(
            "dead letters",
            "the queue has no RedrivePolicy: a message that fails is retried for days",
            "deploy template.yaml, or give the queue a dead-letter queue",
        )
    name = json.loads(policy)["deadLetterTargetArn"].rsplit(":", 1)[1]
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    letters = int(answer["Attributes"]["ApproximateNumberOfMessages"])
    if not letters:
        return ok("dead letters", "none")
    return warning(
        "dead letters",
        f"about {letters} in {name}",
        "find the cause in the function's log, then run manage.py redrive",
    )
