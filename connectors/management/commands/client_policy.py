"""``manage.py client_policy MODEL CLIENT``: print the IAM policy of one client."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from connectors import application
from connectors.management.arguments import add_client_argument, add_model_argument
from connectors.management.lookup import find_client, find_model
from connectors.management.reports import ReportCommand
from connectors.management.tables import to_json
from connectors.storage.s3 import S3Objects
from connectors.usecases.administration.client_policy import client_policy


class Command(ReportCommand):
    """Prints the policy of a client that has AWS credentials of its own."""

    help = (
        "Print the IAM policy with which a client takes part by AWS credentials of its own: it stores its "
        "updates and scores, and reads the weights and its own status. "
        "Example: manage.py client_policy digits hospital-north"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        add_client_argument(parser)

    def run(self, *args: Any, model: str, client: str, **options: Any) -> None:
        objects = application.objects()
        if not isinstance(objects, S3Objects):
            raise CommandError("a policy is for a bucket: set BUCKET instead of STORAGE_ROOT")
        policy = client_policy(
            find_model(model), find_client(client), objects.bucket, objects.client.meta.partition
        )
        self.stdout.write(to_json(policy))
