"""How the digits are dealt out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from local.dataset import Digits, Examples, deal_digits


def rows(*parts: Examples) -> list[tuple[float, ...]]:
    """All examples as comparable rows, in order."""
    return sorted(
        (*map(float, features), float(label))
        for part in parts
        for features, label in zip(part.features, part.labels, strict=True)
    )


def shares(digits: Digits) -> np.ndarray:
    """Of each class in each client's training part; shape (n_clients, n_classes)."""
    counts = np.array([np.bincount(part.labels, minlength=10) for part in digits.training])
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_clients", [3, 10, 50])
def test_every_example_is_dealt_once(n_clients: int) -> None:
    """Training parts, held-out parts and test set are the whole data set, none of it twice."""
    features, labels = load_digits(return_X_y=True)
    whole = Examples((features / 16).astype(np.float32), labels)
    dealt = deal_digits(n_clients, np.random.default_rng(1))
    assert len(dealt.training) == len(dealt.held_out) == n_clients
    assert rows(*dealt.training, *dealt.held_out, dealt.test) == rows(whole)
    assert min(map(len, dealt.training)) >= 8
    assert min(map(len, dealt.held_out)) >= 2


def test_the_clients_see_different_classes() -> None:
    """Each client has much of some classes and next to nothing of others; the test set has all."""
    dealt = deal_digits(10, np.random.default_rng(1))
    assert np.all(shares(dealt).max(axis=1) > 0.2)
    assert np.all(shares(dealt).min(axis=1) < 0.02)
    assert np.all(np.bincount(dealt.test.labels) > 20)


def test_a_high_concentration_deals_evenly() -> None:
    """It is the concentration that makes the parts uneven."""
    dealt = deal_digits(10, np.random.default_rng(1), concentration=1000)
    assert np.all(shares(dealt).max(axis=1) < 0.2)
    assert np.all(shares(dealt).min(axis=1) > 0.02)
