"""``manage.py sweep``: what the scheduled sweep does, here and now."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from aggregation.round import run_round
from connectors import DjangoAggConnector
from connectors.aggregator import DEFAULT_SETTINGS
from connectors.housekeeping import OLD_ENOUGH, collect
from connectors.latest import tell_latest, untold_models
from connectors.queries import due_models


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
            type=float,
            metavar="MINUTES",
            default=OLD_ENOUGH / timedelta(minutes=1),
            help="leave younger leftovers alone (default: %(default)g)",
        )

    def handle(self, *args: Any, dry_run: bool, older_than: float, **options: Any) -> None:
        connector = DjangoAggConnector(DEFAULT_SETTINGS)
        now = timezone.now()
        for model_id in due_models(now):
            if dry_run:
                self.stdout.write(f"model {model_id}: a round is due")
                continue
            answer = run_round(connector, model_id)
            reason = f" ({answer.reason})" if answer.reason else ""
            self.stdout.write(f"model {model_id}: {answer.status}{reason}")
        age = timedelta(minutes=older_than)
        objects = connector.model_data.objects
        for model_id in untold_models():
            if not dry_run:
                tell_latest(objects, model_id)
            verb = "would tell" if dry_run else "told"
            self.stdout.write(f"model {model_id}: {verb} its latest weights in latest.json")
        for leftover in collect(objects, now, older_than=age, dry_run=dry_run):
            verb = "would remove" if dry_run else "removed"
            self.stdout.write(f"{verb} {leftover.kind} {leftover.key}")
