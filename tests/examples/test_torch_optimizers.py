"""The server optimizers, compared with torch.optim where the definitions can be made equal.

torch.optim has no Yogi. Its Adam is made equal to Algorithm 2 of Reddi et al. by a second moment that
starts at tau squared, and by a learning rate and an epsilon for each step that cancel the bias correction.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest

import aggregation
from tests.examples.test_examples import PYTHON, ROOT

ARGUMENTS: dict[str, dict[str, float]] = {
    "sgd": {"eta": 0.3},
    "fedavgm": {"eta": 0.3, "beta": 0.8},
    "fedadagrad": {"eta": 0.3, "tau": 0.01},
    "fedadam": {"eta": 0.3, "beta1": 0.7, "beta2": 0.95, "tau": 0.01},
}


@pytest.fixture(scope="module")
def rounds() -> dict[str, Any]:
    """Return a parent and the results of the rule in six rounds."""
    parent, *results = np.random.default_rng(3).normal(size=(7, 20)).tolist()
    return {"parent": parent, "results": results}


@pytest.fixture(scope="module")
def theirs(rounds: dict[str, Any]) -> dict[str, Any]:
    """Return the aggregates that torch.optim makes, by optimizer."""
    command = [PYTHON, "-m", "tests.examples.torch_optimizers"]
    done = subprocess.run(
        command, input=json.dumps(rounds), capture_output=True, text=True, cwd=ROOT
    )
    if "ModuleNotFoundError" in done.stderr and "EXAMPLES_PYTHON" not in os.environ:
        pytest.skip(done.stderr.splitlines()[-1])
    assert not done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("optimizer", ARGUMENTS)
def test_an_optimizer_agrees_with_torch(
    optimizer: str, rounds: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """Six rounds give the same aggregates to the last digits of float64."""
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
