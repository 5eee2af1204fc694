"""A linear classifier of scikit-learn, trained for one round on a share of its handwritten digits.

    python -m examples.sklearn_client BUCKET MODEL_ID CLIENT_ID

The model has two float64 tensors, "coef" of shape (10, 64) and "intercept" of shape (10,).
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from federated_client import Bucket, Client


def my_examples(seed: int) -> Any:
    """Return 300 of the digits, in place of what only this client has; a quarter is held out."""
    features, labels = load_digits(return_X_y=True)
    mine = np.random.default_rng(seed).choice(len(labels), 300, replace=False)
    return train_test_split(features[mine] / 16, labels[mine], random_state=seed)


def classifier(weights: Mapping[str, Any], seed: int = 0) -> SGDClassifier:
    """Return a classifier that continues from these weights."""
    model = SGDClassifier(loss="log_loss", random_state=seed)
    model.classes_ = np.arange(10)
    model.coef_, model.intercept_ = weights["coef"].copy(), weights["intercept"].copy()
    model.t_ = 1.0
    return model


def main(bucket: str, model_id: str, client_id: str) -> None:
    """Fetch, train, upload, wait, report."""
    me = Client(Bucket(bucket), model_id=int(model_id), client_id=client_id)
    seed = int(client_id[-4:], 16)
    features, held_out, labels, held_out_labels = my_examples(seed)
    zeros = {"coef": np.zeros((10, 64)), "intercept": np.zeros(10)}
    model = classifier(me.fetch(initial=zeros), seed)
    for _ in range(5):
        model.partial_fit(features, labels)
    me.upload({"coef": model.coef_, "intercept": model.intercept_}, num_examples=len(labels))
    print("the new aggregate is number", me.wait(poll=0.2).number)
    accuracy = classifier(me.fetch()).score(held_out, held_out_labels)
    me.report_score(num_examples=len(held_out_labels), accuracy=accuracy)


if __name__ == "__main__":
    main(*sys.argv[1:])
