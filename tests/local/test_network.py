"""Tests of the clients' neural network."""

from __future__ import annotations

import numpy as np
import pytest

from local.network import Model, accuracy, gradient, initial_model, probabilities, train


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_gradient_agrees_with_finite_differences(rng: np.random.Generator) -> None:
    """Backpropagation gives the slope of the loss in every tensor."""
    model: Model = {
        name: each.astype(np.float64) for name, each in initial_model(5, 3, rng).items()
    }
    features, labels = rng.standard_normal((6, 5)), rng.integers(0, 3, 6)

    def loss(shifted: Model) -> float:
        likely = probabilities(shifted, features)[np.arange(6), labels]
        return float(-np.log(likely).mean())

    slopes = gradient(model, features, labels)
    step = 1e-6
    for name, tensor in model.items():
        direction = rng.standard_normal(tensor.shape)
        ahead = loss({**model, name: tensor + step * direction})
        behind = loss({**model, name: tensor - step * direction})
        expected = (ahead - behind) / (2 * step)
        assert np.sum(slopes[name] * direction) == pytest.approx(expected, rel=1e-4), name


def test_training_returns_a_new_float32_model(
    rng: np.random.Generator,
) -> None:
    """The given model is not modified, and dtypes and shapes stay the same."""
    model = initial_model(4, 2, rng)
    before = {name: tensor.copy() for name, tensor in model.items()}
    features = rng.standard_normal((20, 4), dtype=np.float32)
    labels = rng.integers(0, 2, 20)
    trained = train(model, features, labels, epochs=1, rng=rng)
    for name, tensor in model.items():
        np.testing.assert_array_equal(tensor, before[name])
        assert trained[name].dtype == np.float32
        assert trained[name].shape == tensor.shape
        assert not np.array_equal(trained[name], tensor)


def test_training_finds_a_boundary_that_is_not_linear(rng: np.random.Generator) -> None:
    """The network learns the exclusive or of two signs."""
    features = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(np.int64)
    model = initial_model(2, 2, rng)
    trained = train(model, features, labels, epochs=60, rng=rng)
    assert accuracy(trained, features, labels) > 0.95
