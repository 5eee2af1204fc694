"""A small neural network in numpy: one hidden layer, trained by stochastic gradient descent.

The arrays are float32; the functions also work in float64. A model is a dictionary of tensors, as in
safetensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Model = dict[str, Array]

HIDDEN_UNITS = 64


def initial_model(n_features: int, n_classes: int, rng: np.random.Generator) -> Model:
    """Return weights drawn as He et al. propose for rectifiers (arXiv:1502.01852), and zero biases."""

    def layer(n_in: int, n_out: int) -> Array:
        scale = np.float32(np.sqrt(2 / n_in))
        return scale * rng.standard_normal((n_in, n_out), dtype=np.float32)

    return {
        "hidden.weight": layer(n_features, HIDDEN_UNITS),
        "hidden.bias": np.zeros(HIDDEN_UNITS, np.float32),
        "output.weight": layer(HIDDEN_UNITS, n_classes),
        "output.bias": np.zeros(n_classes, np.float32),
    }


def probabilities(model: Model, features: Array) -> Array:
    """Return the probability of each class for each row; shape (n_rows, n_classes)."""
    return _softmax(_hidden(model, features) @ model["output.weight"] + model["output.bias"])


def gradient(model: Model, features: Array, labels: Labels) -> Model:
    """Return the gradient of the mean cross-entropy over the rows, by backpropagation."""
    hidden = _hidden(model, features)
    error = _softmax(hidden @ model["output.weight"] + model["output.bias"])
    error[np.arange(len(labels)), labels] -= 1
    error /= np.float32(len(labels))
    hidden_error = (error @ model["output.weight"].T) * (hidden > 0)
    return {
        "hidden.weight": features.T @ hidden_error,
        "hidden.bias": hidden_error.sum(axis=0),
        "output.weight": hidden.T @ error,
        "output.bias": error.sum(axis=0),
    }


def train(
    model: Model,
    features: Array,
    labels: Labels,
    *,
    epochs: int,
    rng: np.random.Generator,
    batch_size: int = 8,
    learning_rate: float = 0.07,
    momentum: float = 0.9,
) -> Model:
    """Return a model after some epochs of minibatch gradient descent with momentum.

    The given model is not modified.
    """
    model = {name: tensor.copy() for name, tensor in model.items()}
    velocity = {name: np.zeros_like(tensor) for name, tensor in model.items()}
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for start in range(0, len(labels), batch_size):
            rows = order[start : start + batch_size]
            for name, slope in gradient(model, features[rows], labels[rows]).items():
                velocity[name] = (
                    np.float32(momentum) * velocity[name] - np.float32(learning_rate) * slope
                )
                model[name] += velocity[name]
    return model


def accuracy(model: Model, features: Array, labels: Labels) -> float:
    """Return the fraction of the rows whose most probable class is their label."""
    return float(np.mean(probabilities(model, features).argmax(axis=1) == labels))


def _hidden(model: Model, features: Array) -> Array:
    hidden: Array = np.maximum(features @ model["hidden.weight"] + model["hidden.bias"], 0)
    return hidden


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result
