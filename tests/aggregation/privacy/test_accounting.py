"""The account, compared with 60 digits of mpmath; `tests/examples/test_dp_accounting.py` has Google's."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from aggregation.errors import RuleError
from aggregation.privacy.accounting import (
    CHARGED_FACTOR,
    MAX_ELEMENTS,
    SAMPLER_DISTANCE,
    charge,
    delta,
    delta_of_gaussian,
    epsilon,
    rounds_left,
)
from aggregation.privacy.discrete_gaussian import SIGMA_SQUARED
from tests.aggregation.privacy.privacy_tools import settings

#: How far an epsilon may be above the exact one.
ABOVE = 1e-6


def exact_delta(mu: Any, epsilon: Any) -> Any:
    """Balle and Wang, Theorem 8, in 60 digits."""
    mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
    far = mpmath.ncdf(-mu / 2 - epsilon / mu)
    return mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * far


def exact_epsilon(mu_squared: float, allowed: float) -> float:
    """The root, by bisection in 60 digits."""
    with mpmath.workdps(60):
        mu = mpmath.sqrt(mu_squared)
        if exact_delta(mu, 0) <= allowed:
            return 0.0
        low, high = mpmath.mpf(0), mpmath.mpf(128)
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if exact_delta(mu, middle) <= allowed else (middle, high)
        return float(high)


GRID = list(
    itertools.product((1e-6, 1e-3, 0.04, 0.5, 1.0, 4.0, 20.0, 60.0), (1e-12, 1e-8, 1e-5, 1e-2, 0.1))
)


@pytest.mark.parametrize(("mu_squared", "allowed"), GRID)
def test_an_epsilon_is_the_exact_one_rounded_up(mu_squared: float, allowed: float) -> None:
    """It is never below the exact epsilon, and at most 1e-6 above it."""
    exact = exact_epsilon(mu_squared, allowed)
    assert exact <= epsilon(mu_squared, allowed) <= exact + ABOVE


@given(mu=st.floats(1e-3, 12.0), of=st.floats(0.0, 60.0))
def test_a_delta_is_the_exact_one_rounded_up(mu: float, of: float) -> None:
    """It is never below the exact delta, whatever its size, and above it by the sampler's share only."""
    with mpmath.workdps(60):
        exact = exact_delta(mpmath.sqrt(mpmath.mpf(mu * mu)), of)
    found = delta(mu * mu, of)
    assert exact <= found <= float(exact) * (1 + 1e-7) + 2 * (1 + math.exp(of)) * SAMPLER_DISTANCE


@given(mu=st.floats(1e-3, 6.0), near=st.floats(-6.0, 7.5))
def test_the_closed_form_is_accurate(mu: float, near: float) -> None:
    """Its relative error is below the slack of 1e-8 wherever a delta may be 1e-12 or more."""
    of = max(0.0, (near + mu / 2) * mu)
    with mpmath.workdps(60):
        assert delta_of_gaussian(mu, of) == pytest.approx(float(exact_delta(mu, of)), rel=5e-9)


@settings_of_hypothesis(max_examples=20)
@given(st.lists(st.floats(0.5, 1000.0), min_size=1, max_size=20), st.floats(1e-10, 1e-2))
def test_rounds_compose_by_the_sum_of_their_charges(zs: list[float], allowed: float) -> None:
    """Rounds with different noise have the epsilon of one Gaussian with the root of the sum."""
    total = math.fsum(charge(settings(noise_multiplier=z), 10) for z in zs)
    exact = exact_epsilon(math.fsum(1 / (z * z) for z in zs), allowed)
    found = epsilon(total, allowed)
    assert exact <= found <= exact + ABOVE or found == math.inf


def test_an_account_grows_with_each_round_and_falls_with_delta() -> None:
    """Epsilon is monotone in both of its arguments."""
    by_account = [epsilon(mu_squared / 7, 1e-6) for mu_squared in range(1, 40)]
    by_delta = [epsilon(1.0, 10.0**-power) for power in range(1, 12)]
    assert by_account == sorted(by_account)
    assert by_delta == sorted(by_delta)


def test_an_empty_account_has_epsilon_zero_and_one_beyond_bounds_has_none() -> None:
    """The extremes are 0 and infinity, not an error."""
    assert epsilon(0.0, 1e-6) == 0.0
    assert epsilon(10_000.0, 1e-6) == epsilon(math.inf, 1e-6) == math.inf


def test_the_charge_covers_the_discrete_noise() -> None:
    """The continuous noise of which the discrete one is a rounding has a variance smaller by 9."""
    z = 1.3
    assert charge(settings(noise_multiplier=z), 5) >= SIGMA_SQUARED / (SIGMA_SQUARED - 9) / z**2
    assert charge(settings(noise_multiplier=z), 5) <= (1 + 1e-11) / z**2
    assert CHARGED_FACTOR - 1 > 100 * 9 / SIGMA_SQUARED


@pytest.mark.parametrize("elements", [0, MAX_ELEMENTS + 1])
def test_a_charge_needs_elements_within_its_bound(elements: int) -> None:
    """The bound of the sampler's error holds for so many elements only."""
    with pytest.raises(RuleError, match="optimized elements must be"):
        charge(settings(), elements)


@given(z=st.floats(0.6, 50.0), before=st.floats(0.0, 3.0))
def test_the_rounds_left_are_as_many_as_the_account_permits(z: float, before: float) -> None:
    """One more round would exceed max_epsilon."""
    chosen = settings(noise_multiplier=z)
    rounds, of_one = rounds_left(chosen, 10, before), charge(chosen, 10)
    after = [epsilon(before + number * of_one, chosen.delta) for number in (rounds, rounds + 1)]
    assert after[1] > chosen.max_epsilon
    assert after[0] <= chosen.max_epsilon or rounds == 0
