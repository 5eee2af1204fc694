"""``manage.py show_round ROUND``: one round, its terms and its updates."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.commands import rounds, updates
from connectors.management.reports import (
    ReportCommand,
    add_row_argument,
    found,
    plain_message,
)
from models_app.models import AggregationRound


class Command(ReportCommand):
    """Shows a round."""

    help = (
        "Show a round, the terms it was claimed under and its updates, by the id that "
        "`manage.py rounds` lists. Example: manage.py show_round 12"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_row_argument(parser, "round", "manage.py rounds MODEL")

    def handle(self, *args: Any, round: int, as_json: bool, **options: Any) -> None:
        with plain_message():
            held = found(AggregationRound, round)
            members = [updates.row_of(each) for each in held.updates.order_by("client_id", "pk")]
        row = rounds.row_of(held) | {
            "config_snapshot": held.config_snapshot,
            "request": held.request_id,
        }
        if as_json:
            self.report_one(row | {"updates": members}, as_json=True)
            return
        self.report_one(row, as_json=False)
        self.stdout.write("")
        self.report(members, as_json=False, empty="it holds no update")
