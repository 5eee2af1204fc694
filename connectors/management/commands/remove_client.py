"""``manage.py remove_client MODEL CLIENT``: end a client's membership."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.arguments import add_client_argument, add_model_argument
from connectors.management.lookup import find_client, find_model
from connectors.management.reports import ReportCommand
from connectors.management.tables import plural
from connectors.usecases.administration.clients import remove_client


class Command(ReportCommand):
    """Removes a client from a model; what it contributed stays in the lineage."""

    help = (
        "Remove a client from a model: its uploads are rejected, its ready updates are not used, and "
        "no round waits for it. Example: manage.py remove_client digits hospital-north"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        add_client_argument(parser)

    def run(self, *args: Any, model: str, client: str, as_json: bool, **options: Any) -> None:
        federated_model, removed = find_model(model), find_client(client)
        left = remove_client(federated_model, removed)
        self.write_credentials()
        self.print_result(
            {"model": federated_model.pk, "client": str(removed.pk), "clients_left": left},
            f"client {removed} is no longer a member of model {federated_model.pk}, which has "
            f"{plural(left, 'client')} left",
            as_json=as_json,
        )
