"""``manage.py resume_client CLIENT``: accept a client's uploads again."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_client_argument
from connectors.management.lookup import find_client
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.clients import set_paused


class Command(ReportCommand):
    """Resumes a client."""

    help = (
        "Resume a paused client in all its models. Example: manage.py resume_client hospital-north"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_client_argument(parser)

    def run(self, *args: Any, client: str, as_json: bool, **options: Any) -> None:
        found = find_client(client)
        changed = set_paused(found, paused=False)
        self.write_credentials()
        row = {"client": str(found.pk), "name": found.name, "paused": False}
        already = "" if changed else ", as it was before"
        self.print_result(row, f"client {found} is not paused{already}", as_json=as_json)
