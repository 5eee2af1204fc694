"""``manage.py tensors MODEL``: the tensors of a model with their policies."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors import application
from connectors.management.arguments import add_model_argument
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.tensors import stored_tensor_rows


class Command(ReportCommand):
    """Lists a model's tensors."""

    help = (
        "List the tensors of a model's latest weights, with the policies that the next round has for "
        "them. Example: manage.py tensors digits"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)

    def run(self, *args: Any, model: str, as_json: bool, **options: Any) -> None:
        rows = stored_tensor_rows(application.objects(), find_model(model))
        self.print_rows(rows, as_json=as_json, empty="the model has no weights yet")
