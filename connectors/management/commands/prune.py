"""``manage.py prune --older-than 180d``: delete old records safely."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from connectors.management.arguments import age
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.prune import prune


class Command(ReportCommand):
    """Deletes old records of updates, scores and rounds that made no aggregate."""

    help = (
        "Delete records of settled updates, of scores, and of rounds that made no aggregate. No update "
        "is ever counted twice: uploads that are older than a deleted record are refused. Aggregates "
        "are kept, but those whose updates are deleted can no longer be verified. "
        "Example: manage.py prune --older-than 180d --dry-run"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--older-than",
            type=age,
            required=True,
            metavar="AGE",
            help="such as 180d; at least 30d",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only print what would be deleted"
        )

    def run(
        self, *args: Any, older_than: timedelta, dry_run: bool, as_json: bool, **options: Any
    ) -> None:
        rows = [asdict(each) for each in prune(older_than, dry_run=dry_run)]
        self.print_rows(rows, as_json=as_json, empty="nothing is that old")
        if dry_run and rows and not as_json:
            self.stdout.write("nothing was deleted: --dry-run was given")
