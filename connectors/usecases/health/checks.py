"""All checks, and those of the database and storage."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

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
from connectors.storage.weights import default_objects
from connectors.usecases.health.aws import (
    CREDENTIALS,
    IncompleteCredentials,
    aws_client,
    check_clock,
    check_notifications,
    check_queue,
)
from connectors.usecases.health.findings import Finding, failed, ok
from connectors.usecases.health.models import check_models
from models_app.models import FederatedModel

#: Apps whose tables only the console needs. The function does not have them.
ADMIN = ("admin", "sessions")

#: The newest private models whose data keys are read.
PRIVATE_MODELS = 20


def diagnose() -> Iterator[Finding]:
    """Yield the findings of all checks; a check that raises an error is a finding too."""
    for name, check, fix in _CHECKS:
        yield from _run_check(name, check, fix)


def _run_check(name: str, check: Callable[[], Iterator[Finding]], fix: str) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:
        kind = "" if isinstance(error, IncompleteCredentials) else f"{type(error).__name__}: "
        message = " ".join(f"{kind}{error}".split())
        fixes = (better for errors, better in _FIXES if isinstance(error, errors))
        return [failed(name, message, next(fixes, fix))]


#: How to fix an error, whichever check it comes from; other errors have the check's own fix.
_FIXES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (IncompleteCredentials, NoCredentialsError, PartialCredentialsError),
        f"set {' and '.join(CREDENTIALS)}, or AWS_PROFILE, or give the process a role",
    ),
    ((NoRegionError,), "set AWS_DEFAULT_REGION"),
    (
        (NoConnection, HTTPClientError),
        "check the network, and AWS_ENDPOINT_URL if it is set",
    ),
)


def _check_database() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    yield ok("database", f"{connection.vendor} answers")


def _check_migrations() -> Iterator[Finding]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    missing = [f"{each.app_label}.{each.name}" for each, _ in plan if each.app_label not in ADMIN]
    if missing:
        yield failed("migrations", f"not applied: {', '.join(missing)}", "manage.py migrate")
    elif plan:
        yield ok("migrations", "all are applied but the console's, which manage.py migrate applies")
    else:
        yield ok("migrations", "all are applied")


def _check_storage() -> Iterator[Finding]:
    """Check that this process may write, read and remove an object; nothing is left behind."""
    if settings.STORAGE_ROOT and not Path(settings.STORAGE_ROOT).is_dir():
        raise NotADirectoryError(f"{settings.STORAGE_ROOT} is not a directory")
    if settings.BUCKET:
        with suppress(ClientError):  # It answers; what is not allowed shows below.
            aws_client("s3").head_bucket(Bucket=settings.BUCKET)
    objects = default_objects()
    key = f"aggregates/0/doctor-{uuid.uuid4().hex}.json"
    sink = objects.sink(key, None)
    try:
        sink.write_part(1, b"[]", last=True)
        sink.complete()
        stored = objects.stat(key)
        data = bytearray(stored.size)
        objects.source(key, size=stored.size, etag=stored.etag).read_into(0, memoryview(data))
    finally:
        with suppress(Exception):  # If it cannot be removed, writing has failed as well.
            objects.remove(Orphan(key=key, since=timezone.now()))
    where = f"bucket {settings.BUCKET}" if settings.BUCKET else f"directory {settings.STORAGE_ROOT}"
    yield ok("storage", f"{where}: writing, reading and removing work")


def _check_privacy() -> Iterator[Finding]:
    """Check that the data keys of private models can be read, if there are such models."""
    private = FederatedModel.objects.filter(differential_privacy__isnull=False).order_by("-pk")
    models = list(private.values_list("pk", flat=True)[:PRIVATE_MODELS])
    if not models:
        return
    from connectors.storage.seeds import SeedVault  # Private models alone need it.

    vault = SeedVault(default_objects(), settings.PRIVACY_KEY)
    drawn = [model_id for model_id in models if vault.can_open(model_id)]
    yield ok(
        "privacy", f"the data keys of {len(drawn)} of {len(models)} private models can be read"
    )


_PERMISSION = "the message names the permission that is missing, or what does not exist"

_CHECKS: tuple[tuple[str, Callable[[], Iterator[Finding]], str], ...] = (
    ("database", _check_database, "check DATABASE_URL and the network"),
    ("migrations", _check_migrations, "fix the database first"),
    ("models", check_models, "fix the database and its migrations first"),
    ("storage", _check_storage, f"check BUCKET or STORAGE_ROOT; {_PERMISSION}"),
    ("clock", check_clock, f"check BUCKET; {_PERMISSION}"),
    ("notification", check_notifications, f"s3:GetBucketNotification is needed: {_PERMISSION}"),
    ("privacy", _check_privacy, f"check PRIVACY_KEY; {_PERMISSION}"),
    ("queue", check_queue, f"check QUEUE_URL; {_PERMISSION}"),
)
