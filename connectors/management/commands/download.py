"""``manage.py download AGGREGATE --out FILE``: an aggregate's weights as a file."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connectors import DjangoAggConnector
from connectors.aggregator import DEFAULT_SETTINGS
from connectors.management.reports import (
    add_aggregate_argument,
    add_out_arguments,
    check_out,
    found,
    told_plainly,
)
from connectors.storage import Objects
from models_app.models import ModelAggregate

#: Bytes in memory at once.
STEP = 8 << 20


class Command(BaseCommand):
    """Downloads an aggregate."""

    help = "Save an aggregate to a file. Example: manage.py download 17 --out model.safetensors"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_aggregate_argument(parser)
        add_out_arguments(parser)

    def handle(self, *args: Any, aggregate: int, out: Path, force: bool, **options: Any) -> None:
        check_out(out, force=force)
        with told_plainly():
            key = str(found(ModelAggregate, aggregate).result.name)
            try:
                size = _save(DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects, key, out)
            except OSError as error:
                raise CommandError(f"{out} cannot be written: {error.strerror}") from error
        self.stdout.write(f"{size} bytes in {out}")


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
