"""A softmax regression in plain numpy.

    federated-client enroll URL --token TOKEN
    python -m examples.numpy_client SEED ROUNDS

The model has two float32 tensors, "weight" of shape (64, 10) and "bias" of shape (10,).
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated_client import Federation

Array = NDArray[Any]
Weights = dict[str, Array]


def my_examples(seed: int) -> tuple[Array, Array]:
    """Return 300 noisy copies of ten prototypes, in place of what only this client has."""
    prototypes = np.random.default_rng(0).normal(size=(10, 64))
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=300)
    return (prototypes[labels] + rng.normal(size=(300, 64))).astype(np.float32), labels


def probabilities(weights: Weights, features: Array) -> Array:
    """Return the probability of each class for each row."""
    logits = features @ weights["weight"] + weights["bias"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def train(weights: Weights, features: Array, labels: Array, rate: float = 0.1) -> None:
    """Take some steps of gradient descent."""
    for _ in range(50):
        error = probabilities(weights, features) - np.eye(10, dtype=np.float32)[labels]
        weights["weight"] -= rate * (features.T @ error) / len(labels)
        weights["bias"] -= rate * error.mean(axis=0)


def main(seed: int, rounds: int) -> None:
    """Score each aggregate on examples that are kept back, train it further, and send the result."""
    federation, (features, labels) = Federation(), my_examples(seed)
    zeros = {"weight": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)}
    for round in federation.rounds(rounds, initial=zeros, poll=0.5):
        if round.number:
            right = probabilities(round.weights, features[250:]).argmax(axis=1) == labels[250:]
            federation.score(num_examples=50, accuracy=right.mean())
        train(round.weights, features[:250], labels[:250])
        federation.submit(round.weights, num_examples=250)
    print("the new aggregate is number", federation.wait(poll=0.5).number)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
