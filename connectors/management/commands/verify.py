"""``manage.py verify AGGREGATE``: recompute an aggregate and compare the bytes."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors import application
from connectors.management.arguments import add_aggregate_argument
from connectors.management.lookup import find_aggregate
from connectors.management.reports import ReportCommand
from connectors.usecases.verify import verify


class Command(ReportCommand):
    """Recomputes an aggregate and compares the bytes."""

    help = (
        "Recompute an aggregate from its updates, with the settings of its round, and compare the "
        "bytes. A private aggregate needs the key that its seed was encrypted with (PRIVACY_KEY). "
        "Example: manage.py verify 17"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_aggregate_argument(parser)

    def run(self, *args: Any, aggregate: int, as_json: bool, **options: Any) -> None:
        model_data = application.weights()
        finding = verify(
            model_data,
            find_aggregate(aggregate),
            application.round_resources(),
            application.private_rounds(),
        )
        self.print_result(
            {"aggregate": aggregate, "verified": True, "finding": finding},
            f"aggregate {aggregate} is verified: {finding}",
            as_json=as_json,
        )
