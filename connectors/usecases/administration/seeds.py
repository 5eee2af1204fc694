"""Destroy the seeds of a private model's noise."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from aggregation.errors import Conflict
from connectors.rounds import transitions
from connectors.storage.seeds import SeedVault
from models_app.models import FederatedModel


@dataclass(frozen=True, kw_only=True)
class Destroyed:
    """What was destroyed.

    Parameters
    ----------
    data_key : bool
        Whether there was a data key, without which no seed can be decrypted, also none in a copy.
    seeds : int
        The number of rounds whose encrypted seed was deleted.
    """

    data_key: bool
    seeds: int


def destroy_seeds(vault: SeedVault, model: FederatedModel) -> Destroyed:
    """Destroy the seeds of a model's noise: its aggregates can then no longer be verified.

    The account of the model does not change, and its next round draws a seed under a new data key.

    Raises
    ------
    Conflict
        If a round of the model is running, which needs its seed.
    """
    with transaction.atomic():
        transitions.lock_model(model.pk)
        if running := model.rounds.filter(finished_on=None).first():
            raise Conflict(
                f"{running} is running and needs its seed: pause the model, and try again once the round "
                "has ended"
            )
        seeds = model.rounds.exclude(sealed_seed="").update(sealed_seed="")
        return Destroyed(data_key=vault.destroy(model.pk), seeds=seeds)
