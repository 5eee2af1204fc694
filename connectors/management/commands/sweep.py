"""``manage.py sweep``: what the scheduled sweep does, here and now."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from aggregation.round import Status, run_round
from connectors import DjangoAggConnector
from connectors.limits import round_resources
from connectors.management.reports import plain_message
from connectors.publication.pointer import stale_pointers, write_pointer
from connectors.rounds.selectors import due_models
from connectors.storage.garbage import MIN_AGE, collect_garbage
from connectors.workflow.aggregator import DEFAULT_SETTINGS

#: Nothing in a bucket is older.
MAX_MINUTES = 100 * 366 * 24 * 60


class Command(BaseCommand):
    """Runs the rounds that are due and collects what dead rounds left behind."""

    help = (
        "Run the rounds that are due, take over those whose lease has expired, and remove unfinished "
        "uploads and orphaned results. Example: manage.py sweep --dry-run"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
        parser.add_argument(
            "--older-than",
            type=_minutes,
            metavar="MINUTES",
            default=MIN_AGE / timedelta(minutes=1),
            help="leave younger leftovers alone (default: %(default)g)",
        )

    def handle(self, *args: Any, dry_run: bool, older_than: float, **options: Any) -> None:
        connector = DjangoAggConnector(DEFAULT_SETTINGS)
        objects = connector.model_data.objects
        now = timezone.now()
        with plain_message():
            due = due_models(now)
            failed = self._run(connector, due, dry_run=dry_run)
            untold = stale_pointers()
            for model_id in untold:
                if not dry_run:
                    write_pointer(objects, model_id)
                verb = "would tell" if dry_run else "told"
                self.stdout.write(f"model {model_id}: {verb} its latest weights in latest.json")
            age = timedelta(minutes=older_than)
            orphans = 0
            for orphan in collect_garbage(objects, now, older_than=age, dry_run=dry_run):
                orphans += 1
                verb = "would remove" if dry_run else "removed"
                self.stdout.write(f"{verb} {orphan.kind} {orphan.key}")
            if not (due or untold or orphans):
                self.stdout.write("nothing is due")
        if failed:
            raise CommandError(
                f"{failed} rounds failed or were interrupted: `manage.py rounds MODEL` tells more"
            )

    def _run(self, connector: DjangoAggConnector, due: Iterable[int], *, dry_run: bool) -> int:
        """Run the rounds that are due; how many failed. One that fails holds up no other."""
        failed = 0
        for model_id in due:
            if dry_run:
                self.stdout.write(f"model {model_id}: a round is due")
                continue
            try:
                answer = run_round(connector, model_id, resources=round_resources())
            except Exception as error:
                failed += 1
                self.stderr.write(f"model {model_id}: {type(error).__name__}: {error}")
                continue
            failed += answer.status is Status.FAILED
            reason = f" ({answer.reason})" if answer.reason else ""
            self.stdout.write(f"model {model_id}: {answer.status}{reason}")
        return failed


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes <= MAX_MINUTES:
        raise ArgumentTypeError(f"expected minutes, from 0; got {text!r}")
    return minutes
