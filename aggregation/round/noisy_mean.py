"""The mean of masked updates with the noise of differential privacy.

A quantised difference consists of integers, and so does the sum that two parties reveal. The sum is
multiplied by a whole number, so that one client changes it by at most what the noise hides, and the noise
is added before the sum is used for anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregation.engine.arithmetic import clipped_to_range
from aggregation.errors import RuleError
from aggregation.masks.masking import Float64s
from aggregation.masks.settings import MODULUS_HALF, SecureAggregation
from aggregation.masks.unmasking import UnmaskedMean
from aggregation.policies import PolicyMap
from aggregation.privacy.discrete_gaussian import LARGEST, SIGMA_SQUARED
from aggregation.privacy.noise import Noise
from aggregation.privacy.rule import PrivateMean, check_tensors, optimized_elements
from aggregation.privacy.settings import DifferentialPrivacy
from aggregation.rules import Rule
from aggregation.rules.mean import UnweightedMean

#: The share by which a client's difference may be longer than it measured: norms and products are float64.
CLIENT_SLACK = 2.0**-20

#: With factors below this, sums with noise are exact in float64.
_FACTOR_LIMIT = 1 << 21


def noise_factor(private: DifferentialPrivacy, secure: SecureAggregation, elements: int) -> int:
    """Return what a sum of quantised updates is multiplied by before noise is added.

    Clients round to the nearest integer, so that a quantised difference has at most the norm
    ``scale * clip_norm + sqrt(elements) / 2``. The factor is the largest with which that norm is at most
    ``SIGMA / noise_multiplier``, as in `aggregation.privacy.grid`.

    Parameters
    ----------
    private : DifferentialPrivacy
    secure : SecureAggregation
    elements : int
        The number of masked elements, at least 1.

    Raises
    ------
    RuleError
        If the clip norms differ, the grid is too coarse or too fine for the noise, or the noise might
        leave the 32 bits of an element.
    """
    if private.clip_norm != secure.clip_norm:
        raise RuleError(
            f"clients clip to the clip_norm of secure_aggregation, {secure.clip_norm}, and that of "
            f"differential_privacy is {private.clip_norm}: give both the same"
        )
    longest = secure.scale * secure.clip_norm * (1.0 + CLIENT_SLACK) + math.sqrt(elements) / 2.0
    of_noise = math.sqrt(SIGMA_SQUARED) / private.noise_multiplier
    factor = math.floor(of_noise * (1.0 - CLIENT_SLACK) / longest)
    if factor < 1:
        raise RuleError(
            f"a scale of {secure.scale} is too fine for a noise_multiplier of "
            f"{private.noise_multiplier}: use a smaller scale"
        )
    if factor >= _FACTOR_LIMIT:
        raise RuleError(
            f"a scale of {secure.scale} is too coarse for a noise_multiplier of "
            f"{private.noise_multiplier}: use a larger scale"
        )
    if secure.limit * secure.max_cohort + LARGEST / factor >= MODULUS_HALF:
        raise RuleError(
            f"the sum of {secure.max_cohort} updates with noise may need more than 32 bits at scale "
            f"{secure.scale}: use a smaller scale or a smaller max_cohort"
        )
    return factor


def check_noise(rule: Rule, secure: SecureAggregation, policy_map: PolicyMap) -> None:
    """Check that noise can be added to all that a round of masked updates releases.

    Parameters
    ----------
    rule : PrivateMean
    secure : SecureAggregation
    policy_map : PolicyMap
        Of the model in this round.

    Raises
    ------
    RuleError
    """
    if not isinstance(rule, PrivateMean):
        raise TypeError(f"{rule.name} has no noise")
    check_tensors(policy_map)
    noise_factor(rule.settings, secure, optimized_elements(policy_map))


class ReleasedMean(UnweightedMean):
    """The rule for a single row that has its noise already. No model can choose it."""

    is_private = True


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyMean(UnmaskedMean):
    """The sum of quantised updates with noise, divided by a fixed number.

    Parameters
    ----------
    noise : Noise
        Of the round; an element's noise belongs to its position among the masked elements.
    factor : int
        `noise_factor`.
    """

    noise: Noise
    factor: int

    def means(self, begin: int, end: int) -> Float64s:
        noisy = self.total(begin, end).view(np.int32).astype(np.int64) * self.factor
        noisy += self.noise.integers(begin, end - begin)
        # Wrapped with the noise, whatever hostile clients send: the sum is known modulo 2**32 only.
        half = MODULUS_HALF * self.factor
        wrapped = (noisy + half) % (2 * half) - half
        return wrapped.astype(np.float64) / self.divisor

    def converted(self, values: Float64s, dtype: np.dtype[Any]) -> NDArray[Any]:
        return super().converted(clipped_to_range(values, dtype), dtype)


def with_noise(
    mean: UnmaskedMean,
    noise: Noise,
    private: DifferentialPrivacy,
    secure: SecureAggregation,
) -> NoisyMean:
    """Return an unmasked mean with the noise of its round, divided by the cohort of the settings.

    Parameters
    ----------
    mean : UnmaskedMean
    noise : Noise
    private : DifferentialPrivacy
    secure : SecureAggregation

    Raises
    ------
    RuleError
        If the settings do not fit each other.
    """
    elements = sum(run.stop - run.start for run in mean.runs)
    factor = noise_factor(private, secure, elements)
    kept = {each.name: getattr(mean, each.name) for each in fields(mean)}
    divisor = float(secure.scale) * factor * private.cohort
    return NoisyMean(**(kept | {"noise": noise, "factor": factor, "divisor": divisor}))
