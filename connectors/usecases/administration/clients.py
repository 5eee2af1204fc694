"""Create clients, make them members of models, pause and rename them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from django.db import transaction

from aggregation.errors import Conflict
from models_app.models import Client, FederatedModel

#: Rows of one INSERT or values of one IN: no statement has more than 1,000 parameters.
BATCH = 250

#: More than a federation that is created by hand has.
MAX_NEW_CLIENTS = 10_000

T = TypeVar("T")


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
    return members


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
    removed, _ = through.filter(client_id=client.pk).delete()
    if not removed:
        raise Conflict(f"client {client} is not a member of model {model.pk}")
    return through.count()


def set_paused(client: Client, *, paused: bool) -> bool:
    """Pause or resume a client in all its models, and return whether that changed anything."""
    return bool(Client.objects.filter(pk=client.pk, paused=not paused).update(paused=paused))


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
