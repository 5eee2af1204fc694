"""Create clients, make them members of models, pause and rename them."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from aggregation.errors import Conflict
from connectors.publication.credentials import sha256, write_credentials
from connectors.storage.port import Objects
from models_app.models import Client, FederatedModel, mark_credentials, next_version

#: Rows of one INSERT or values of one IN: no statement has more than 1,000 parameters.
BATCH = 250

#: More than a federation that is created by hand has.
MAX_NEW_CLIENTS = 10_000

T = TypeVar("T")


@dataclass(frozen=True)
class Invitation:
    """A client that may enroll once, with its token, which is shown only once."""

    client_id: uuid.UUID
    token: str
    expires_on: datetime


def add_clients(model: FederatedModel, count: int, names: Sequence[str]) -> list[Client]:
    """Make clients members of a model, and return them.

    Parameters
    ----------
    model : FederatedModel
    count : int
        How many new clients to create.
    names : sequence of str
        Names or ids (UUIDs) of further clients. Those that do not exist are created.

    Raises
    ------
    Conflict
        If the count is out of range.
    ValidationError
        If a name is not valid.
    """
    if not 0 <= count <= MAX_NEW_CLIENTS:
        raise Conflict(f"--clients must be between 0 and {MAX_NEW_CLIENTS}; got {count}")
    with transaction.atomic():
        new = Client.objects.bulk_create([Client() for _ in range(count)], batch_size=BATCH)
        members = [*new, *_find_or_create(list(dict.fromkeys(names)))]
        through = FederatedModel.clients.through
        through.objects.bulk_create(
            [through(federatedmodel_id=model.pk, client_id=each.pk) for each in members],
            batch_size=BATCH,
            ignore_conflicts=True,
        )
        mark_credentials(each.pk for each in members if each.secret_hash)
    return members


def invite(model: FederatedModel, count: int, expires: timedelta) -> list[Invitation]:
    """Create members of a model that are to enroll through the API, each with a one-time token.

    Until it enrolls, such a client is paused: no round waits for it.

    Raises
    ------
    Conflict
        If the count is out of range.
    """
    if not 1 <= count <= MAX_NEW_CLIENTS:
        raise Conflict(f"--count must be between 1 and {MAX_NEW_CLIENTS}; got {count}")
    expires_on = timezone.now() + expires
    # In base64, one in 64 would begin with a hyphen, which the command line takes for an option.
    tokens = [secrets.token_hex(32) for _ in range(count)]
    clients = [
        Client(paused=True, invite_hash=sha256(token), invite_expires_on=expires_on)
        for token in tokens
    ]
    through = FederatedModel.clients.through
    with transaction.atomic():
        Client.objects.bulk_create(clients, batch_size=BATCH)
        through.objects.bulk_create(
            [through(federatedmodel_id=model.pk, client_id=each.pk) for each in clients],
            batch_size=BATCH,
        )
    return [
        Invitation(client.pk, token, expires_on)
        for client, token in zip(clients, tokens, strict=True)
    ]


def revoke(objects: Objects, client: Client) -> bool:
    """Take from a client its secret and its invitation, and return whether it had one of them.

    Raises
    ------
    TemporarilyUnavailable
        If its credentials could not be removed: call again, or the sweep removes them.
    """
    enrolled = Client.objects.filter(pk=client.pk).exclude(secret_hash="", invite_hash="")
    changed = enrolled.update(
        secret_hash="",
        invite_hash="",
        paused=True,
        credentials_version=next_version(),
    )
    write_credentials(objects, Q(pk=client.pk))
    return bool(changed)


def _find_or_create(names: Sequence[str]) -> list[Client]:
    """Return the clients with these names or ids; those that do not exist are created."""
    wanted = [_new_client(name) for name in names]
    existing: dict[object, Client] = {}
    for batch in _batches(wanted):
        for client in Client.objects.filter(pk__in=[each.pk for each in batch if not each.name]):
            existing[client.pk] = client
        for client in Client.objects.filter(name__in=[each.name for each in batch if each.name]):
            existing[client.name] = client
    missing = [each for each in wanted if (each.name or each.pk) not in existing]
    Client.objects.bulk_create(missing, batch_size=BATCH)
    return [existing.get(each.name or each.pk, each) for each in wanted]


def _new_client(name_or_id: str) -> Client:
    try:
        return Client(pk=uuid.UUID(name_or_id))
    except ValueError:
        client = Client(name=name_or_id)
    client.clean_fields()
    return client


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def remove_client(model: FederatedModel, client: Client) -> int:
    """End a client's membership, and return how many members are left.

    Its updates stay in the lineage; those that are ready are not used any more.

    Raises
    ------
    Conflict
        If the client is not a member.
    """
    through = FederatedModel.clients.through.objects.filter(federatedmodel_id=model.pk)
    with transaction.atomic():
        removed, _ = through.filter(client_id=client.pk).delete()
        if not removed:
            raise Conflict(f"client {client} is not a member of model {model.pk}")
        mark_credentials([client.pk])
    return through.count()


def set_paused(client: Client, *, paused: bool) -> bool:
    """Pause or resume a client in all its models, and return whether that changed anything.

    Raises
    ------
    Conflict
        If a client is to be resumed that has not enrolled yet.
    """
    if not paused and client.invite_hash and not client.secret_hash:
        raise Conflict(f"client {client} has not enrolled yet: it is resumed when it does")
    with transaction.atomic():
        changed = Client.objects.filter(pk=client.pk, paused=not paused).update(paused=paused)
        mark_credentials([client.pk])
    return bool(changed)


def rename_client(client: Client, name: str) -> None:
    """Give a client another name; an empty one removes its name.

    Raises
    ------
    ValidationError
        If the name is not valid, or another client has it.
    """
    client.name = name
    client.full_clean()
    client.save(update_fields=["name"])


def client_rows(clients: Iterable[Client]) -> list[dict[str, str]]:
    """Return clients as rows of a table."""
    return [{"client": str(each.pk), "name": each.name} for each in clients]
