"""``manage.py publish AGGREGATE --version 1.2.0``: publish an aggregate under a version."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandParser

from connectors.management.arguments import add_aggregate_argument
from connectors.management.lookup import find_aggregate
from connectors.management.reports import ReportCommand
from connectors.usecases.publish import publish


class Command(ReportCommand):
    """Makes an aggregate a version, and the model's current artifact."""

    help = (
        "Publish an aggregate under a version; it becomes the model's current artifact. "
        "Example: manage.py publish 17 --version 1.2.0"
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django's own --version prints Django's version.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_aggregate_argument(parser)
        parser.add_argument(
            "--version", required=True, help="such as 1.2.0 or 2.0.0-rc.1; unique within the model"
        )

    def run(self, *args: Any, aggregate: int, version: str, as_json: bool, **options: Any) -> None:
        artifact = publish(find_aggregate(aggregate, "federated_model", "parent"), version)
        self.print_result(
            {
                "model": artifact.federated_model_id,
                "aggregate": aggregate,
                "version": version,
                "artifact": artifact.pk,
                "key": str(artifact.values.name),
            },
            f"aggregate {aggregate} is published as version {version} of "
            f"{artifact.federated_model}",
            as_json=as_json,
        )
