"""The privacy account, compared with the exact Gaussian epsilon of Google's dp_accounting.

It runs in the interpreter that ORACLES_PYTHON names.
"""

from __future__ import annotations

import itertools

from aggregation.privacy.accounting import charge, epsilon
from aggregation.privacy.settings import DifferentialPrivacy
from tests.examples.oracles import result_of

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


def test_epsilon_is_never_below_theirs_and_at_most_a_millionth_above() -> None:
    """This holds for noise from 0.3 to 400, 1 to 1000 rounds, and delta from 1e-12 to 0.1.

    The account is a sum of charges, as it is kept.
    """
    theirs = result_of("gaussian_epsilons", [(rounds / z**2, delta) for z, rounds, delta in GRID])
    for case, exact in zip(GRID, theirs, strict=True):
        assert exact - THEIR_ERROR <= ours(*case) <= exact + ABOVE, case
