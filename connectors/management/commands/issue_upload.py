"""``manage.py issue_upload MODEL --client CLIENT``: let a client upload without credentials."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from connectors.management.arguments import add_model_argument
from connectors.management.lookup import find_client, find_model
from connectors.management.reports import ReportCommand
from connectors.management.tables import to_json
from connectors.usecases.administration.upload_forms import (
    MAX_FORMS,
    max_minutes,
    max_upload_bytes,
    sign_forms,
)


class Command(ReportCommand):
    """Signs upload forms for a client."""

    help = (
        "Sign forms with which a client uploads updates, each under a name of its own, and with "
        "--scores its scores: limited to its own keys, in size and in time. They are printed as JSON "
        "for the client. Example: manage.py issue_upload digits --client hospital-north --count 10 "
        "--minutes 1440 --scores"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        parser.add_argument("--client", required=True, metavar="CLIENT", help="its name or id")
        parser.add_argument(
            "--count", type=int, default=1, help="forms for updates; default: %(default)s"
        )
        parser.add_argument(
            "--minutes", type=int, default=60, help="how long they are valid; default: %(default)s"
        )
        parser.add_argument(
            "--max-bytes",
            type=int,
            help="default: twice the size of the model's weights, at least 16 MiB; without weights the "
            "setting MAX_UPDATE_BYTES, at most 5 GiB",
        )
        parser.add_argument(
            "--scores", action="store_true", help="add a form for any number of scores"
        )

    def run(self, *args: Any, model: str, client: str, **options: Any) -> None:
        most = max_upload_bytes()
        limit = options["max_bytes"]
        if options["count"] or not options["scores"]:
            _check_range("--count", options["count"], MAX_FORMS, also=", or 0 with --scores")
        _check_range("--minutes", options["minutes"], max_minutes())
        if limit is not None:
            _check_range("--max-bytes", limit, most)
        forms = sign_forms(
            find_model(model),
            find_client(client),
            updates=options["count"],
            scores=options["scores"],
            minutes=options["minutes"],
            max_bytes=limit,
        )
        self.stdout.write(to_json(forms))


def _check_range(option: str, value: int, most: int, *, also: str = "") -> None:
    if not 1 <= value <= most:
        raise CommandError(f"{option} must be between 1 and {most}{also}; got {value}")
