"""``manage.py rounds MODEL``: a model's rounds, the latest first."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_limit_argument, add_model_argument
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.listings import list_rounds


class Command(ReportCommand):
    """Lists the rounds of a model."""

    help = "List a model's rounds, the latest first. Example: manage.py rounds digits --limit 50"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        add_limit_argument(parser, 20)

    def run(self, *args: Any, model: str, limit: int, as_json: bool, **options: Any) -> None:
        rows = list_rounds(find_model(model), limit)
        empty = f"model {model} has had no round yet"
        self.print_rows(rows, as_json=as_json, empty=empty, limit=limit)
