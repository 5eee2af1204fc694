"""``manage.py clients [MODEL]``: the clients of a model, or all."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_limit_argument
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.listings import list_clients


class Command(ReportCommand):
    """Lists clients."""

    help = (
        "List the clients of a model, or all, with the latest update of each. "
        "Example: manage.py clients digits --limit 100"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("model", nargs="?", help="its name or id; without it, all clients")
        add_limit_argument(parser, 50)

    def run(self, *args: Any, model: str | None, limit: int, as_json: bool, **options: Any) -> None:
        rows = list_clients(find_model(model) if model else None, limit)
        empty = "no client yet: manage.py add_clients MODEL adds some"
        self.print_rows(rows, as_json=as_json, empty=empty, limit=limit)
