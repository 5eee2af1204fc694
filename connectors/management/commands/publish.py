"""``manage.py publish AGGREGATE --version 1.2.0``: an aggregate becomes a version."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from connectors.management.reports import add_aggregate_argument, found, plain_message
from connectors.usecases.publish import publish
from models_app.models import ModelAggregate


class Command(BaseCommand):
    """Makes a version of an aggregate, and that the model's current artifact."""

    help = (
        "Publish an aggregate under a version; it becomes the model's current artifact. "
        "Example: manage.py publish 17 --version 1.2.0"
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django's own --version, which prints Django's, gives way to this command's.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_aggregate_argument(parser)
        parser.add_argument("--version", required=True, help="unique within the model")

    def handle(self, *args: Any, aggregate: int, version: str, **options: Any) -> None:
        with plain_message():
            artifact = publish(
                found(ModelAggregate, aggregate, "federated_model", "parent"), version
            )
        self.stdout.write(
            f"aggregate {aggregate} is version {version} of {artifact.federated_model}"
        )
