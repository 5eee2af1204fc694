"""The worlds that the contract of a connector is tried in: the Django one, and its in-memory twin."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import safetensors.numpy

from connectors import DjangoAggConnector
from models_app.models import Client, FederatedModel, ModelUpdate
from tests import factories
from tests.factories import client_id
from tests.twin import InMemoryAggConnector

STATUS = ModelUpdate.Status

#: A lease in the worlds, and longer than one.
LEASE_SECONDS = 60
BEYOND_THE_LEASE = timedelta(seconds=LEASE_SECONDS + 1)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_lease(self) -> None:
        self.now += BEYOND_THE_LEASE


def as_npz(tensors: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **tensors)
    return file.getvalue()


def encoded(data: Any) -> tuple[bytes, str]:
    """Bytes as they are, tensors by name as safetensors, anything else as JSON; with the extension."""
    if isinstance(data, bytes):
        return data, "safetensors"
    if isinstance(data, Mapping):
        return safetensors.numpy.save(dict(data)), "safetensors"
    return json.dumps(data).encode(), "json"


def decoded(body: bytes, name: str) -> Any:
    """What the format's own library reads: lists, or tensors by name."""
    if name.endswith(".json"):
        return json.loads(body)
    if name.endswith(".npz"):
        return dict(np.load(io.BytesIO(body)))
    return safetensors.numpy.load(body)


class World(ABC):
    """Where models and updates are made, for a connector to find."""

    def __init__(self) -> None:
        self.clock = Clock()
        #: The connector of one process; `process` gives that of another.
        self.connector = self.process()

    @abstractmethod
    def process(self) -> Any:
        """A connector as another process has it."""

    @abstractmethod
    def model(self, clients: int = 3, *, initial: Any = None, **fields: Any) -> Any:
        """A model with this many members."""

    @abstractmethod
    def update(
        self, model: Any, client: int, data: Any, suffix: str | None = None, **fields: Any
    ) -> Any:
        """A pending update of a client, which need not be a member."""

    @abstractmethod
    def join(self, model: Any, client: int) -> None:
        """Make a client a member."""

    @abstractmethod
    def bytes_of(self, aggregate: Any) -> bytes:
        """What is stored of an aggregate."""

    def read(self, aggregate: Any) -> Any:
        """What the format's own library reads of an aggregate."""
        return decoded(self.bytes_of(aggregate), aggregate.result.name)

    @abstractmethod
    def now(self, update: Any) -> Any:
        """The update as it is kept now."""

    def states(self, *updates: Any) -> list[tuple[str, int | None]]:
        """The name of each update's status now, and the number of the aggregate it is in."""
        found = [self.now(update) for update in updates]
        return [
            (STATUS(u.status).name, u.applied_aggregate and u.applied_aggregate.number)
            for u in found
        ]


class TwinWorld(World):
    def process(self) -> InMemoryAggConnector:
        # Its dictionaries are the database; every process has the same.
        if not hasattr(self, "connector"):
            self.connector = InMemoryAggConnector(
                {"clock": self.clock, "lease_seconds": LEASE_SECONDS}
            )
        return self.connector

    def model(self, clients: int = 3, *, initial: Any = None, **fields: Any) -> Any:
        members = [str(client_id(n)) for n in range(1, clients + 1)]
        stored = None if initial is None else encoded(initial)[0]
        return self.connector.add_model(members, stored, **fields)

    def update(
        self, model: Any, client: int, data: Any, suffix: str | None = None, **fields: Any
    ) -> Any:
        body, guessed = encoded(data)
        return self.connector.add_update(
            model, str(client_id(client)), body, suffix or guessed, **fields
        )

    def join(self, model: Any, client: int) -> None:
        model.clients.append(str(client_id(client)))

    def bytes_of(self, aggregate: Any) -> bytes:
        return self.connector.storage.bodies[aggregate.result.name]

    def now(self, update: Any) -> Any:
        return next(each for each in update.federated_model.updates if each.id == update.id)


class DjangoWorld(World):
    def process(self) -> DjangoAggConnector:
        settings = {"clock": self.clock, "lease_seconds": LEASE_SECONDS}
        return DjangoAggConnector(
            {"metadata_connector": {"type": "DjangoMetadataConnector", "settings": settings}}
        )

    def model(self, clients: int = 3, *, initial: Any = None, **fields: Any) -> FederatedModel:
        return factories.make_model(clients, initial=initial, **fields)

    def update(
        self, model: Any, client: int, data: Any, suffix: str | None = None, **fields: Any
    ) -> ModelUpdate:
        body, guessed = encoded(data)
        Client.objects.get_or_create(pk=client_id(client))
        return factories.ready_update(model, client, body, suffix=suffix or guessed, **fields)

    def join(self, model: Any, client: int) -> None:
        model.clients.add(Client.objects.get_or_create(pk=client_id(client))[0])

    def bytes_of(self, aggregate: Any) -> bytes:
        return factories.get(aggregate.result.name)

    def now(self, update: Any) -> Any:
        return ModelUpdate.objects.select_related("applied_aggregate").get(pk=update.pk)
