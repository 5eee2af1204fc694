"""The reference accuracies: the same network without the federation, with as many epochs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from local.dataset import Digits, Examples
from local.network import Model, accuracy, train


@dataclass(frozen=True, kw_only=True)
class References:
    """Accuracies on the test set.

    Attributes
    ----------
    central : float
        Of one model trained on the data of all clients in one place.
    alone : list of float
        Of a model for each client, trained on that client's data only.
    """

    central: float
    alone: list[float]

    @property
    def mean_alone(self) -> float:
        """Return the mean over the clients."""
        return float(np.mean(self.alone))


def measure_references(
    digits: Digits, initial: Model, *, epochs: int, rng: np.random.Generator
) -> References:
    """Train centrally and alone, for as many epochs as each client of the federation trained."""

    def score(examples: Examples) -> float:
        model = train(initial, examples.features, examples.labels, epochs=epochs, rng=rng)
        return accuracy(model, digits.test.features, digits.test.labels)

    return References(
        central=score(digits.pooled()), alone=[score(part) for part in digits.training]
    )
