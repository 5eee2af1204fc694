"""``manage.py rollback AGGREGATE``: make an earlier aggregate the latest again."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors import application
from connectors.management.arguments import add_aggregate_argument
from connectors.management.lookup import find_aggregate
from connectors.management.reports import ReportCommand
from connectors.usecases.rollback import roll_back


class Command(ReportCommand):
    """Publishes the bytes of an earlier aggregate as the next aggregate."""

    help = (
        "Roll back to an earlier aggregate: its bytes become the model's next aggregate, and nothing "
        "in the lineage is changed. Example: manage.py rollback 14"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_aggregate_argument(parser)

    def run(self, *args: Any, aggregate: int, as_json: bool, **options: Any) -> None:
        earlier = find_aggregate(aggregate, "federated_model")
        new = roll_back(application.objects(), earlier)
        self.print_result(
            {"aggregate": new.pk, "number": new.number, "rolled_back_to": aggregate},
            f"aggregate {new.pk}, number {new.number}, has the bytes of aggregate {aggregate}",
            as_json=as_json,
        )
