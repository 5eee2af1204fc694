"""What hostile clients send, given everything that the honest ones send in the same round.

All values are differences from the parent, in float64, a client in each row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laboratory.errors import BadArgument

Differences = NDArray[np.float64]

#: The default threshold of `norm_filtered_mean`.
THRESHOLD = 3.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What an attacker knows.

    Parameters
    ----------
    honest : (h, p) float64
        The honest clients' differences.
    own : (k, p) float64
        What the hostile clients would send if they were honest.
    poisoned : (k, p) float64, optional
        What they would send if they were honest and trained on false labels.
    """

    honest: Differences
    own: Differences
    poisoned: Differences | None = None

    @property
    def mean(self) -> Differences:
        """The mean of the honest differences."""
        return np.asarray(self.honest.mean(axis=0), np.float64)

    def repeat(self, difference: Differences) -> Differences:
        """Return the same difference for each hostile client."""
        return np.repeat(difference[None], len(self.own), axis=0)


#: Returns what each hostile client sends: (k, p) differences from the parent.
Attack = Callable[[Scene], Differences]


def sign_flip(scene: Scene) -> Differences:
    """Send the opposite of the own difference."""
    return -scene.own


def tenfold_sign_flip(scene: Scene) -> Differences:
    """Send ten times the opposite of the own difference."""
    return -10.0 * scene.own


def label_flip(scene: Scene) -> Differences:
    """Train on false labels.

    Raises
    ------
    BadArgument
        If the scene has no updates that were trained so.
    """
    if scene.poisoned is None:
        raise BadArgument(
            "the attack 'labels' needs poison: a function that returns a client's data with false labels"
        )
    return scene.poisoned


def a_little_is_enough(scene: Scene) -> Differences:
    """Send the honest mean, moved by 1.5 standard deviations in each coordinate.

    Baruch et al., *A Little Is Enough*, NeurIPS 2019. Their formula gives 0 deviations for two of ten
    clients, which would be no attack.
    """
    return scene.repeat(scene.mean - 1.5 * scene.honest.std(axis=0))


def inner_product_manipulation(scene: Scene) -> Differences:
    """Send half the opposite of the honest mean. Xie et al., *Fall of Empires*, UAI 2019."""
    return scene.repeat(-0.5 * scene.mean)


def min_max(scene: Scene) -> Differences:
    """Move the honest mean as far as the largest distance between two honest updates permits.

    Shejwalkar and Houmansadr, *Manipulating the Byzantine*, NDSS 2021, section V, against the standard
    deviation.
    """
    limit = _squared_distances(scene.honest).max()
    return _furthest(scene, lambda squares: bool(squares.max() <= limit))


def min_sum(scene: Scene) -> Differences:
    """As `min_max`, with the sums of squared distances instead of the largest one."""
    limit = _squared_distances(scene.honest).sum(axis=1).max()
    return _furthest(scene, lambda squares: bool(squares.sum() <= limit))


def inside_the_threshold(scene: Scene) -> Differences:
    """Send the opposite of the honest mean, as long as `norm_filtered_mean` just accepts."""
    norms, k = np.linalg.norm(scene.honest, axis=1), len(scene.own)

    def accepted(length: float) -> bool:
        seen = np.concatenate([norms, np.full(k, length)])
        deviations = np.abs(seen - np.median(seen))
        bound = 0.999 * THRESHOLD * np.median(deviations)
        return bool(0.6745 * np.abs(length - np.median(seen)) <= bound)

    length = _largest(accepted, 50.0 * float(np.median(norms)))
    return scene.repeat(-length * scene.mean / max(float(np.linalg.norm(scene.mean)), 1e-30))


def the_parent(scene: Scene) -> Differences:
    """Send the parent itself."""
    return np.zeros_like(scene.own)


#: The attacks by their names, which are also those in benchmarks/learning.md.
ATTACKS: dict[str, Attack] = {
    "flip": sign_flip,
    "flip x10": tenfold_sign_flip,
    "labels": label_flip,
    "ALIE": a_little_is_enough,
    "IPM": inner_product_manipulation,
    "min-max": min_max,
    "min-sum": min_sum,
    "inside": inside_the_threshold,
    "parent": the_parent,
}


def _squared_distances(rows: Differences) -> Differences:
    return np.array([np.square(row - rows).sum(axis=1) for row in rows], np.float64)


def _furthest(scene: Scene, passes: Callable[[Differences], bool]) -> Differences:
    """Return the update furthest from the honest mean that still passes, for each hostile client."""
    deviation = -scene.honest.std(axis=0)

    def accepted(factor: float) -> bool:
        candidate = scene.mean + factor * deviation
        return passes(np.square(candidate - scene.honest).sum(axis=1))

    return scene.repeat(scene.mean + _largest(accepted, 100.0) * deviation)


def _largest(accepted: Callable[[float], bool], limit: float) -> float:
    """Return by bisection the largest number below the limit that is accepted."""
    low, high = 0.0, limit
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if accepted(middle) else (low, middle)
    return low
