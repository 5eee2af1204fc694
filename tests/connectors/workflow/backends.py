"""The backends of the connector contracts: Django, and the in-memory twin of the round port."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import safetensors.numpy
from django.db.models import F

from connectors import DjangoAggConnector, application
from connectors.rounds.connector import DjangoRoundConnector
from models_app.models import AggregationRound, Client, FederatedModel, ModelUpdate
from tests import factories
from tests.factories import client_id
from tests.twin import InMemoryRoundConnector

STATUS = ModelUpdate.Status

#: The lease of the worlds, and a time that exceeds it.
LEASE = timedelta(seconds=60)
BEYOND_THE_LEASE = LEASE + timedelta(seconds=1)


def as_npz(tensors: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **tensors)
    return file.getvalue()


def encoded(data: Any) -> tuple[bytes, str]:
    """Return bytes unchanged, named tensors as safetensors, other data as JSON; and the extension."""
    if isinstance(data, bytes):
        return data, "safetensors"
    if isinstance(data, Mapping):
        return safetensors.numpy.save(dict(data)), "safetensors"
    return json.dumps(data).encode(), "json"


def decoded(body: bytes, name: str) -> Any:
    """Return lists or named tensors, read by the library of the format."""
    if name.endswith(".json"):
        return json.loads(body)
    if name.endswith(".npz"):
        return dict(np.load(io.BytesIO(body)))
    return safetensors.numpy.load(body)


class World(ABC):
    """A database and a storage with a connector, in which tests create models and updates."""

    #: The connector of one process; `process` returns that of another.
    connector: Any

    @abstractmethod
    def process(self) -> Any:
        """Return the round connector of another process."""

    @abstractmethod
    def pass_time(self, time: timedelta = BEYOND_THE_LEASE) -> None:
        """Let time pass for the leases and updates that exist."""

    @abstractmethod
    def model(self, clients: int = 3, *, initial: Any = None, **fields: Any) -> Any:
        """Create a model with this many members."""

    @abstractmethod
    def update(
        self, model: Any, client: int, data: Any, suffix: str | None = None, **fields: Any
    ) -> Any:
        """Create a pending update of a client, which need not be a member."""

    @abstractmethod
    def join(self, model: Any, client: int) -> None:
        """Add a client to the members of a model."""

    @abstractmethod
    def latest(self, model: Any) -> Any:
        """Return the latest aggregate of a model, or None."""

    @abstractmethod
    def bytes_of(self, aggregate: Any) -> bytes:
        """Return the stored bytes of an aggregate."""

    def read(self, aggregate: Any) -> Any:
        """Return an aggregate, read by the library of its format."""
        return decoded(self.bytes_of(aggregate), aggregate.result.name)

    @abstractmethod
    def now(self, update: Any) -> Any:
        """Return the current record of an update."""

    def states(self, *updates: Any) -> list[tuple[str, int | None]]:
        """Return the current status of each update, and the number of its aggregate."""
        found = [self.now(update) for update in updates]
        return [
            (STATUS(u.status).name, u.applied_aggregate and u.applied_aggregate.number)
            for u in found
        ]


class TwinWorld(World):
    def __init__(self) -> None:
        self.connector = InMemoryRoundConnector(LEASE)

    def process(self) -> InMemoryRoundConnector:
        # The dictionaries of the connector are the database, which all processes share.
        connector: InMemoryRoundConnector = self.connector
        return connector

    def pass_time(self, time: timedelta = BEYOND_THE_LEASE) -> None:
        self.connector.now += time

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

    def latest(self, model: Any) -> Any:
        return model.latest

    def bytes_of(self, aggregate: Any) -> bytes:
        return bytes(self.connector.storage.bodies[aggregate.result.name])

    def now(self, update: Any) -> Any:
        return next(each for each in update.federated_model.updates if each.id == update.id)


class DjangoWorld(World):
    def __init__(self) -> None:
        self.connector = self.process()
        #: The connector of one workflow; `another_workflow` returns that of another.
        self.workflow = self.another_workflow()

    def process(self) -> DjangoRoundConnector:
        return application.round_connector(lambda: LEASE)

    def another_workflow(self) -> DjangoAggConnector:
        """Return the connector of a workflow in another process."""
        settings = {"lease_seconds": LEASE.total_seconds()}
        return DjangoAggConnector(
            {"metadata_connector": {"type": "DjangoMetadataConnector", "settings": settings}}
        )

    def pass_time(self, time: timedelta = BEYOND_THE_LEASE) -> None:
        pass_time(time)

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

    def latest(self, model: Any) -> Any:
        return model.aggregates.order_by("-number").first()

    def bytes_of(self, aggregate: Any) -> bytes:
        return factories.get(aggregate.result.name)

    def now(self, update: Any) -> Any:
        return ModelUpdate.objects.select_related("applied_aggregate").get(pk=update.pk)


def pass_time(time: timedelta) -> None:
    """Move the times in the database into the past, since its clock cannot be set."""
    AggregationRound.objects.update(lease_expires_at=F("lease_expires_at") - time)
    ModelUpdate.objects.update(created_on=F("created_on") - time)
