"""Estimators of scikit-learn that predict as before: ``python -m tests.examples.sklearn_estimators``."""

import warnings
from functools import partial
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from federated_client.frameworks import arrays_of
from tests.examples.round_trips import round_trips

FEATURES, LABELS = load_digits(n_class=4, return_X_y=True)

ESTIMATORS = {
    "linear regression": LinearRegression,
    "logistic regression": partial(LogisticRegression, max_iter=20),
    "SGD": partial(SGDClassifier, random_state=0),
    "network": partial(MLPClassifier, (8,), max_iter=5, random_state=0),
    "naive Bayes": GaussianNB,
    "k-means": partial(KMeans, 4, n_init=1, random_state=0),
    "scaler": StandardScaler,
    "PCA": partial(PCA, 3, svd_solver="full"),
}


def fitted(estimator: Any, first: int) -> Any:
    """Return an estimator that has seen a half of the digits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # They need not converge.
        return estimator().fit(FEATURES[first::2], LABELS[first::2])


def outcome(estimator: Any) -> Any:
    """Return what an estimator makes of the digits."""
    if hasattr(estimator, "predict"):
        return estimator.predict(FEATURES)
    return estimator.transform(FEATURES)


def main() -> None:
    """Compare what the estimators have learned, its types, and what they make of data."""
    cases = {
        name: (partial(fitted, each, 0), partial(fitted, each, 1))
        for name, each in ESTIMATORS.items()
    }
    for name, sent, found in round_trips(cases):
        learned = arrays_of(sent)
        for attribute, array in arrays_of(found).items():
            assert np.array_equal(array, learned[attribute]), (name, attribute)
        for attribute, value in vars(sent).items():
            if isinstance(value, np.ndarray | np.generic | list):
                assert type(getattr(found, attribute)) is type(value), (name, attribute)
        # The memory layout of a matrix decides in which order BLAS adds.
        np.testing.assert_allclose(outcome(found), outcome(sent), 1e-9, 1e-9, err_msg=name)


if __name__ == "__main__":
    main()
