"""A softmax regression in plain numpy, trained for one round.

    python -m examples.numpy_client BUCKET MODEL_ID CLIENT_ID

The model has two float32 tensors, "weight" of shape (64, 10) and "bias" of shape (10,).
"""

import sys

import numpy as np

from federated_client import Bucket, Client, NotThere


def my_examples(seed):
    """Stands for what only this client has: 300 noisy copies of ten prototypes."""
    prototypes = np.random.default_rng(0).normal(size=(10, 64))
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=300)
    return (prototypes[labels] + rng.normal(size=(300, 64))).astype(np.float32), labels


def probabilities(weights, features):
    """Of each class for each row."""
    logits = features @ weights["weight"] + weights["bias"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def train(weights, features, labels, steps=50, rate=0.1):
    """The weights after some steps of gradient descent."""
    weights = {name: tensor.copy() for name, tensor in weights.items()}
    for _ in range(steps):
        error = probabilities(weights, features) - np.eye(10, dtype=np.float32)[labels]
        weights["weight"] -= rate * (features.T @ error) / len(labels)
        weights["bias"] -= rate * error.mean(axis=0)
    return weights


def main(bucket, model_id, client_id):
    """Fetch, train, upload, wait, report."""
    me = Client(Bucket(bucket), model_id=int(model_id), client_id=client_id)
    features, labels = my_examples(seed=int(client_id[-4:], 16))
    try:
        weights = me.fetch()
    except NotThere:  # The first round starts from zero.
        weights = {"weight": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)}
    me.upload(train(weights, features[:250], labels[:250]), num_examples=250)
    print("uploaded; waiting for the round")
    print("the new aggregate is number", me.wait(poll=0.2).number)
    accuracy = np.mean(probabilities(me.fetch(), features[250:]).argmax(axis=1) == labels[250:])
    me.report_score(num_examples=50, accuracy=float(accuracy))
    print(f"it is right about {accuracy:.0%} of my own examples")


if __name__ == "__main__":
    main(*sys.argv[1:])
