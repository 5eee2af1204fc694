"""``manage.py export_metrics MODEL``: rounds, updates or scores, for other tools to plot."""

from __future__ import annotations

import io
from argparse import ArgumentParser
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, cast

from django.core.management.base import CommandError

from connectors.management.arguments import add_model_argument, add_out_arguments
from connectors.management.files import check_output, whole_file
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.export import write_csv, write_parquet
from connectors.usecases.administration.listings import EXPORTS

SUFFIXES = (".csv", ".parquet")

#: The name of a file that stands for standard output.
STANDARD_OUTPUT = Path("-")


class Command(ReportCommand):
    """Exports what is known of a model's training."""

    help = (
        "Export a model's rounds, updates or scores as CSV, or as Parquet if pyarrow is installed; "
        "--out - prints the CSV. "
        "Example: manage.py export_metrics digits --of rounds --out rounds.csv"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        parser.add_argument(
            "--of", choices=sorted(EXPORTS), default="rounds", help="default: %(default)s"
        )
        add_out_arguments(parser)

    def run(
        self, *args: Any, model: str, of: str, out: Path, force: bool, as_json: bool, **options: Any
    ) -> None:
        if out != STANDARD_OUTPUT:
            if out.suffix not in SUFFIXES:
                raise CommandError(f"{out} must end with one of {', '.join(SUFFIXES)}")
            check_output(out, force=force)
        rows = EXPORTS[of](find_model(model))
        first = next(rows, None)
        if first is None:
            raise CommandError(f"model {model} has no {of} yet: there is nothing to export")
        rows = chain([first], rows)
        if out == STANDARD_OUTPUT:
            write_csv(first, rows, cast(TextIO, _Unended(self.stdout)))
            return
        with whole_file(out) as partial:
            if out.suffix == ".csv":
                with partial.open("w", encoding="utf-8", newline="") as file:
                    count = write_csv(first, rows, file)
            else:
                count = write_parquet(first, rows, partial)
        row = {"of": of, "rows": count, "file": str(out)}
        self.print_result(row, f"{count} {of} in {out}", as_json=as_json)


class _Unended(io.TextIOBase):
    """Django's standard output, without the line end that it adds to each text."""

    def __init__(self, output: Any) -> None:
        self._output = output

    def write(self, text: str) -> int:
        self._output.write(text, ending="")
        return len(text)
