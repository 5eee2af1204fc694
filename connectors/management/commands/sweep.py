"""``manage.py sweep``: do what the scheduled sweep does, in this process."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from aggregation.round import Status, run_round
from connectors import DjangoAggConnector
from connectors.limits import round_resources
from connectors.management.reports import ReportCommand
from connectors.management.tables import to_json
from connectors.publication.pointer import stale_pointers, write_pointer
from connectors.rounds.selectors import due_models
from connectors.storage.garbage import MIN_AGE, collect_garbage
from connectors.workflow.aggregator import DEFAULT_SETTINGS

#: Nothing in a bucket is older.
MAX_MINUTES = 100 * 366 * 24 * 60


class Command(ReportCommand):
    """Runs the rounds that are due, updates stale pointers and removes orphans."""

    help = (
        "Run the rounds that are due, take over those whose lease has expired, update each latest.json "
        "that is behind, and remove unfinished uploads and orphaned results. "
        "Example: manage.py sweep --dry-run"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
        parser.add_argument(
            "--older-than",
            type=_minutes,
            metavar="MINUTES",
            default=MIN_AGE / timedelta(minutes=1),
            help="keep younger orphans (default: %(default)g)",
        )

    def run(
        self, *args: Any, dry_run: bool, older_than: float, as_json: bool, **options: Any
    ) -> None:
        connector = DjangoAggConnector(DEFAULT_SETTINGS)
        objects = connector.model_data.objects
        now = timezone.now()
        self._done: list[dict[str, Any]] = []
        self._as_json = as_json
        failed = self._run_rounds(connector, due_models(now), dry_run=dry_run)
        for model_id in stale_pointers():
            if not dry_run:
                write_pointer(objects, model_id)
            verb = "would be updated" if dry_run else "updated"
            self._report(f"model {model_id}: latest.json {verb}", model=model_id, pointer=verb)
        age = timedelta(minutes=older_than)
        for orphan in collect_garbage(objects, now, older_than=age, dry_run=dry_run):
            verb = "would remove" if dry_run else "removed"
            self._report(f"{verb} {orphan.kind} {orphan.key}", removed=orphan.key)
        if as_json:
            self.stdout.write(to_json(self._done))
        elif not self._done and not failed:
            self.stdout.write("nothing is due")
        if failed:
            raise CommandError(
                f"{failed} rounds failed or were interrupted: `manage.py rounds MODEL` shows why"
            )

    def _report(self, sentence: str, **row: Any) -> None:
        """Print what was done at once; for JSON, keep it until the end."""
        self._done.append(row)
        if not self._as_json:
            self.stdout.write(sentence)

    def _run_rounds(
        self, connector: DjangoAggConnector, due: Iterable[int], *, dry_run: bool
    ) -> int:
        """Run the rounds that are due, and return how many failed. A failure does not stop the others."""
        failed = 0
        for model_id in due:
            if dry_run:
                self._report(f"model {model_id}: a round is due", model=model_id, round="due")
                continue
            try:
                answer = run_round(connector, model_id, resources=round_resources())
            except Exception as error:
                failed += 1
                self.stderr.write(f"model {model_id}: {type(error).__name__}: {error}")
                continue
            failed += answer.status is Status.FAILED
            reason = f" ({answer.reason})" if answer.reason else ""
            self._report(
                f"model {model_id}: {answer.status}{reason}",
                model=model_id,
                round=answer.status,
                reason=answer.reason,
            )
        return failed


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes <= MAX_MINUTES:
        raise ArgumentTypeError(f"expected minutes, 0 or more; got {text!r}")
    return minutes
