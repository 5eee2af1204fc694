"""``manage.py doctor``: what is wrong, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from connectors.management.reports import ReportCommand, as_text, shown
from connectors.usecases.health import Finding, Verdict, diagnose


class Command(ReportCommand):
    """Looks at the database, storage and queues the way the function does."""

    help = (
        "Look for what is wrong: database, migrations, storage and permissions, clock, notification, "
        "queue, dead letters. Fails if something is. Example: manage.py doctor"
    )
    requires_system_checks = []
    requires_migrations_checks = False

    def handle(self, *args: Any, as_json: bool, **options: Any) -> None:
        findings = []
        for each in diagnose():
            findings.append(each)
            if not as_json:
                self._tell(each)
        if as_json:
            self.stdout.write(as_text([asdict(each) for each in findings]))
        wrong = sum(each.verdict is Verdict.WRONG for each in findings)
        if wrong:
            raise CommandError(f"{wrong} of {len(findings)} checks found something wrong")

    def _tell(self, finding: Finding) -> None:
        """At once, since the next check may take a while."""
        self.stdout.write(f"{finding.verdict:<9}{finding.check:<14}{shown(finding.what)}")
        if finding.mend:
            self.stdout.write(f"{'':<23}mend: {finding.mend}")
        self.stdout.flush()
