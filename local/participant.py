"""A client of the federation: it knows S3 and the federated model's id, and nothing of the function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import safetensors.numpy

from local.dataset import Examples
from local.network import Model, accuracy, train

#: Passes over its data that a client makes in a round.
EPOCHS = 5


@dataclass(kw_only=True)
class Participant:
    """One client.

    Parameters
    ----------
    index : int
        From zero; people count from one.
    uuid : uuid.UUID
    s3
        boto3's S3 client.
    bucket : str
    model_id : int
    training, held_out : Examples
        The client's own, which nobody else sees.
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
        """For people."""
        return f"client {self.index + 1}"

    def download(self, key: str) -> Model:
        """The weights in an object of the bucket."""
        body = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return safetensors.numpy.load(body)

    def train(self, model: Model) -> Model:
        """The model after some passes over the client's own examples."""
        return train(
            model, self.training.features, self.training.labels, epochs=EPOCHS, rng=self.rng
        )

    def upload(self, model: Model, *, name: str, base_aggregate: int | None) -> None:
        """Store an update where its arrival is announced.

        Parameters
        ----------
        model : Model
        name : str
            Of the object; a client never uses one twice.
        base_aggregate : int or None
            Id of the aggregate that was trained further; None for the initial model.
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
        """Accuracy on the client's own held-out examples."""
        return accuracy(model, self.held_out.features, self.held_out.labels)
