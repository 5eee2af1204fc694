"""``manage.py invite MODEL``: create tokens by which clients enroll through the API."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from connectors.management.arguments import add_model_argument, age, count_up_to
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.usecases.administration.clients import MAX_NEW_CLIENTS, invite


class Command(ReportCommand):
    """Creates invitations."""

    help = (
        "Create members of a model that enroll themselves, each with a one-time token. The tokens are "
        "shown now and never again. Example: manage.py invite digits --count 10 --expires 7d"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        parser.add_argument(
            "--count",
            type=count_up_to(MAX_NEW_CLIENTS),
            default=1,
            metavar="N",
            help="tokens (default: %(default)s)",
        )
        parser.add_argument(
            "--expires",
            type=age,
            default=timedelta(days=7),
            metavar="AGE",
            help="how long a token may be used, such as 7d or 36h (default: 7d)",
        )

    def run(
        self, *args: Any, model: str, count: int, expires: timedelta, as_json: bool, **options: Any
    ) -> None:
        rows = [
            {
                "client": str(invitation.client_id),
                "token": invitation.token,
                "expires": invitation.expires_on.isoformat(timespec="minutes"),
            }
            for invitation in invite(find_model(model), count, expires)
        ]
        self.print_rows(rows, as_json=as_json, empty="")
