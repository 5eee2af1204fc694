"""``manage.py add_clients MODEL``: make clients members of a federated model."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from connectors.management.arguments import add_model_argument, add_new_client_arguments
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.clients import add_clients, client_rows


class Command(ReportCommand):
    """Makes clients members of a model."""

    help = (
        "Add clients to a model: new ones, and existing ones by name or id. "
        "Example: manage.py add_clients digits --clients 2 --client hospital-north"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        add_new_client_arguments(parser)

    def run(
        self, *args: Any, model: str, clients: int, client: list[str], as_json: bool, **options: Any
    ) -> None:
        if not clients and not client:
            raise CommandError(
                "no client is given: --clients N creates N, --client NAME adds that one"
            )
        added = add_clients(find_model(model), clients, client)
        self.write_credentials()
        self.print_rows(client_rows(added), as_json=as_json, empty="")
