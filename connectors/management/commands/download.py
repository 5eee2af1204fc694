"""``manage.py download AGGREGATE --out FILE``: save an aggregate's weights, or print a link to them."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from aggregation.formats import FORMATS
from connectors import application
from connectors.management.arguments import add_aggregate_argument, add_out_arguments
from connectors.management.files import check_output, whole_file
from connectors.management.lookup import find_aggregate
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.download import save_object, sign_link


class Command(ReportCommand):
    """Downloads an aggregate, or prints a link to it."""

    help = (
        "Save an aggregate to a file, or print a link to it that is valid for an hour and needs no "
        "credentials. Example: manage.py download 17 --out model.safetensors"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_aggregate_argument(parser)
        group = parser.add_mutually_exclusive_group(required=True)
        add_out_arguments(parser, group)
        group.add_argument("--link", action="store_true", help="print its location and a link")

    def run(
        self,
        *args: Any,
        aggregate: int,
        out: Path | None,
        force: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        if out is not None:
            check_output(out, force=force)
        key = str(find_aggregate(aggregate).result.name)
        objects = application.objects()
        row: dict[str, Any] = {"aggregate": aggregate, "key": key}
        if out is None:
            size, link = sign_link(objects, key)
            row |= {"bytes": size, "link": link}
            sentence = f"s3://{settings.BUCKET}/{key}, {size} bytes\n{link}"
        else:
            _check_suffix(out, key)
            with whole_file(out) as partial:
                size = save_object(objects, key, partial)
            row |= {"bytes": size, "file": str(out)}
            sentence = f"{size} bytes in {out}"
        self.print_result(row, sentence, as_json=as_json)


def _check_suffix(out: Path, key: str) -> None:
    """Refuse the suffix of another format, because readers choose the format by the suffix."""
    stored, given = Path(key).suffix, out.suffix.lower()
    if stored != given and given.removeprefix(".") in FORMATS:
        raise CommandError(
            f"{out} has the suffix of another format: name it {out.with_suffix(stored).name}"
        )
