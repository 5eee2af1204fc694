"""``manage.py resume MODEL``: let rounds of a paused model start again."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_model_argument
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.models import resume_model


class Command(ReportCommand):
    """Resumes a federated model, whether an operator or failed rounds paused it."""

    help = "Resume a paused model. Example: manage.py resume digits"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)

    def run(self, *args: Any, model: str, as_json: bool, **options: Any) -> None:
        before = find_model(model)
        resume_model(before)
        was = (
            "it was not paused"
            if before.allow_aggregation
            else f"it was paused: {before.pause_reason or 'no reason is known'}"
        )
        self.print_result(
            {"model": before.pk, "paused": False, "was_paused": not before.allow_aggregation},
            f"model {before.pk} is active; {was}",
            as_json=as_json,
        )
