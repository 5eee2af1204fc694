"""``manage.py models``: the federated models and their state."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_limit_argument
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.listings import list_models, model_document, model_rows


class Command(ReportCommand):
    """Lists the federated models."""

    help = (
        "List the federated models as the home page of the console does: state, updates that are "
        "ready, score, the last round and alerts. Example: manage.py models --json"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_limit_argument(parser, 100)

    def run(self, *args: Any, limit: int, as_json: bool, **options: Any) -> None:
        empty = "no model yet: manage.py create_model creates one"
        cards = list_models(limit)
        rows = [model_document(card) for card in cards] if as_json else model_rows(cards)
        self.print_rows(rows, as_json=as_json, empty=empty, limit=limit)
