"""The federation that both simulate: a hundred clients learn the digits, with the same training code.

Flower's interpreter imports this module as well; of this project's dependencies it has numpy alone.
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


def write_digits(path: str) -> None:
    """Write all digits, in an order that the seed determines; both simulations read this file."""
    from sklearn.datasets import load_digits  # Takes a second to import.

    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    scaled = (features[order] / 16).astype(np.float32)
    np.savez(path, features=scaled, labels=labels[order].astype(np.int64))


@cache
def digits(path: str) -> Part:
    """Return all digits of a file; each process reads it once."""
    with np.load(path) as archive:
        return Part(archive["features"], archive["labels"])


def part_of(client: int, path: str) -> Part:
    """Return the examples of a client."""
    features, labels = digits(path)
    return Part(features[client:TRAINED:CLIENTS], labels[client:TRAINED:CLIENTS])


def initial() -> Model:
    """Return the initial weights."""
    return initial_model(64, 10, np.random.default_rng(SEED))


def trained(model: Model, part: Part, rng: np.random.Generator) -> Model:
    """Return the model after a few epochs over a client's examples."""
    return train(model, part.features, part.labels, epochs=EPOCHS, rng=rng)


def test_accuracy(model: Model, path: str) -> float:
    """Return the accuracy on the digits that no client has."""
    features, labels = digits(path)
    return accuracy(model, features[TRAINED:], labels[TRAINED:])
