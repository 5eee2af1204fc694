"""What may be wrong around the function, found out by asking, with what mends it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnection
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from connectors.storage.port import Orphan
from connectors.workflow.aggregator import DEFAULT_SETTINGS, DjangoAggConnector
from models_app.models import FederatedModel

#: What clients upload is announced from below these.
ANNOUNCED = ("updates/", "scores/")

#: S3 refuses requests that are signed a quarter of an hour off; much less already tells of no NTP.
MAX_CLOCK_SECONDS = 60

#: Where AWS does not answer, whoever asks is to hear of it soon.
IMPATIENT = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1})

#: What credentials in the environment consist of.
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Parameters
    ----------
    check : str
    verdict : Verdict
    what : str
    mend : str
        What to do; empty where nothing is.
    """

    check: str
    verdict: Verdict
    what: str
    mend: str = ""


class NoAccess(Exception):
    """Of the credentials for AWS, only a part is there."""


def diagnose() -> Iterator[Finding]:
    """All checks in turn. One that cannot be made is a finding too, and stops no other."""
    for check, look, mend in _CHECKS:
        yield from _looked(check, look, mend)


def _looked(check: str, look: Callable[[], Iterator[Finding]], mend: str) -> list[Finding]:
    try:
        return list(look())
    except Exception as error:
        name = "" if isinstance(error, NoAccess) else f"{type(error).__name__}: "
        what = " ".join(f"{name}{error}".split())
        mends = (better for kinds, better in _MENDS if isinstance(error, kinds))
        return [Finding(check=check, verdict=Verdict.WRONG, what=what, mend=next(mends, mend))]


#: What mends an error wherever it comes up; what mends others is the check's to say.
_MENDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (NoAccess, NoCredentialsError, PartialCredentialsError),
        f"set {' and '.join(KEYS)}, or AWS_PROFILE, or give the process a role",
    ),
    ((NoRegionError,), "set AWS_DEFAULT_REGION"),
    (
        (NoConnection, HTTPClientError),
        "does the network, or AWS_ENDPOINT_URL if it is set, lead to AWS?",
    ),
)


def _database() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    yield Finding(check="database", verdict=Verdict.OK, what=f"{connection.vendor} answers")


def _migrations() -> Iterator[Finding]:
    executor = MigrationExecutor(connection)
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not waiting:
        yield Finding(check="migrations", verdict=Verdict.OK, what="all are applied")
        return
    names = ", ".join(f"{each.app_label}.{each.name}" for each, _ in waiting)
    yield Finding(
        check="migrations",
        verdict=Verdict.WRONG,
        what=f"not applied: {names}",
        mend="manage.py migrate",
    )


def _models() -> Iterator[Finding]:
    paused = list(
        FederatedModel.objects.filter(allow_aggregation=False).values_list("pk", "pause_reason")
    )
    for pk, reason in paused:
        yield Finding(
            check="models",
            verdict=Verdict.WARNING,
            what=f"model {pk} is paused: {reason}",
            mend=f"manage.py rounds {pk}, then manage.py resume {pk}",
        )
    if not paused:
        yield Finding(check="models", verdict=Verdict.OK, what="none is paused")


def _storage() -> Iterator[Finding]:
    """Whether this process may do what a round does; leaves nothing behind."""
    if settings.STORAGE_ROOT and not Path(settings.STORAGE_ROOT).is_dir():
        raise NotADirectoryError(f"{settings.STORAGE_ROOT} is no directory")
    if settings.BUCKET:
        with suppress(ClientError):  # It answers; what follows tells what is not allowed.
            _aws("s3").head_bucket(Bucket=settings.BUCKET)
    objects = DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects
    key = f"aggregates/0/doctor-{uuid.uuid4().hex}.json"
    sink = objects.sink(key, None)
    try:
        sink.write_part(1, b"[]", last=True)
        sink.complete()
        stored = objects.stat(key)
        read = bytearray(stored.size)
        objects.source(key, size=stored.size, etag=stored.etag).read_into(0, memoryview(read))
    finally:
        with suppress(Exception):  # What keeps it from being removed is what was just found.
            objects.remove(Orphan(key=key, since=timezone.now()))
    where = f"bucket {settings.BUCKET}" if settings.BUCKET else f"directory {settings.STORAGE_ROOT}"
    yield Finding(
        check="storage", verdict=Verdict.OK, what=f"{where}: writing, reading and removing work"
    )


def _aws(service: Literal["s3", "sqs"]) -> Any:
    """A client that does not wait for what does not answer.

    Raises
    ------
    NoAccess
    """
    told = [name for name in KEYS if os.environ.get(name)]
    if len(told) == 1:
        (missing,) = set(KEYS) - set(told)
        raise NoAccess(f"credentials are incomplete: {told[0]} is set, {missing} is not")
    return boto3.client(service, config=IMPATIENT)


def _clock() -> Iterator[Finding]:
    if not settings.BUCKET:
        yield Finding(check="clock", verdict=Verdict.SKIPPED, what="no AWS to compare it with")
        return
    answer = _aws("s3").head_bucket(Bucket=settings.BUCKET)
    told = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    off = abs((datetime.now(UTC) - told).total_seconds())
    if off <= MAX_CLOCK_SECONDS:
        yield Finding(check="clock", verdict=Verdict.OK, what=f"{off:.0f} s from S3's")
        return
    yield Finding(
        check="clock",
        verdict=Verdict.WRONG,
        what=f"{off:.0f} s from S3's: leases and signatures go by it",
        mend="set the clock: timedatectl set-ntp true",
    )


def _notification() -> Iterator[Finding]:
    if not settings.BUCKET:
        yield Finding(
            check="notification", verdict=Verdict.SKIPPED, what="a directory announces nothing"
        )
        return
    configured = _aws("s3").get_bucket_notification_configuration(Bucket=settings.BUCKET)
    for prefix in ANNOUNCED:
        to = _announced_to(configured, prefix)
        if to:
            yield Finding(check="notification", verdict=Verdict.OK, what=f"{prefix} goes to {to}")
        else:
            yield Finding(
                check="notification",
                verdict=Verdict.WRONG,
                what=f"nobody is told of what is uploaded below {prefix}",
                mend="deploy template.yaml, or let the bucket send s3:ObjectCreated:* with this "
                "prefix to the queue",
            )


def _announced_to(configured: dict[str, Any], prefix: str) -> str:
    """Who is told of objects below a prefix; empty if nobody is."""
    for kind, target in (
        ("QueueConfigurations", "QueueArn"),
        ("LambdaFunctionConfigurations", "LambdaFunctionArn"),
    ):
        for each in configured.get(kind, ()):
            rules = each.get("Filter", {}).get("Key", {}).get("FilterRules", ())
            wanted = {rule["Name"].lower(): rule["Value"] for rule in rules}
            creates = any(event.startswith("s3:ObjectCreated") for event in each["Events"])
            if creates and prefix.startswith(wanted.get("prefix", "")) and not wanted.get("suffix"):
                return str(each[target])
    return "EventBridge" if "EventBridgeConfiguration" in configured else ""


def _queue() -> Iterator[Finding]:
    if not settings.QUEUE_URL:
        yield Finding(
            check="queue",
            verdict=Verdict.WARNING,
            what="QUEUE_URL is not set: rounds that run out of time wait for the next sweep",
            mend="set QUEUE_URL to the function's own queue",
        )
        return
    sqs = _aws("sqs")
    attributes = sqs.get_queue_attributes(QueueUrl=settings.QUEUE_URL, AttributeNames=["All"])
    found: dict[str, str] = attributes["Attributes"]
    waiting = found["ApproximateNumberOfMessages"]
    yield Finding(check="queue", verdict=Verdict.OK, what=f"about {waiting} messages wait")
    yield _dead_letters(sqs, found.get("RedrivePolicy", ""))


def _dead_letters(sqs: Any, policy: str) -> Finding:
    if not policy:
        return Finding(
            check="dead letters",
            verdict=Verdict.WRONG,
            what="the queue has no RedrivePolicy: a message that fails comes back for days",
            mend="deploy template.yaml, or give the queue a dead-letter queue",
        )
    name = json.loads(policy)["deadLetterTargetArn"].rsplit(":", 1)[1]
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    asked = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    letters = int(asked["Attributes"]["ApproximateNumberOfMessages"])
    if not letters:
        return Finding(check="dead letters", verdict=Verdict.OK, what="none")
    return Finding(
        check="dead letters",
        verdict=Verdict.WARNING,
        what=f"about {letters} in {name}",
        mend="find the cause in the function's log, then manage.py redrive",
    )


_PERMISSION = "the message names the action that the role lacks, or what does not exist"

_CHECKS: tuple[tuple[str, Callable[[], Iterator[Finding]], str], ...] = (
    ("database", _database, "is DATABASE_URL right, and does the network let it be reached?"),
    ("migrations", _migrations, "mend the database first"),
    ("models", _models, "mend the database and its migrations first"),
    ("storage", _storage, f"is BUCKET or STORAGE_ROOT right? Else {_PERMISSION}"),
    ("clock", _clock, f"is BUCKET right? Else {_PERMISSION}"),
    ("notification", _notification, f"s3:GetBucketNotification is needed to look: {_PERMISSION}"),
    ("queue", _queue, f"is QUEUE_URL right? Else {_PERMISSION}"),
)
