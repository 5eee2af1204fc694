"""A federation whose updates are masked: the function, the mask keeper and the clients' library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from connectors.usecases.administration.models import change_model
from federated_client import Bucket, Client
from federated_client.private import Identity, load_identity
from local.cloud import Cloud
from mask_keeper import handler as keeper_handler
from mask_keeper.table import KeeperTable
from tests import factories
from tests.client.delivery import deliver

#: The model's initial weights: 91 elements are masked.
INITIAL: dict[str, NDArray[Any]] = {
    "w": np.linspace(-1, 1, 81, dtype=np.float32).reshape(9, 9),
    "steps": np.array([7], np.int64),
    "b": np.linspace(0, 1, 10, dtype=np.float32),
}

SECRET = "s" * 64


class Context:
    """The context that the runtime passes to a handler."""

    def get_remaining_time_in_millis(self) -> int:
        return 300_000


@dataclass
class SecureFederation:
    """A model with secure aggregation, its clients and its mask keeper."""

    cloud: Cloud
    model: Any
    table: KeeperTable
    keeper_queue: str
    members: dict[int, Client] = field(default_factory=dict)

    def change(self, **fields: Any) -> None:
        """Change settings of the model, and write them to its pointer, which clients read."""
        from connectors import application
        from connectors.publication.pointer import write_pointer

        change_model(self.model, fields)
        write_pointer(application.objects(), self.model.pk)

    def client(self, number: int) -> Client:
        """Return a client that is registered at the mask keeper."""
        if number not in self.members:
            identity = self.identity(number)
            self.table.register(
                str(factories.client_id(number)), bytes.fromhex(identity.public_key)
            )
            self.members[number] = Client(
                Bucket(self.cloud.bucket, self.cloud.client("s3")),
                model_id=self.model.pk,
                client_id=factories.client_id(number),
                identity=identity,
            )
        return self.members[number]

    def identity(self, number: int) -> Identity:
        """Return the keys of a client."""
        return load_identity(f"client-{number}")

    def send(self, number: int, change: float, num_examples: int = 1) -> str:
        """Let a client fetch, add ``change`` to all weights, and send its update."""
        client = self.client(number)
        weights = client.fetch()
        trained = {
            name: tensor + np.float32(change) if tensor.dtype == np.float32 else tensor
            for name, tensor in weights.items()
        }
        return client.upload(trained, num_examples=num_examples)

    def deliver(self) -> int:
        """Let the function process its queue."""
        return deliver(self.cloud)

    def keep(self) -> int:
        """Let the mask keeper process its queue; return the number of messages."""
        sqs, done = self.cloud.client("sqs"), 0
        while found := sqs.receive_message(QueueUrl=self.keeper_queue).get("Messages"):
            for message in found:
                record = {"messageId": message["MessageId"], "body": message["Body"]}
                answer = keeper_handler.handler({"Records": [record]}, Context())
                assert answer == {"batchItemFailures": []}
                sqs.delete_message(
                    QueueUrl=self.keeper_queue, ReceiptHandle=message["ReceiptHandle"]
                )
                done += 1
        return done

    def finish(self) -> None:
        """Let both work until no message is left."""
        while self.deliver() + self.keep():
            continue

    def latest(self) -> dict[str, NDArray[Any]]:
        """Return the latest aggregate."""
        from models_app.models import ModelAggregate

        newest = ModelAggregate.objects.filter(federated_model=self.model).latest("number")
        return safetensors.numpy.load(factories.get(newest.result.name))


def secure_settings(public_key: str, **fields: Any) -> dict[str, Any]:
    """Return the settings of secure aggregation of a small model."""
    return {"keeper": public_key, "clip_norm": 8.0, "scale": 1 << 14, "min_cohort": 2, **fields}


def forget_clients() -> None:
    """Forget what an environment of the functions keeps."""
    from connectors import application

    application.mask_keeper.cache_clear()
    keeper_handler.client.cache_clear()
    keeper_handler.private_key.cache_clear()
