"""A softmax regression in plain numpy, trained for one round.

    python -m examples.numpy_client BUCKET MODEL_ID CLIENT_ID

The model has two float32 tensors, "weight" of shape (64, 10) and "bias" of shape (10,).
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated_client import Bucket, Client

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


def train(weights: Weights, features: Array, labels: Array, rate: float = 0.1) -> Weights:
    """Return the weights after some steps of gradient descent."""
    weight, bias = weights["weight"].copy(), weights["bias"].copy()
    for _ in range(50):
        guess = probabilities({"weight": weight, "bias": bias}, features)
        error = guess - np.eye(10, dtype=np.float32)[labels]
        weight -= rate * (features.T @ error) / len(labels)
        bias -= rate * error.mean(axis=0)
    return {"weight": weight, "bias": bias}


def main(bucket: str, model_id: str, client_id: str) -> None:
    """Fetch, train, upload, wait, report."""
    me = Client(Bucket(bucket), model_id=int(model_id), client_id=client_id)
    features, labels = my_examples(seed=int(client_id[-4:], 16))
    zeros = {"weight": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)}
    trained = train(me.fetch(initial=zeros), features[:250], labels[:250])
    me.upload(trained, num_examples=250)
    print("the new aggregate is number", me.wait(poll=0.2).number)
    accuracy = np.mean(probabilities(me.fetch(), features[250:]).argmax(axis=1) == labels[250:])
    me.report_score(num_examples=50, accuracy=accuracy)


if __name__ == "__main__":
    main(*sys.argv[1:])
