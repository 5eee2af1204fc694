"""What the federation is measured against: the same network, with as many passes over the data."""

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
        Of one model trained on the clients' data in one place, which they could not give away.
    alone : list of float
        Of each client's own model, trained on its own data only.
    """

    central: float
    alone: list[float]

    @property
    def mean_alone(self) -> float:
        """The mean over the clients."""
        return float(np.mean(self.alone))


def measure_references(
    digits: Digits, initial: Model, *, epochs: int, rng: np.random.Generator
) -> References:
    """Train centrally and alone, as many epochs as a client of the federation trained in all."""

    def score(examples: Examples) -> float:
        model = train(initial, examples.features, examples.labels, epochs=epochs, rng=rng)
        return accuracy(model, digits.test.features, digits.test.labels)

    return References(
        central=score(digits.pooled()), alone=[score(part) for part in digits.training]
    )
