"""``manage.py rollback AGGREGATE``: an earlier aggregate becomes the next one."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from connectors import DjangoAggConnector
from connectors.management.reports import add_aggregate_argument, found, plain_message
from connectors.usecases.publish import roll_back
from connectors.workflow.aggregator import DEFAULT_SETTINGS
from models_app.models import ModelAggregate


class Command(BaseCommand):
    """Publishes the bytes of an earlier aggregate anew."""

    help = (
        "Go back to an earlier aggregate: its bytes become the model's next aggregate, so that the "
        "lineage stays a line. Example: manage.py rollback 14"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_aggregate_argument(parser)

    def handle(self, *args: Any, aggregate: int, **options: Any) -> None:
        with plain_message():
            earlier = found(ModelAggregate, aggregate, "federated_model")
            new = roll_back(DjangoAggConnector(DEFAULT_SETTINGS), earlier)
        self.stdout.write(
            f"aggregate {new.pk}, number {new.number}, is aggregate {aggregate} again"
        )
