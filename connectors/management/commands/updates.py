"""``manage.py updates MODEL``: the updates that clients sent, and their status."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_limit_argument, add_model_argument
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.listings import list_updates
from models_app.models import ModelUpdate


class Command(ReportCommand):
    """Lists the updates of a model, with the reasons of those that were rejected."""

    help = (
        "List a model's updates, the latest first. "
        "Example: manage.py updates digits --status invalid"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        statuses = [name.lower() for name in ModelUpdate.Status.names]
        parser.add_argument("--status", choices=statuses, help="only those with this status")
        add_limit_argument(parser, 50)

    def run(
        self,
        *args: Any,
        model: str,
        status: str | None,
        limit: int,
        as_json: bool,
        **options: Any,
    ) -> None:
        rows = list_updates(find_model(model), status, limit)
        empty = f"model {model} has no {f'{status} ' if status else ''}update"
        self.print_rows(rows, as_json=as_json, empty=empty, limit=limit)
