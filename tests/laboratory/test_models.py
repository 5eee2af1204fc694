"""Models go into training and come out of it as they are."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from laboratory import simulate
from laboratory.models import ModelKind, arrays_of

Pair = namedtuple("Pair", "kernel bias")

MODELS: list[tuple[Any, list[str]]] = [
    ({"w": np.ones(2), "b": np.zeros(1, np.float16)}, ["w", "b"]),
    ([np.ones(2), np.zeros((1, 3))], ["arr_0", "arr_1"]),
    ((np.ones(2), np.zeros(1)), ["arr_0", "arr_1"]),
    (np.ones((2, 2)), ["arr_0"]),
    ({"dense": {"kernel": np.ones(2), "bias": np.zeros(1)}}, ["dense/kernel", "dense/bias"]),
    (
        {"layers": [Pair(np.ones(2), np.zeros(1)), Pair(np.ones(3), np.zeros(2))]},
        ["layers/0/0", "layers/0/1", "layers/1/0", "layers/1/1"],
    ),
    ([{"w": np.ones(2)}, {"w": np.zeros(1)}], ["arr_0/w", "arr_1/w"]),
    ({"w": [[1.0, 2.0], [3.0, 4.0]]}, ["w"]),
]


@pytest.mark.parametrize(("model", "names"), MODELS)
def test_a_model_of_arrays_keeps_its_form(model: Any, names: list[str]) -> None:
    """Names follow from the form, and a model of the same form has the given arrays."""
    arrays = arrays_of(model)
    assert list(arrays) == names
    doubled = ModelKind(model).model({name: 2 * array for name, array in arrays.items()})
    assert type(doubled) is type(model)
    again = arrays_of(doubled)
    assert list(again) == names
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], 2 * array)


def test_arrays_are_copies() -> None:
    """Neither the weights that are taken out nor those that are put in share memory with a model."""
    model = {"w": np.ones(2)}
    arrays = arrays_of(model)
    made = ModelKind(model).model(arrays)
    assert not np.shares_memory(arrays["w"], model["w"])
    assert not np.shares_memory(made["w"], arrays["w"])


@pytest.mark.parametrize(
    "estimator",
    [
        SGDClassifier(random_state=0),
        MLPClassifier((5,), solver="sgd", learning_rate_init=0.5, random_state=0),
    ],
    ids=["linear", "network"],
)
def test_estimators_of_scikit_learn_learn(estimator: Any) -> None:
    """An estimator is trained by ``partial_fit`` on each client, and the aggregate is one that predicts."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(120, 6))
    labels = (features @ rng.normal(size=6) > 0).astype(int)
    start = estimator.partial_fit(features[:4], labels[:4], classes=[0, 1])
    before = arrays_of(start)
    parts = [(features[n:100:4], labels[n:100:4]) for n in range(4)]
    history = simulate(
        lambda model, data, rng: (model.partial_fit(*data), len(data[1])),
        parts,
        rounds=12,
        seed=1,
        initial=start,
        evaluate=lambda model: model.score(features[100:], labels[100:]),
    )
    assert type(history.weights) is type(estimator)
    assert history.metrics["score"][-1] >= 0.7
    assert history.rounds[0].clients[0].num_examples == 25
    for name, array in arrays_of(start).items():  # The estimator that was given is not trained.
        np.testing.assert_array_equal(array, before[name])
