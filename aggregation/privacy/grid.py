"""The integer grid that differences are rounded to, so that sum and noise are exact."""

from __future__ import annotations

import math

import numpy as np

from aggregation.privacy.discrete_gaussian import SIGMA_SQUARED
from aggregation.privacy.settings import DifferentialPrivacy
from aggregation.rules.base import Float64s

#: The share by which a measured norm may be too small, doubled. Norms are sums of squares in float64, whose
#: products over the whole model are rounded to 40 bits.
NORM_SLACK = 2.0**-24


def grid_step(settings: DifferentialPrivacy) -> float:
    """Return the unit of the grid: the noise has the parameter SIGMA in it."""
    return settings.noise_multiplier * settings.clip_norm / math.sqrt(SIGMA_SQUARED)


def largest_integer(settings: DifferentialPrivacy) -> int:
    """Return the bound of the Euclidean norm of a clipped difference on the grid, rounded up."""
    return math.ceil(math.sqrt(SIGMA_SQUARED) / settings.noise_multiplier)


def clip_factors(norms: Float64s, settings: DifferentialPrivacy) -> Float64s:
    """Return what each difference is multiplied by, so that none is longer than ``clip_norm``.

    Parameters
    ----------
    norms : (n,) float64
        The measured norms.
    """
    limit = settings.clip_norm * (1.0 - NORM_SLACK)
    return np.asarray(np.minimum(1.0, limit / np.maximum(norms, limit)), np.float64)


def to_grid(differences: Float64s, factor: float, settings: DifferentialPrivacy) -> Float64s:
    """Scale differences and round them towards zero, in place; return whole numbers in float64.

    Rounding towards zero makes no element larger, and so no difference longer: a difference has at most the
    norm ``SIGMA / noise_multiplier`` on the grid.

    Parameters
    ----------
    differences : (n,) float64
        Of one update, overwritten.
    factor : float
        Its clip factor.
    """
    np.multiply(differences, factor / grid_step(settings), out=differences)
    return np.trunc(differences, out=differences)
