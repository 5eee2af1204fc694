"""The account of a model's rounds: the exact composition of Gaussian mechanisms.

A round whose noise has ``z`` times the standard deviation of its sensitivity is ``1 / z``-GDP, and
rounds compose to ``mu``-GDP with ``mu**2 = sum 1 / z_t**2``: Dong, Roth and Su, *Gaussian Differential
Privacy*, 2019 (arXiv 1905.02383), Corollary 3.3. That is true even if a ``z_t`` depends on earlier
results: Smith and Thakurta, *Fully Adaptive Composition for Gaussian Differential Privacy*, 2022 (arXiv
2210.17520). The account of a model is therefore one number, ``mu_squared``.
"""

from __future__ import annotations

import math

from aggregation.arguments import number, whole_number
from aggregation.privacy.settings import DifferentialPrivacy

#: The most elements that a round may release. An account has fewer than 2**28 rounds: each adds at least
#: 1e-6, and an account above 200 has no epsilon.
MAX_ELEMENTS = 2**42

#: The total variation distance between what is drawn and a discrete Gaussian, for all elements of all
#: rounds of an account: at most 2**-271 for an element (`aggregation.privacy.discrete_gaussian`).
SAMPLER_DISTANCE = 2.0**-201

#: A larger epsilon is reported as infinite.
LARGEST_EPSILON = 100.0

#: What is charged beyond ``1 / z**2``: the difference between a discrete and a continuous Gaussian is
#: below 2**-47, and the rest covers the rounding of sums of charges.
CHARGED_FACTOR = 1.0 + 2.0**-40

#: A bound of the relative error of `delta_of_gaussian`, and what is added to an epsilon.
_DELTA_SLACK, _EPSILON_SLACK = 1e-8, 1e-9

#: From here on the asymptotic series of Mills' ratio is exact in float64.
_ASYMPTOTIC_FROM = 25.0


def charge(settings: DifferentialPrivacy, elements: int) -> float:
    """Return what one round adds to the account.

    Parameters
    ----------
    settings : DifferentialPrivacy
    elements : int
        The number of elements that are optimized, and hence released with noise.

    Returns
    -------
    float
        The charge for what is really released: rounding to the grid is towards zero and lengthens no
        difference, and the charge is raised by the bound for the discrete noise.

    Raises
    ------
    RuleError
        If there are no elements, or more than `MAX_ELEMENTS`.
    """
    whole_number("the number of optimized elements", elements, at_least=1)
    number("the number of optimized elements", elements, at_most=MAX_ELEMENTS)
    return CHARGED_FACTOR / settings.noise_multiplier**2


def epsilon(mu_squared: float, delta: float) -> float:
    """Return the epsilon of an account, rounded up.

    Parameters
    ----------
    mu_squared : float
        The sum of the charges of all rounds.
    delta : float

    Returns
    -------
    float
        The rounds together are (epsilon, delta)-differentially private. Infinite if it is above
        `LARGEST_EPSILON`.
    """
    if mu_squared <= 0.0:
        return 0.0
    if not math.isfinite(mu_squared):
        return math.inf

    mu = math.sqrt(mu_squared)
    if _is_enough(0.0, mu, delta):
        return 0.0
    low, high = 0.0, LARGEST_EPSILON
    if not _is_enough(high, mu, delta):
        return math.inf
    while low < (middle := (low + high) / 2.0) < high:
        low, high = (low, middle) if _is_enough(middle, mu, delta) else (middle, high)
    return high + _EPSILON_SLACK * (1.0 + high)


def delta(mu_squared: float, epsilon: float) -> float:
    """Return the delta of an account for an epsilon, rounded up."""
    of_sampler = (1.0 + math.exp(epsilon)) * SAMPLER_DISTANCE
    if mu_squared <= 0.0:
        return of_sampler
    exact = delta_of_gaussian(math.sqrt(mu_squared), epsilon)
    return min(1.0, exact * (1.0 + _DELTA_SLACK) + of_sampler)


def delta_of_gaussian(mu: float, epsilon: float) -> float:
    """Return the delta of a Gaussian mechanism, in float64.

    ``Phi(mu / 2 - epsilon / mu) - e**epsilon Phi(-mu / 2 - epsilon / mu)``: Balle and Wang, *Improving the
    Gaussian Mechanism for Differential Privacy*, ICML 2018 (arXiv 1805.06530), Theorem 8. Both terms are
    written as multiples of the density at the first argument, because the difference of small terms would
    lose all digits, and the exponential would overflow.
    """
    near, far = epsilon / mu - mu / 2.0, epsilon / mu + mu / 2.0
    density = math.exp(-near * near / 2.0) / math.sqrt(2.0 * math.pi)
    if near > 0.0:
        return density * (_mills_ratio(near) - _mills_ratio(far))
    return math.erfc(near / math.sqrt(2.0)) / 2.0 - density * _mills_ratio(far)


def rounds_left(settings: DifferentialPrivacy, elements: int, mu_squared: float = 0.0) -> int:
    """Return how many more rounds with these settings an account permits.

    Parameters
    ----------
    settings : DifferentialPrivacy
    elements : int
    mu_squared : float
        The sum of the charges of the rounds before.
    """
    of_one = charge(settings, elements)

    def permits(rounds: int) -> bool:
        return epsilon(mu_squared + rounds * of_one, settings.delta) <= settings.max_epsilon

    high = 1
    while permits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if permits(middle) else (low, middle)
    return low


def _is_enough(epsilon: float, mu: float, allowed: float) -> bool:
    return delta(mu * mu, epsilon) <= allowed


def _mills_ratio(t: float) -> float:
    """Return ``Phi(-t) / phi(t)``, for positive t."""
    if t < _ASYMPTOTIC_FROM:
        return math.sqrt(math.pi / 2.0) * math.exp(t * t / 2.0) * math.erfc(t / math.sqrt(2.0))
    term = total = 1.0
    for factor in range(1, 17, 2):
        term *= -factor / (t * t)
        total += term
    return total / t
