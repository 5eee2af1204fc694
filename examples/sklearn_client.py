"""A linear classifier of scikit-learn, trained for one round on a share of its handwritten digits.

    python -m examples.sklearn_client BUCKET MODEL_ID CLIENT_ID

The model has two float64 tensors, "coef" of shape (10, 64) and "intercept" of shape (10,).
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from federated_client import Bucket, Client, NotThere


def my_examples(seed):
    """Stands for what only this client has: 300 of the digits; a quarter is held out."""
    features, labels = load_digits(return_X_y=True)
    mine = np.random.default_rng(seed).choice(len(labels), 300, replace=False)
    return train_test_split(features[mine] / 16, labels[mine], random_state=seed)


def classifier(weights, seed=0):
    """A classifier that goes on from these weights."""
    model = SGDClassifier(loss="log_loss", random_state=seed)
    model.classes_ = np.arange(10)
    model.coef_, model.intercept_ = weights["coef"].copy(), weights["intercept"].copy()
    model.t_ = 1.0
    return model


def main(bucket, model_id, client_id):
    """Fetch, train, upload, wait, report."""
    me = Client(Bucket(bucket), model_id=int(model_id), client_id=client_id)
    seed = int(client_id[-4:], 16)
    features, held_out, labels, held_out_labels = my_examples(seed)
    try:
        weights = me.fetch()
    except NotThere:  # The first round starts from zero.
        weights = {"coef": np.zeros((10, 64)), "intercept": np.zeros(10)}
    model = classifier(weights, seed)
    for _ in range(5):
        model.partial_fit(features, labels)
    update = {"coef": model.coef_, "intercept": model.intercept_}
    me.upload(update, num_examples=len(labels))
    print("uploaded; waiting for the round")
    print("the new aggregate is number", me.wait(poll=0.2).number)
    accuracy = classifier(me.fetch()).score(held_out, held_out_labels)
    me.report_score(num_examples=len(held_out_labels), accuracy=float(accuracy))
    print(f"it is right about {accuracy:.0%} of my own digits")


if __name__ == "__main__":
    main(*sys.argv[1:])
