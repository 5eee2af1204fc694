"""``manage.py pause MODEL``: let no round of a model start until it is resumed."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_model_argument
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.models import pause_model


class Command(ReportCommand):
    """Pauses a federated model; updates that are uploaded meanwhile wait."""

    help = (
        "Pause a model: no round starts, and updates wait. "
        'Example: manage.py pause digits --reason "data protection review"'
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        parser.add_argument(
            "--reason", default="paused by an operator", help="default: %(default)s"
        )

    def run(self, *args: Any, model: str, reason: str, as_json: bool, **options: Any) -> None:
        federated_model = find_model(model)
        pause_model(federated_model, reason)
        row = {"model": federated_model.pk, "paused": True, "reason": reason}
        sentence = f"model {federated_model.pk} is paused: {reason}"
        self.print_result(row, sentence, as_json=as_json)
