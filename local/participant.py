"""A client of the demonstration. It uses S3 and knows the federated model's id, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import safetensors.numpy

from local.dataset import Examples
from local.network import Model, accuracy, train

#: Passes over its data that a client makes in each round.
EPOCHS = 5


@dataclass(kw_only=True)
class Participant:
    """One client of the federation.

    Parameters
    ----------
    index : int
        From zero; its name counts from one.
    uuid : uuid.UUID
    s3
        boto3's S3 client.
    bucket : str
    model_id : int
    training, held_out : Examples
        The client's own examples, which it shares with nobody.
    rng : numpy.random.Generator
    """

    index: int
    uuid: UUID
    s3: Any
    bucket: str
    model_id: int
    training: Examples
    held_out: Examples
    rng: np.random.Generator

    @property
    def name(self) -> str:
        """Return the name that is shown."""
        return f"client {self.index + 1}"

    def download(self, key: str) -> Model:
        """Return the weights in an object of the bucket."""
        body = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return safetensors.numpy.load(body)

    def train(self, model: Model) -> Model:
        """Return the model after `EPOCHS` epochs on the client's own examples."""
        return train(
            model, self.training.features, self.training.labels, epochs=EPOCHS, rng=self.rng
        )

    def upload(self, model: Model, *, name: str, base_aggregate: int | None) -> None:
        """Upload an update; the bucket then notifies the queue.

        Parameters
        ----------
        model : Model
        name : str
            Name of the object. A client never uses a name twice.
        base_aggregate : int or None
            Id of the aggregate from which the training started; None for the initial model.
        """
        metadata = {"num-examples": str(len(self.training))}
        if base_aggregate is not None:
            metadata["base-aggregate"] = str(base_aggregate)
        self.s3.put_object(
            Bucket=self.bucket,
            Key=f"updates/{self.model_id}/{self.uuid}/{name}.safetensors",
            Body=safetensors.numpy.save(model),
            Metadata=metadata,
        )

    def score(self, model: Model) -> float:
        """Return the accuracy on the client's held-out examples."""
        return accuracy(model, self.held_out.features, self.held_out.labels)
