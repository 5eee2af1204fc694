"""A linear classifier of scikit-learn, trained on a client's share of its handwritten digits.

    federated-client enroll URL --token TOKEN
    python -m examples.sklearn_client SEED ROUNDS

The model has two float64 tensors, "coef_" of shape (10, 64) and "intercept_" of shape (10,).
"""

import sys
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from federated_client import Federation


def my_examples(seed: int) -> Any:
    """Return 300 of the digits, in place of what only this client has; a quarter is held out."""
    features, labels = load_digits(return_X_y=True)
    mine = np.random.default_rng(seed).choice(len(labels), 300, replace=False)
    return train_test_split(features[mine] / 16, labels[mine], random_state=seed)


def new_classifier(seed: int) -> SGDClassifier:
    """Return a classifier that knows the classes and has weights, which `load_into` replaces."""
    model = SGDClassifier(loss="log_loss", random_state=seed)
    model.partial_fit(np.zeros((1, 64)), [0], classes=np.arange(10))
    model.coef_[:], model.intercept_[:] = 0, 0
    return model


def main(seed: int, rounds: int) -> None:
    """Score each aggregate on examples that are kept back, train it further, and send the result."""
    features, held_out, labels, held_out_labels = my_examples(seed)
    federation, model = Federation(), new_classifier(seed)
    for round in federation.rounds(rounds, initial=model, poll=0.5):
        round.load_into(model)
        if round.number:
            accuracy = model.score(held_out, held_out_labels)
            federation.score(num_examples=len(held_out_labels), accuracy=accuracy)
        for _ in range(5):
            model.partial_fit(features, labels)
        federation.submit(model, num_examples=len(labels))
    print("the new aggregate is number", federation.wait(poll=0.5).number)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
