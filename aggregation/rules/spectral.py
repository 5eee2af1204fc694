"""A rule that leaves out the updates that vary most in a common direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregation.arguments import whole_number
from aggregation.rules.base import Float64s, LinearRule, Selection, Statistics, register
from aggregation.rules.sums import inner_product

#: Steps of the power iteration. What the rule withstands holds after any number of them.
ITERATIONS = 100


@register
@dataclass(frozen=True)
class SpectralFilter(LinearRule):
    """The mean of the updates without the ``f`` that are furthest off in the direction of most variance.

    ``f`` times, the update with the largest squared projection on the top principal component of the
    updates that are left is removed. After divide and conquer: Shejwalkar and Houmansadr, *Manipulating
    the Byzantine*, NDSS 2021, algorithm 2. That removes all of them at once, which lets one hostile
    update hide another, and takes random coordinates. Here, the component is computed over all
    coordinates, from the inner products of the updates.

    Withstands ``f`` hostile updates: with *D* the largest distance between two honest updates, the result
    is within ``2 D sqrt(n) (n - f) / (n - 2 f)`` of the mean of the honest ones. (If an honest update has
    the largest projection, none is longer than ``D (n - f) / (n - 2 f)``, and no update is further from
    the mean than the projections together are long.)

    Parameters
    ----------
    f : int
        Hostile updates that are withstood: a round needs ``2 f + 1`` updates.
    """

    f: int
    name = "spectral_filter"
    needs_gram = True

    def __post_init__(self) -> None:
        whole_number("f", self.f, at_least=0)

    @property
    def min_updates(self) -> int:
        return 2 * self.f + 1

    def max_hostile(self, n: int) -> int:
        return self.f if n >= self.min_updates else 0

    def select(self, statistics: Statistics) -> Selection:
        return Selection.equal(keep_most_central(statistics.inner_products, self.f))


def keep_most_central(gram: Float64s, f: int) -> NDArray[np.intp]:
    """Return the positions of the updates that are left after the ``f`` furthest off were removed."""
    left = np.arange(len(gram))
    for _ in range(f):
        scores = top_projections(gram[np.ix_(left, left)])
        left = np.delete(left, int(np.argmax(scores)))
    return left


def top_projections(gram: Float64s) -> Float64s:
    """Return the squared projections of vectors on their top principal component, up to a factor.

    By power iteration, which starts in the direction of the vector that is furthest from the mean, so that
    the projections together are at least as long as that vector. numpy adds in a fixed order, whereas the
    eigenvectors of a library differ between processors, arbitrarily so where eigenvalues are nearly equal.

    Parameters
    ----------
    gram : (n, n) float64
        Inner products, of differences from any centre.

    Returns
    -------
    (n,) float64
    """
    centred = centred_gram(gram)
    furthest = int(np.argmax(np.diagonal(centred)))
    projections = centred[furthest]
    for _ in range(ITERATIONS):
        length = np.abs(projections).max()
        if length == 0.0:  # All vectors are equal.
            break
        projections = inner_product(centred, projections / length)
    return np.asarray(np.square(projections), np.float64)


def centred_gram(gram: Float64s) -> Float64s:
    """Return the inner products of the differences from the mean, relative to the largest in ``gram``."""
    largest = np.abs(gram).max()
    scaled = gram / largest if largest > 0.0 else gram
    means = scaled.mean(axis=1)
    return np.asarray(scaled - means[:, None] - means + means.mean(), np.float64)
