"""The federation that both simulate: a hundred clients learn the digits, with the same training code.

Flower's interpreter imports this module as well; it has nothing of this project's dependencies but numpy
and scikit-learn.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from local.network import Array, Labels, Model, accuracy, initial_model, train

CLIENTS, ROUNDS, SEED, EPOCHS = 100, 20, 1, 3
TRAINED = 1437  # Four fifths of the digits.


class Part(NamedTuple):
    """Rows of features with their labels."""

    features: Array
    labels: Labels


@cache
def digits() -> Part:
    """Return all digits, in an order that the seed determines."""
    from sklearn.datasets import load_digits  # Takes a second to import.

    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    return Part((features[order] / 16).astype(np.float32), labels[order].astype(np.int64))


def part_of(client: int) -> Part:
    """Return the examples of a client."""
    features, labels = digits()
    return Part(features[client:TRAINED:CLIENTS], labels[client:TRAINED:CLIENTS])


def initial() -> Model:
    """Return the initial weights."""
    return initial_model(64, 10, np.random.default_rng(SEED))


def trained(model: Model, part: Part, rng: np.random.Generator) -> Model:
    """Return the model after a few epochs over a client's examples."""
    return train(model, part.features, part.labels, epochs=EPOCHS, rng=rng)


def test_accuracy(model: Model) -> float:
    """Return the accuracy on the digits that no client has."""
    features, labels = digits()
    return accuracy(model, features[TRAINED:], labels[TRAINED:])
