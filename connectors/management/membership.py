"""Clients named on the command line."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence

from django.core.management.base import CommandError

from models_app.models import Client

#: More than a federation that is created by hand has.
MAX_NEW_CLIENTS = 10_000


def client_uuid(text: str) -> uuid.UUID:
    """A client's id, as argparse takes it."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no UUID such as 11111111-1111-4111-8111-000000000001"
        ) from None


def add_client_arguments(parser: ArgumentParser) -> None:
    """``--clients N`` and ``--client UUID``."""
    parser.add_argument("--clients", type=int, default=0, metavar="N", help="create N new clients")
    parser.add_argument(
        "--client",
        type=client_uuid,
        action="append",
        default=[],
        metavar="UUID",
        help="an existing client, or a new one with this id; may be given again",
    )


def clients_asked_for(count: int, ids: Sequence[uuid.UUID]) -> list[Client]:
    """New clients, and those with these ids, which are created where they do not exist.

    Raises
    ------
    CommandError
    """
    if not 0 <= count <= MAX_NEW_CLIENTS:
        raise CommandError(f"--clients must be between 0 and {MAX_NEW_CLIENTS}; got {count}")
    new = Client.objects.bulk_create(Client() for _ in range(count))
    return [*new, *(Client.objects.get_or_create(pk=each)[0] for each in dict.fromkeys(ids))]
