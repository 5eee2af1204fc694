"""The server optimizers, compared with torch.optim and optax where the definitions can be made equal.

torch.optim has no Yogi; optax's Adagrad has its epsilon below the root. Adam and Yogi are made equal to
Algorithm 2 of Reddi et al. by a second moment that starts at tau squared, and by a learning rate and an
epsilon for each step that cancel the bias correction.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest

import aggregation
from tests.examples.oracles import result_of

ARGUMENTS: dict[str, dict[str, float]] = {
    "sgd": {"eta": 0.3},
    "fedavgm": {"eta": 0.3, "beta": 0.8},
    "fedadagrad": {"eta": 0.3, "tau": 0.01},
    "fedadam": {"eta": 0.3, "beta1": 0.7, "beta2": 0.95, "tau": 0.01},
    "fedyogi": {"eta": 0.3, "beta1": 0.7, "beta2": 0.95, "tau": 0.01},
}

#: The optimizers that each library has.
COMPARED = [
    *(("torch", name) for name in ("sgd", "fedavgm", "fedadagrad", "fedadam")),
    *(("optax", name) for name in ("sgd", "fedavgm", "fedadam", "fedyogi")),
]


@pytest.fixture(scope="module")
def rounds() -> dict[str, Any]:
    """Return a parent and the results of the rule in six rounds."""
    parent, *results = np.random.default_rng(3).normal(size=(7, 20)).tolist()
    return {"parent": parent, "results": results}


@cache
def _theirs(library: str, rounds: str) -> dict[str, Any]:
    """Return the aggregates that a library makes, by optimizer."""
    found: dict[str, Any] = result_of(
        f"{library}_optimizers", json.loads(rounds), "EXAMPLES_PYTHON"
    )
    return found


@pytest.mark.parametrize(("library", "optimizer"), COMPARED)
def test_an_optimizer_agrees_with_a_library(
    library: str, optimizer: str, rounds: dict[str, Any]
) -> None:
    """Six rounds give the same aggregates to the last digits of float64."""
    theirs = _theirs(library, json.dumps(rounds))
    parent: Any = {"w": np.array(rounds["parent"])}
    state: Any = None
    for result, expected in zip(rounds["results"], theirs[optimizer], strict=True):
        parent, info = aggregation.aggregate(
            "weighted_mean",
            [{"w": np.array(result)}],
            parent=parent,
            server_optimizer=optimizer,
            optimizer_args=ARGUMENTS[optimizer],
            optimizer_state=state,
            return_info=True,
        )
        state = info.optimizer_state
        np.testing.assert_allclose(parent["w"], expected, rtol=1e-10, atol=1e-12)
