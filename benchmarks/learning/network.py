"""Many small networks that are trained at once: one hidden layer, in float32, by stochastic descent.

The weights of ``r`` networks are an array of shape (r, `PARAMETERS`). One epoch of all of them takes hardly
longer than one of a few, because numpy's overhead for an operation is shared.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from local.dataset import Examples

Weights = NDArray[np.float32]

PIXELS, HIDDEN, CLASSES = 64, 32, 10
_SHAPES = ((PIXELS, HIDDEN), (1, HIDDEN), (HIDDEN, CLASSES), (1, CLASSES))
_CUTS = np.cumsum([0, *(rows * columns for rows, columns in _SHAPES)])
PARAMETERS = int(_CUTS[-1])

BATCH, LEARNING_RATE, MOMENTUM = 8, np.float32(0.1), np.float32(0.9)


def initial_weights(rng: np.random.Generator) -> Weights:
    """Return the weights of one network, as He et al. propose for rectifiers (arXiv 1502.01852)."""
    hidden = rng.standard_normal(PIXELS * HIDDEN) * np.sqrt(2 / PIXELS)
    output = rng.standard_normal(HIDDEN * CLASSES) * np.sqrt(2 / HIDDEN)
    whole = [hidden, np.zeros(HIDDEN), output, np.zeros(CLASSES)]
    return np.concatenate(whole).astype(np.float32)


def train(weights: Weights, examples: Examples, order: NDArray[np.intp]) -> Weights:
    """Return the networks after one epoch over the examples, in minibatches of this order."""
    weights, velocity = weights.copy(), np.zeros_like(weights)
    targets = np.eye(CLASSES, dtype=np.float32)[examples.labels]
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        velocity *= MOMENTUM
        velocity -= LEARNING_RATE * _gradients(weights, examples.features[rows], targets[rows])
        weights += velocity
    return weights


@np.errstate(over="ignore", invalid="ignore")  # Under some attacks, a mean diverges.
def accuracies(weights: Weights, examples: Examples) -> NDArray[np.float64]:
    """Return the share of the examples that each network classifies correctly."""
    into, bias, out, out_bias = _layers(weights)
    hidden = np.maximum(np.matmul(examples.features, into) + bias, 0)
    found = (np.matmul(hidden, out) + out_bias).argmax(axis=2)
    return np.asarray((found == examples.labels).mean(axis=1), np.float64)


def _layers(weights: Weights) -> list[Weights]:
    return [
        weights[:, first:stop].reshape(len(weights), *shape)
        for (first, stop), shape in zip(pairwise(_CUTS), _SHAPES, strict=True)
    ]


def _gradients(weights: Weights, features: Weights, targets: Weights) -> Weights:
    """Return the gradients of the mean cross-entropy."""
    into, bias, out, out_bias = _layers(weights)
    hidden = np.maximum(np.matmul(features, into) + bias, 0)
    error = np.matmul(hidden, out) + out_bias
    error -= error.max(axis=2, keepdims=True)
    np.exp(error, out=error)
    error /= error.sum(axis=2, keepdims=True)
    error -= targets
    error /= np.float32(len(features))
    hidden_error = np.matmul(error, out.transpose(0, 2, 1)) * (hidden > 0)
    tensors = (
        np.matmul(features.T, hidden_error),
        hidden_error.sum(axis=1),
        np.matmul(hidden.transpose(0, 2, 1), error),
        error.sum(axis=1),
    )
    return np.concatenate([each.reshape(len(weights), -1) for each in tensors], axis=1)
