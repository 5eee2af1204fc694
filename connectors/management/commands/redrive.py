"""``manage.py redrive``: retry dead-lettered messages and failed updates."""

from __future__ import annotations

from typing import Any

from connectors import application
from connectors.management.reports import ReportCommand
from connectors.management.tables import plural
from connectors.usecases.administration.redrive import redrive


class Command(ReportCommand):
    """Moves dead-lettered messages back to the queue, and requests rounds of failed updates."""

    help = (
        "Move dead-lettered messages back to the queue, and request a round of every model that has "
        "FAILED updates. Example: manage.py redrive"
    )

    def run(self, *args: Any, as_json: bool, **options: Any) -> None:
        moved, model_ids = redrive(application.round_queue())
        self.print_result(
            {"messages_moved": moved, "rounds_requested": model_ids},
            f"{plural(moved, 'dead-lettered message')} moved back to the queue\n"
            f"rounds requested of {plural(len(model_ids), 'model')} with failed updates",
            as_json=as_json,
        )
