"""Files that commands read and write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError

from aggregation.errors import ObjectMissing
from aggregation.sources import ByteSource, FileSource, read
from connectors import application

S3 = "s3://"

#: What an option that takes an input accepts, for its help.
FILE_OR_OBJECT = "a file, or s3://BUCKET/KEY in the federation's bucket"


@contextmanager
def open_input(name: str, option: str) -> Iterator[ByteSource]:
    """Open a file, or an object of the federation's bucket, that was given for an option.

    Raises
    ------
    CommandError
        If it cannot be read; the message names the option.
    """
    try:
        yield _object_source(name) if name.startswith(S3) else FileSource(name)
    except OSError as error:
        raise CommandError(
            f"{option}: {name} cannot be read: {error.strerror}{_hint_in_function()}"
        ) from error
    except ObjectMissing as error:
        raise CommandError(f"{option}: {name} cannot be read: {error}") from error


def read_input(name: str, option: str) -> bytes:
    """Return the content of a small file or object, as `open_input` finds it."""
    with open_input(name, option) as source:
        return read(source, 0, source.size)


def _object_source(name: str) -> ByteSource:
    bucket, _, key = name.removeprefix(S3).partition("/")
    if not bucket or not key:
        raise CommandError(f"{name} does not name an object: expected {S3}BUCKET/KEY")
    if bucket != settings.BUCKET:
        own = f"is {settings.BUCKET}" if settings.BUCKET else "is a directory, STORAGE_ROOT"
        raise CommandError(f"{name} is in another bucket: the federation's {own}")
    objects = application.objects()
    stored = objects.stat(key)
    return objects.source(key, size=stored.size, etag=stored.etag)


def _hint_in_function() -> str:
    if not settings.FUNCTION_MEMORY_MB:
        return ""
    return f"; the function reads objects only: {S3}{settings.BUCKET}/artifacts/..."


def check_output(out: Path, *, force: bool) -> None:
    """Check that a file may be written: it is new, or ``force`` is given, and its directory exists.

    Raises
    ------
    CommandError
    """
    if settings.FUNCTION_MEMORY_MB:
        raise CommandError(
            "a file in the function cannot be reached: use `download --link`, "
            "`export_metrics --out -`, or `report --html` without --out"
        )
    if out.is_dir():
        raise CommandError(f"{out} is a directory: name a file in it")
    if not out.parent.is_dir():
        raise CommandError(f"{out} cannot be written: there is no directory {out.parent}")
    if out.exists() and not force:
        raise CommandError(f"{out} exists: choose another name, or replace it with --force")


@contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """Give the path of a temporary file that becomes ``out`` once it is complete.

    Raises
    ------
    CommandError
        If it cannot be written.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(out)
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
