"""``manage.py add_clients MODEL``: more members for a federated model."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction

from connectors.management.membership import add_client_arguments, clients_asked_for
from connectors.management.reports import ReportCommand, add_model_argument, found, plain_message
from models_app.models import FederatedModel


class Command(ReportCommand):
    """Makes clients members of a model."""

    help = "Add clients to a model. Example: manage.py add_clients 3 --clients 2"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        add_client_arguments(parser)

    def handle(
        self,
        *args: Any,
        model: int,
        clients: int,
        client: list[Any],
        as_json: bool,
        **options: Any,
    ) -> None:
        if not clients and not client:
            raise CommandError("say which: --clients N creates N, --client UUID adds that one")
        with plain_message():
            federated_model = found(FederatedModel, model)
            with transaction.atomic():
                added = clients_asked_for(clients, client)
                federated_model.clients.add(*added)
        rows = [{"client": str(each.pk)} for each in added]
        self.report(rows, as_json=as_json)
