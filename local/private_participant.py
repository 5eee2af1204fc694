"""A client of the demonstration that masks its updates, with the client's library."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from federated_client import Bucket, Client
from federated_client.private import new_identity
from local.errors import RoundOverdue
from local.mask_keeper import RunningKeeper
from local.network import Model

#: `latest.json` is written a moment after a round is published.
POINTER_SECONDS = 30.0

#: A sum of fifty updates of this norm fits into 32 bits.
SETTINGS: dict[str, Any] = {
    "clip_norm": 16.0,
    "scale": 1 << 21,
    "min_cohort": 2,
    "max_cohort": 50,
}


@dataclass(frozen=True, kw_only=True)
class PrivateUploads:
    """The way in which a participant sends masked updates.

    Parameters
    ----------
    client : Client
        With the key that is registered at the mask keeper.
    impostor : Client
        With a key that is not.
    """

    client: Client
    impostor: Client

    @classmethod
    def register(
        cls, keeper: RunningKeeper, uuid: UUID, s3: Any, bucket: str, model_id: int, folder: Path
    ) -> PrivateUploads:
        """Make the keys of a participant, and register the public one."""
        own = new_identity(folder / f"{uuid}.keys")
        keeper.register(uuid, own.public_key)
        clients = []
        for identity in (own, new_identity(folder / f"{uuid}.other.keys")):
            identity.trust(model_id, keeper.public_key)
            storage = Bucket(bucket, s3)
            clients.append(Client(storage, model_id=model_id, client_id=uuid, identity=identity))
        return cls(client=clients[0], impostor=clients[1])

    def send(
        self, model: Model, *, num_examples: int, base_aggregate: int | None, forged: bool
    ) -> None:
        """Send the masked difference from the aggregate that the model was trained from.

        Parameters
        ----------
        model : Model
        num_examples : int
        base_aggregate : int or None
        forged : bool
            Whether it is signed with a key that the mask keeper does not know.
        """
        sender = self.impostor if forged else self.client
        overdue = time.monotonic() + POINTER_SECONDS
        while (base := sender.latest()).aggregate_id != base_aggregate:
            if time.monotonic() > overdue:
                raise RoundOverdue(f"latest.json does not name aggregate {base_aggregate}")
            time.sleep(0.05)
        sender.resume(base)
        sender.upload(model, num_examples=num_examples)
