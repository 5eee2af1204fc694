"""``manage.py rename_client CLIENT NAME``: give a client a name."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_client_argument
from connectors.management.lookup import find_client
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.clients import rename_client


class Command(ReportCommand):
    """Renames a client."""

    help = (
        "Give a client a name, or another one; its id stays. Example: manage.py rename_client "
        "11111111-1111-4111-8111-000000000001 hospital-north"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_client_argument(parser)
        parser.add_argument("name", help="unique among all clients; '' removes the name")

    def run(self, *args: Any, client: str, name: str, as_json: bool, **options: Any) -> None:
        found = find_client(client)
        rename_client(found, name)
        row = {"client": str(found.pk), "name": name}
        self.print_result(row, f"client {found.pk} is named {name!r}", as_json=as_json)
