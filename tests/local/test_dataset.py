"""Tests of the distribution of the digits over the clients."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from local.dataset import Digits, Examples, deal_digits


def rows(*parts: Examples) -> list[tuple[float, ...]]:
    """Return all examples as comparable rows, sorted."""
    return sorted(
        (*map(float, features), float(label))
        for part in parts
        for features, label in zip(part.features, part.labels, strict=True)
    )


def shares(digits: Digits) -> NDArray[np.float64]:
    """Return the share of each class in each client's training examples; shape (n_clients, n_classes)."""
    counts = np.array([np.bincount(part.labels, minlength=10) for part in digits.training])
    result: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("n_clients", [3, 10, 50])
def test_every_example_is_used_once(n_clients: int) -> None:
    """The training, held-out and test examples together are the data set."""
    from sklearn.datasets import load_digits  # Takes a second to import.

    features, labels = load_digits(return_X_y=True)
    whole = Examples((features / 16).astype(np.float32), labels)
    dealt = deal_digits(n_clients, np.random.default_rng(1))
    assert len(dealt.training) == len(dealt.held_out) == n_clients
    assert rows(*dealt.training, *dealt.held_out, dealt.test) == rows(whole)
    assert min(map(len, dealt.training)) >= 8
    assert min(map(len, dealt.held_out)) >= 2


def test_clients_have_different_classes() -> None:
    """Each client has many examples of some classes and few of others; the test set has all classes."""
    dealt = deal_digits(10, np.random.default_rng(1))
    assert np.all(shares(dealt).max(axis=1) > 0.2)
    assert np.all(shares(dealt).min(axis=1) < 0.02)
    assert np.all(np.bincount(dealt.test.labels) > 20)


def test_high_concentration_distributes_evenly() -> None:
    """With a high concentration, every client has all classes in similar shares."""
    dealt = deal_digits(10, np.random.default_rng(1), concentration=1000)
    assert np.all(shares(dealt).max(axis=1) < 0.2)
    assert np.all(shares(dealt).min(axis=1) > 0.02)
