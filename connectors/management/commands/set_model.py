"""``manage.py set_model MODEL``: change settings of a federated model."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from connectors.management.arguments import add_model_argument
from connectors.management.lookup import find_model
from connectors.management.model_options import (
    add_model_options,
    model_changes,
    validation_errors_by_option,
)
from connectors.management.reports import ReportCommand
from connectors.management.tables import to_json
from connectors.usecases.administration.models import change_model, model_warnings


class Command(ReportCommand):
    """Changes a federated model."""

    help = (
        "Change settings of a model: those that are given, and no others. A running round keeps the "
        "settings that it was claimed with. "
        "Example: manage.py set_model digits --rule trimmed_mean --rule-arg f=1 "
        "--max-num-examples 5000"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        parser.add_argument("--name", help="a new name")
        add_model_options(parser, changing=True)

    def run(self, *args: Any, model: str, name: str | None, as_json: bool, **options: Any) -> None:
        federated_model = find_model(model)
        changes = model_changes(options, federated_model)
        if name is not None:
            changes["name"] = name
        if not changes:
            raise CommandError("no setting is given: --help lists the settings")
        with validation_errors_by_option():
            change_model(federated_model, changes)
        self.write_pointer(federated_model.pk)
        for warning in model_warnings(federated_model, federated_model.clients.count()):
            self.stderr.write(warning)
        shown = {
            field: str(value) if field == "developer" else value for field, value in changes.items()
        }
        if as_json:
            self.stdout.write(to_json({"model": federated_model.pk, "changes": shown}))
            return
        self.stdout.write(f"model {federated_model.pk} is changed:")
        for field, value in shown.items():
            self.stdout.write(f"  {field} is now {value!r}")
