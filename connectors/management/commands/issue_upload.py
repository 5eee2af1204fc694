"""``manage.py issue_upload MODEL --client UUID``: leave to upload, without credentials."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.files.storage import default_storage
from django.core.management.base import CommandError

from connectors.management.membership import client_uuid
from connectors.management.reports import ReportCommand, as_text, found, told_plainly
from connectors.scores import MAX_SCORE_BYTES
from connectors.scores import PREFIX as SCORES
from models_app.models import FederatedModel

#: A week: what S3 signs for at most.
MAX_MINUTES = 7 * 24 * 60
FORMATS = ("safetensors", "npz", "json")

#: S3 takes no larger body by a post.
MAX_POST_BYTES = 5 << 30

#: What an update says of itself, with what it means to say nothing. A field that the policy has a condition
#: for must be in the form, or S3 refuses it: so each is there from the start, for the client to fill in.
SAID_OF_UPDATES = {"x-amz-meta-num-examples": "1", "x-amz-meta-base-aggregate": ""}


class Command(ReportCommand):
    """Signs posts, each for one object of one client."""

    help = (
        "Sign posts by which a client uploads one update each: bound to its prefix, in size and in "
        "time. Printed as JSON, to be handed to the client. Example: manage.py issue_upload 3 --client "
        "11111111-1111-4111-8111-000000000001 --count 10 --minutes 1440"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", type=int, help="id of the federated model")
        parser.add_argument("--client", type=client_uuid, required=True, metavar="UUID")
        parser.add_argument("--count", type=int, default=1, help="default: %(default)s")
        parser.add_argument(
            "--minutes", type=int, default=60, help="valid for; default: %(default)s"
        )
        parser.add_argument(
            "--max-bytes", type=int, help="default: the setting MAX_UPDATE_BYTES, 5 GiB at most"
        )
        parser.add_argument(
            "--scores", action="store_true", help="one more post, for any number of scores"
        )
        parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])

    def handle(self, *args: Any, model: int, client: uuid.UUID, **options: Any) -> None:
        if not settings.BUCKET:
            raise CommandError("posts are signed for a bucket: set BUCKET instead of STORAGE_ROOT")
        _check_range("--count", options["count"], 1000)
        _check_range("--minutes", options["minutes"], MAX_MINUTES)
        limit = options["max_bytes"]
        most = min(settings.MAX_UPDATE_BYTES, MAX_POST_BYTES)
        limit = most if limit is None else limit
        _check_range("--max-bytes", limit, most)
        seconds = options["minutes"] * 60
        with told_plainly():
            if not found(FederatedModel, model).clients.filter(pk=client, paused=False).exists():
                raise CommandError(
                    f"{client} is paused or no member of model {model}: manage.py add_clients adds it"
                )
            posts = [
                _post(
                    f"updates/{model}/{client}/{uuid.uuid4().hex}.{options['format']}",
                    limit,
                    seconds,
                    SAID_OF_UPDATES,
                )
                for _ in range(options["count"])
            ]
            if options["scores"]:
                key = f"{SCORES}{model}/{client}/${{filename}}"
                posts.append(_post(key, MAX_SCORE_BYTES, seconds, {}))
        self.stdout.write(as_text(posts))


def _check_range(option: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise CommandError(f"{option} must be between 1 and {most}; got {value}")


def _post(key: str, max_bytes: int, seconds: int, said: Mapping[str, str]) -> Mapping[str, Any]:
    """One post. The fields in ``said`` the client may fill in; the key it may not change."""
    storage: Any = default_storage
    signed: Mapping[str, Any] = storage.connection.meta.client.generate_presigned_post(
        storage.bucket_name,
        key,
        Fields=dict(said),
        Conditions=[
            ["content-length-range", 1, max_bytes],
            *(["starts-with", f"${name}", ""] for name in said),
        ],
        ExpiresIn=seconds,
    )
    return signed
