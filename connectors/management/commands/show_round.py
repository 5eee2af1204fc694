"""``manage.py show_round ROUND``: one round, its settings, its updates, and what its functions did."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_id_argument, add_limit_argument
from connectors.management.lookup import find_round
from connectors.management.reports import ReportCommand
from connectors.rounds.snapshot import without_seed
from connectors.usecases.administration.listings import list_round_updates, round_row
from models_app.privacy import privacy_after


class Command(ReportCommand):
    """Shows a round."""

    help = (
        "Show a round, the settings it was claimed with, its updates, and what each task did if several "
        "functions shared it, by the id that `manage.py rounds` lists. Example: manage.py show_round 12"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_id_argument(parser, "round", "manage.py rounds MODEL")
        add_limit_argument(parser, 100)

    def run(self, *args: Any, round: int, limit: int, as_json: bool, **options: Any) -> None:
        shown = find_round(round)
        updates = list_round_updates(shown, limit)
        row = round_row(shown) | {
            "config_snapshot": without_seed(shown.config_snapshot),
            "request": shown.request_id,
        }
        if privacy := privacy_after(shown):
            row["differential_privacy"] = privacy
        if as_json:
            shown_updates = {"updates": updates[:limit]}
            self.print_row(row | {"workers": shown.workers or None} | shown_updates, as_json=True)
            return
        tasks = shown.task_rows()
        functions = {"functions": shown.workers["functions"]} if tasks else {}
        self.print_row(row | functions, as_json=False)
        if tasks:
            self.stdout.write("")
            self.print_rows(tasks, as_json=False, empty="")
        self.stdout.write("")
        self.print_rows(updates, as_json=False, empty="it has no updates", limit=limit)
