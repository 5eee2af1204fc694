"""``manage.py doctor``: what is wrong, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from connectors.diagnosis import Verdict, diagnose
from connectors.management.reports import ReportCommand


class Command(ReportCommand):
    """Looks at the database, storage and queues the way the function does."""

    help = (
        "Look for what is wrong: database, migrations, storage and permissions, clock, notification, "
        "queue, dead letters. Fails if something is. Example: manage.py doctor"
    )
    requires_system_checks = []
    requires_migrations_checks = False

    def handle(self, *args: Any, as_json: bool, **options: Any) -> None:
        findings = diagnose()
        self.report([asdict(each) for each in findings], as_json=as_json)
        wrong = sum(each.verdict is Verdict.WRONG for each in findings)
        if wrong:
            raise CommandError(f"{wrong} of {len(findings)} checks found something wrong")
