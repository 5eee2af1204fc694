"""``manage.py issue_upload MODEL --client UUID``: sign posts for uploads without credentials."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from connectors.intake.scores import MAX_SCORE_BYTES
from connectors.management.membership import client_uuid
from connectors.management.reports import (
    ReportCommand,
    add_model_argument,
    as_text,
    found,
    plain_message,
)
from connectors.storage.keys import SCORES
from connectors.storage.presigning import MAX_MINUTES_IN_A_FUNCTION, Signer
from models_app.models import FederatedModel

#: A week: what S3 signs for at most.
MAX_MINUTES = 7 * 24 * 60

#: S3 takes no larger body by a post.
MAX_POST_BYTES = 5 << 30


class Command(ReportCommand):
    """Sign posts, each for a name of its own below the prefix of one client."""

    help = (
        "Sign posts by which a client uploads updates, and with --scores what it measured: limited to "
        "its prefix, in size and in time. Printed as JSON, to be handed to the client. "
        "Example: manage.py issue_upload 3 --client 11111111-1111-4111-8111-000000000001 --count 10 "
        "--minutes 1440 --scores"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_model_argument(parser)
        parser.add_argument("--client", type=client_uuid, required=True, metavar="UUID")
        parser.add_argument(
            "--count", type=int, default=1, help="posts for updates; default: %(default)s"
        )
        parser.add_argument(
            "--minutes", type=int, default=60, help="valid for; default: %(default)s"
        )
        parser.add_argument(
            "--max-bytes", type=int, help="default: the setting MAX_UPDATE_BYTES, 5 GiB at most"
        )
        parser.add_argument(
            "--scores", action="store_true", help="one more post, for any number of scores"
        )

    def handle(self, *args: Any, model: int, client: uuid.UUID, **options: Any) -> None:
        if not settings.BUCKET:
            raise CommandError("posts are signed for a bucket: set BUCKET instead of STORAGE_ROOT")
        most = min(settings.MAX_UPDATE_BYTES, MAX_POST_BYTES)
        limit = most if options["max_bytes"] is None else options["max_bytes"]
        if options["count"] or not options["scores"]:
            _check_range("--count", options["count"], 1000, also=", or 0 with --scores")
        _check_range("--minutes", options["minutes"], _most_minutes())
        _check_range("--max-bytes", limit, most)
        seconds = options["minutes"] * 60
        with plain_message():
            federated_model = found(FederatedModel, model)
            if not federated_model.clients.filter(pk=client, paused=False).exists():
                raise CommandError(
                    f"{client} is paused or no member of model {model}: manage.py add_clients adds it"
                )
            fields, place = _metadata_fields(federated_model), f"{model}/{client}"
            # A name that the client completes: with a fixed key, a post that is used again would replace
            # the update before.
            names = [f"{uuid.uuid4().hex}-${{filename}}" for _ in range(options["count"])]
            signer = Signer()
            posts = [
                signer.post(
                    f"updates/{place}/{name}", max_bytes=limit, seconds=seconds, fields=fields
                )
                for name in names
            ]
            if options["scores"]:
                key = f"{SCORES}{place}/${{filename}}"
                posts.append(
                    signer.post(key, max_bytes=MAX_SCORE_BYTES, seconds=seconds, fields={})
                )
        self.stdout.write(as_text(posts))


def _most_minutes() -> int:
    """How long a post may be good for: it ends with the credentials that sign it."""
    return MAX_MINUTES_IN_A_FUNCTION if settings.FUNCTION_MEMORY_MB else MAX_MINUTES


def _check_range(option: str, value: int, most: int, *, also: str = "") -> None:
    if not 1 <= value <= most:
        raise CommandError(f"{option} must be between 1 and {most}{also}; got {value}")


def _metadata_fields(model: FederatedModel) -> dict[str, str]:
    """Return what the form says of an update unless its sender changes it.

    S3 refuses a form without a field that its policy has a condition for. Sent unchanged, the form says
    that the update was trained from what is the latest aggregate now, counts one example, and is of the
    kind that the model takes. The client package replaces all three with what it knows.
    """
    latest = model.aggregates.order_by("-number").values_list("pk", flat=True).first()
    return {
        "x-amz-meta-num-examples": "1",
        "x-amz-meta-base-aggregate": str(latest) if latest else "",
        "x-amz-meta-update-kind": model.update_kind,
    }
