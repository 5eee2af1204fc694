"""The privacy account, compared with the exact Gaussian epsilon of Google's dp_accounting.

It runs in the interpreter that ORACLES_PYTHON names.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from aggregation.privacy.accounting import charge, epsilon
from aggregation.privacy.settings import DifferentialPrivacy
from tests.examples.test_examples import ROOT

#: How far an epsilon may be above theirs, and the error of their root search.
ABOVE, THEIR_ERROR = 1e-6, 1e-11

MULTIPLIERS = (0.3, 0.5, 0.7, 1.0, 1.7, 3.0, 10.0, 50.0, 400.0)
ROUNDS = (1, 2, 7, 30, 200, 1000)
DELTAS = (1e-12, 1e-9, 1e-7, 1e-6, 1e-5, 1e-3, 1e-2, 0.1)
GRID = [
    (z, rounds, delta)
    for z, rounds, delta in itertools.product(MULTIPLIERS, ROUNDS, DELTAS)
    if rounds / z**2 < 30
]


def ours(z: float, rounds: int, delta: float) -> float:
    """Return the epsilon of some rounds by the account that the aggregator keeps."""
    settings = DifferentialPrivacy(
        clip_norm=1.0, noise_multiplier=z, cohort=100, delta=delta, max_epsilon=50.0
    )
    mu_squared = 0.0
    for _ in range(rounds):
        mu_squared += charge(settings, 10**6)
    return epsilon(mu_squared, delta)


def epsilons_of(accounts: list[tuple[float, float]]) -> Any:
    """Return what dp_accounting computes; skip where it is not installed."""
    python = os.environ.get("ORACLES_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-m", "tests.examples.gaussian_epsilons"],
        input=json.dumps(accounts),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if "ModuleNotFoundError" in done.stderr and "ORACLES_PYTHON" not in os.environ:
        pytest.skip(done.stderr.splitlines()[-1])
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_epsilon_is_never_below_theirs_and_at_most_a_millionth_above() -> None:
    """So it is for rounds with noise from 0.3 to 400, 1 to 1000 rounds, and delta from 1e-12 to 0.1.

    The account is a sum of charges, as it is kept.
    """
    theirs = epsilons_of([(rounds / z**2, delta) for z, rounds, delta in GRID])
    for case, exact in zip(GRID, theirs, strict=True):
        assert exact - THEIR_ERROR <= ours(*case) <= exact + ABOVE, case
