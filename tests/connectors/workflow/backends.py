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

#: A lease in the worlds, and longer than one.
LEASE = timedelta(seconds=60)
BEYOND_THE_LEASE = LEASE + timedelta(seconds=1)


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

    #: The connector of one process; `process` gives that of another.
    connector: Any

    @abstractmethod
    def process(self) -> Any:
        """A round connector as another process has it."""

    @abstractmethod
    def pass_time(self, time: timedelta = BEYOND_THE_LEASE) -> None:
        """Let time pass: leases that were granted before end earlier."""

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
    def latest(self, model: Any) -> Any:
        """The model's latest aggregate, or None."""

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
    def __init__(self) -> None:
        self.connector = InMemoryRoundConnector(LEASE)

    def process(self) -> InMemoryRoundConnector:
        # Its dictionaries are the database; every process has the same.
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
        #: The connector of one workflow; `another_workflow` gives that of another.
        self.workflow = self.another_workflow()

    def process(self) -> DjangoRoundConnector:
        return application.round_connector(lambda: LEASE)

    def another_workflow(self) -> DjangoAggConnector:
        """The connector of a workflow in another process."""
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
    """Move what the database knows into the past, since its clock cannot be set."""
    AggregationRound.objects.update(lease_expires_at=F("lease_expires_at") - time)
    ModelUpdate.objects.update(created_on=F("created_on") - time)
