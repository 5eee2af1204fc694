"""``manage.py sweep``: do what the scheduled sweep does, in this process."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError

from aggregation.round import RoundAnswer, Status
from connectors import application
from connectors.management.reports import ReportCommand
from connectors.management.tables import to_json
from connectors.storage.garbage import MIN_AGE
from connectors.storage.port import Orphan
from connectors.usecases.observer import Observer
from connectors.usecases.sweep import sweep

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
        report = Report(self, dry_run=dry_run, as_json=as_json)
        sweep(
            application.round_runner(report),
            report,
            dry_run=dry_run,
            older_than=timedelta(minutes=older_than),
        )
        if as_json:
            self.stdout.write(to_json(report.done))
        elif not report.done and not report.failed:
            self.stdout.write("nothing is due")
        if report.failed:
            raise CommandError(
                f"{report.failed} steps failed or were interrupted: `manage.py rounds MODEL` shows "
                "the rounds"
            )


class Report(Observer):
    """Prints what a sweep does, or would do, at once; for JSON, keeps it until the end."""

    def __init__(self, command: Command, *, dry_run: bool, as_json: bool) -> None:
        self._command = command
        self._dry_run = dry_run
        self._as_json = as_json
        self.done: list[dict[str, Any]] = []
        self.failed = 0

    def round_due(self, model_id: int) -> None:
        self._write(f"model {model_id}: a round is due", model=model_id, round="due")

    def round_ended(self, answer: RoundAnswer) -> None:
        self.failed += answer.status is Status.FAILED
        reason = f" ({answer.reason})" if answer.reason else ""
        self._write(
            f"model {answer.model_id}: {answer.status}{reason}",
            model=answer.model_id,
            round=answer.status,
            reason=answer.reason,
        )

    def request_failed(self, model_id: int, error: Exception) -> None:
        self._fail(f"model {model_id}", error)

    def step_delayed(self, step: str, error: Exception) -> None:
        self._fail(step, error)

    def pointer_written(self, model_id: int) -> None:
        verb = "would be updated" if self._dry_run else "updated"
        self._write(f"model {model_id}: latest.json {verb}", model=model_id, pointer=verb)

    def orphan_removed(self, orphan: Orphan) -> None:
        verb = "would remove" if self._dry_run else "removed"
        self._write(f"{verb} {orphan.kind} {orphan.key}", removed=orphan.key)

    def _write(self, sentence: str, **row: Any) -> None:
        self.done.append(row)
        if not self._as_json:
            self._command.stdout.write(sentence)

    def _fail(self, what: str, error: Exception) -> None:
        self.failed += 1
        self._command.stderr.write(f"{what}: {type(error).__name__}: {error}")


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes <= MAX_MINUTES:
        raise ArgumentTypeError(f"expected minutes, 0 or more; got {text!r}")
    return minutes
