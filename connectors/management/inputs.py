"""What a command reads: a file, or ``s3://BUCKET/KEY`` in the federation's own bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.management.base import CommandError

from aggregation.errors import ObjectMissing
from aggregation.sources import ByteSource, FileSource
from connectors import DjangoAggConnector
from connectors.workflow.aggregator import DEFAULT_SETTINGS

S3 = "s3://"

#: How both are told in ``--help``.
EITHER = "a file, or s3://BUCKET/KEY in the federation's bucket"


@contextmanager
def source_of(given: str, option: str) -> Iterator[ByteSource]:
    """The bytes of what was given; what keeps them from being read is told with the option's name.

    Raises
    ------
    CommandError
    """
    try:
        yield _object(given) if given.startswith(S3) else FileSource(given)
    except OSError as error:
        raise CommandError(
            f"{option}: {given} cannot be read: {error.strerror}{_hint()}"
        ) from error
    except ObjectMissing as error:
        raise CommandError(f"{option}: {given} cannot be read: {error}") from error


def _object(given: str) -> ByteSource:
    bucket, _, key = given.removeprefix(S3).partition("/")
    if not bucket or not key:
        raise CommandError(f"{given} names no object: that would be {S3}BUCKET/KEY")
    if bucket != settings.BUCKET:
        own = f"is {settings.BUCKET}" if settings.BUCKET else "is a directory, STORAGE_ROOT"
        raise CommandError(f"{given} is in another bucket: the federation's {own}")
    objects = DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects
    seen = objects.stat(key)
    return objects.source(key, size=seen.size, etag=seen.etag)


def _hint() -> str:
    if not settings.FUNCTION_MEMORY_MB:
        return ""
    return f"; the function reads what is named {S3}{settings.BUCKET}/artifacts/..."
