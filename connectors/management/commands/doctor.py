"""``manage.py doctor``: find out what is wrong, and how to fix it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from connectors.management.reports import ReportCommand
from connectors.management.tables import cell, to_json
from connectors.usecases.health import Finding, Status, diagnose


class Command(ReportCommand):
    """Checks the database, storage and queues with the same settings as the function."""

    help = (
        "Check what the federation depends on: database, migrations, models, storage and permissions, "
        "clock, notifications, queue, dead letters. Exits with 1 if a check fails. "
        "Example: manage.py doctor"
    )
    requires_system_checks = []
    requires_migrations_checks = False

    def run(self, *args: Any, as_json: bool, **options: Any) -> None:
        findings = []
        for finding in diagnose():
            findings.append(finding)
            if not as_json:
                self._print(finding)
        if as_json:
            self.stdout.write(to_json([asdict(each) for each in findings]))
        failed = sum(each.status is Status.FAILED for each in findings)
        if failed:
            raise CommandError(f"{failed} of {len(findings)} checks failed")

    def _print(self, finding: Finding) -> None:
        """Print a finding at once, because the next check may take a while."""
        self.stdout.write(f"{finding.status:<9}{finding.check:<14}{cell(finding.message)}")
        if finding.fix:
            self.stdout.write(f"{'':<23}fix: {finding.fix}")
        self.stdout.flush()
