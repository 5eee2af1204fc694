"""``manage.py verify AGGREGATE``: is an aggregate what its updates make?"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from connectors import DjangoAggConnector
from connectors.limits import round_resources
from connectors.management.reports import add_aggregate_argument, found, plain_message
from connectors.usecases.verify import verify
from connectors.workflow.aggregator import DEFAULT_SETTINGS
from models_app.models import ModelAggregate


class Command(BaseCommand):
    """Recomputes an aggregate and compares the bytes."""

    help = (
        "Recompute an aggregate from its updates, under the terms of its round, and compare the bytes. "
        "Example: manage.py verify 17"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_aggregate_argument(parser)

    def handle(self, *args: Any, aggregate: int, **options: Any) -> None:
        with plain_message():
            model_data = DjangoAggConnector(DEFAULT_SETTINGS).model_data
            what = verify(model_data, found(ModelAggregate, aggregate), round_resources())
        self.stdout.write(f"aggregate {aggregate} is verified: {what}")
