"""``manage.py pause_client CLIENT``: reject a client's uploads until it is resumed."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_client_argument
from connectors.management.lookup import find_client
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.clients import set_paused


class Command(ReportCommand):
    """Pauses a client."""

    help = (
        "Pause a client in all its models: its uploads are rejected, its ready updates are not used, and "
        "no round waits for it. Example: manage.py pause_client hospital-north"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_client_argument(parser)

    def run(self, *args: Any, client: str, as_json: bool, **options: Any) -> None:
        found = find_client(client)
        changed = set_paused(found, paused=True)
        self.write_credentials()
        row = {"client": str(found.pk), "name": found.name, "paused": True}
        already = "" if changed else ", as it was before"
        self.print_result(row, f"client {found} is paused{already}", as_json=as_json)
