"""``manage.py download AGGREGATE --out FILE``: an aggregate's weights as a file, or a link to them."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from aggregation.formats import FORMATS
from connectors import DjangoAggConnector
from connectors.management.reports import (
    add_aggregate_argument,
    add_out_arguments,
    check_out,
    found,
    plain_message,
)
from connectors.storage.port import Objects
from connectors.storage.presigning import MAX_MINUTES_IN_A_FUNCTION, Signer
from connectors.workflow.aggregator import DEFAULT_SETTINGS
from models_app.models import ModelAggregate

#: Bytes in memory at once.
STEP = 8 << 20


class Command(BaseCommand):
    """Downloads an aggregate, or tells where it can be downloaded."""

    help = (
        "Save an aggregate to a file, or print a link to it that is good for an hour, for who has no "
        "credentials. Example: manage.py download 17 --out model.safetensors"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_aggregate_argument(parser)
        either = parser.add_mutually_exclusive_group(required=True)
        add_out_arguments(parser, either)
        either.add_argument("--link", action="store_true", help="print its place, and a link to it")

    def handle(
        self, *args: Any, aggregate: int, out: Path | None, force: bool, **options: Any
    ) -> None:
        if out is not None:
            check_out(out, force=force)
        with plain_message():
            key = str(found(ModelAggregate, aggregate).result.name)
            if out is not None:
                _check_suffix(out, key)
            objects = DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects
            self.stdout.write(_linked(objects, key) if out is None else _saved(objects, key, out))


def _check_suffix(out: Path, key: str) -> None:
    """Refuse the suffix of another format: by it, readers go."""
    held, named = Path(key).suffix, out.suffix.lower()
    if held != named and named.removeprefix(".") in FORMATS:
        raise CommandError(
            f"{out} would hold what its suffix does not say: name it {out.with_suffix(held).name}"
        )


def _linked(objects: Objects, key: str) -> str:
    if not settings.BUCKET:
        raise CommandError(
            "links are signed for a bucket: use --out, or BUCKET and no STORAGE_ROOT"
        )
    size = objects.stat(key).size
    link = Signer().link(key, seconds=60 * MAX_MINUTES_IN_A_FUNCTION)
    return f"s3://{settings.BUCKET}/{key}, {size} bytes\n{link}"


def _saved(objects: Objects, key: str, out: Path) -> str:
    try:
        return f"{_save(objects, key, out)} bytes in {out}"
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}") from error


def _save(objects: Objects, key: str, out: Path) -> int:
    """Save an object under a name that shows once it is whole."""
    stored = objects.stat(key)
    source = objects.source(key, size=stored.size, etag=stored.etag)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            for start in range(0, stored.size, STEP):
                piece = bytearray(min(STEP, stored.size - start))
                source.read_into(start, memoryview(piece))
                file.write(piece)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return stored.size
