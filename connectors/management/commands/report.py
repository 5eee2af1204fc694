"""``manage.py report MODEL``: the overview of a model, as text, as JSON or as one HTML file."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from connectors.management.arguments import add_model_argument
from connectors.management.files import check_output, whole_file
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.management.tables import to_json
from models_app.models import FederatedModel
from models_app.overview import ModelOverview, model_overview


class Command(ReportCommand):
    """Reports the state of a model."""

    help = (
        "Show the overview of a model: figures, alerts and, with --html, plots and tables in one file that "
        "loads nothing. Without --out, the file is printed. "
        "Example: manage.py report digits --html --out digits.html"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        parser.add_argument("--html", action="store_true", help="as an HTML document")
        parser.add_argument(
            "--out", "--output", type=Path, metavar="FILE", help="the file to write, with --html"
        )
        parser.add_argument("--force", action="store_true", help="replace an existing file")

    def run(
        self,
        *args: Any,
        model: str,
        html: bool,
        out: Path | None,
        force: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        if out is not None:
            if not html:
                raise CommandError("--out is for the HTML document: add --html")
            check_output(out, force=force)
        found = find_model(model)
        if html:
            self._print_html(found, out, as_json=as_json)
        else:
            self._print_figures(model_overview(found), as_json=as_json)

    def _print_html(self, model: FederatedModel, out: Path | None, *, as_json: bool) -> None:
        from models_app.report import html_report  # Only this command draws plots.

        document = html_report(model, timezone.now())
        if out is None:
            self.stdout.write(document, ending="")
            return
        with whole_file(out) as partial:
            partial.write_text(document, encoding="utf-8")
        row = {"model": model.pk, "file": str(out), "bytes": len(document.encode())}
        self.print_result(row, f"{row['bytes']} bytes in {out}", as_json=as_json)

    def _print_figures(self, overview: ModelOverview, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(to_json(asdict(overview)))
            return
        figures = {
            tile.label: f"{tile.value}{': ' if tile.note else ''}{tile.note}"
            for tile in overview.tiles
        }
        self.print_row(figures, as_json=False)
        for alert in overview.card.alerts:
            self.stdout.write(alert.text)
