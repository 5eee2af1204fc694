"""``manage.py revoke_client CLIENT``: take from a client its secret or its invitation."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors import application
from connectors.management.arguments import add_client_argument
from connectors.management.lookup import find_client
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.clients import revoke


class Command(ReportCommand):
    """Revokes a client's secret."""

    help = (
        "Revoke the secret of a client that enrolled, or an invitation that was not used: the client is "
        "paused, and within a minute the API refuses it. Example: manage.py revoke_client hospital-north"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_client_argument(parser)

    def run(self, *args: Any, client: str, as_json: bool, **options: Any) -> None:
        found = find_client(client)
        had_one = revoke(application.objects(), found)
        row = {"client": str(found.pk), "name": found.name, "revoked": had_one}
        sentence = (
            f"client {found} is revoked and paused"
            if had_one
            else f"client {found} had no secret and no invitation"
        )
        self.print_result(row, sentence, as_json=as_json)
