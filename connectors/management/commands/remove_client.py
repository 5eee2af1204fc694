"""``manage.py remove_client MODEL CLIENT``: a client is no longer a member."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connectors.management.membership import client_uuid
from connectors.management.reports import add_model_argument, found, plain_message
from models_app.models import FederatedModel


class Command(BaseCommand):
    """Ends a membership; what the client contributed stays in the lineage."""

    help = (
        "Remove a client from a model: its uploads are rejected from now on, those that wait are not "
        "used, and no round waits for it. Example: manage.py remove_client 3 "
        "11111111-1111-4111-8111-000000000001"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_model_argument(parser)
        parser.add_argument("client", type=client_uuid, help="its UUID")

    def handle(self, *args: Any, model: int, client: uuid.UUID, **options: Any) -> None:
        with plain_message():
            members = found(FederatedModel, model).clients
            if not members.filter(pk=client).exists():
                raise CommandError(f"{client} is no member of model {model}")
            members.through.objects.filter(federatedmodel=model, client=client).delete()
            left = members.count()
        verb = "is" if left == 1 else "are"
        self.stdout.write(f"{client} is no longer a member of model {model}; {left} {verb} left")
