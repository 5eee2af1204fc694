"""The outcome of a rule's selection, and mixtures of updates."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregation.errors import RuleError

Float64s = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Linear combinations of updates: row ``i`` is ``sum_k coefficients[i, k] * update[k] / divisor``.

    The divisor is kept apart because whole coefficients and their sums are exact, and quotients are not.

    Parameters
    ----------
    coefficients : (m, n) float64
    divisor : float
    """

    coefficients: Float64s
    divisor: float = 1.0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Mixture)
            and self.divisor == other.divisor
            and np.array_equal(self.coefficients, other.coefficients)
        )

    def __hash__(self) -> int:
        return hash((self.divisor, self.coefficients.shape))

    def after(self, first: Mixture) -> Mixture:
        """Return this mixture of the rows of another one, as a mixture of the updates."""
        product = ordered_product(self.coefficients, first.coefficients)
        return Mixture(product, self.divisor * first.divisor)

    def gram(self, gram: Float64s) -> Float64s:
        """Return the (m, m) inner products of the rows, given those of the n updates."""
        weights = self.coefficients / self.divisor
        with np.errstate(over="ignore", invalid="ignore"):
            product = ordered_product(ordered_product(weights, gram), weights.T)
            return np.asarray((product + product.T) / 2.0, np.float64)

    def rows(self, block: NDArray[Any], centre: Float64s | None) -> Float64s:
        """Return the (m, c) mixed rows of a block of the updates' values, in float64.

        Elementwise operations in a fixed order: the bits of an element must not depend on the
        neighbouring elements.

        Parameters
        ----------
        block : (n, c)
        centre : (c,) float64, optional
            Subtracted from each row first.
        """
        differences = block.astype(np.float64)
        if centre is not None:
            np.subtract(differences, centre, out=differences)
        mixed = np.zeros((len(self.coefficients), block.shape[1]))
        term = np.empty(block.shape[1])
        for total, coefficients in zip(mixed, self.coefficients, strict=True):
            for row in np.flatnonzero(coefficients):
                if coefficients[row] == 1.0:
                    np.add(total, differences[row], out=total)
                else:
                    np.multiply(differences[row], coefficients[row], out=term)
                    np.add(total, term, out=total)
        return np.divide(mixed, self.divisor, out=mixed)

    def to_json(self) -> list[Any]:
        """Return the mixture as JSON-able data, compressed: most coefficients are equal."""
        data = np.ascontiguousarray(self.coefficients, "<f8").tobytes()
        text = b64encode(zlib.compress(data, 1)).decode()
        return [len(self.coefficients), self.divisor, text]

    @classmethod
    def from_json(cls, saved: list[Any]) -> Mixture:
        """Return the mixture that `to_json` gave."""
        rows, divisor, text = saved
        data = np.frombuffer(zlib.decompress(b64decode(text)), "<f8")
        return cls(data.reshape(rows, -1).copy(), divisor)


def ordered_product(a: Float64s, b: Float64s) -> Float64s:
    """Return the matrix product, each element summed in order.

    BLAS adds in an order that depends on the processor, and that must not decide between updates.

    Parameters
    ----------
    a : (m, n) float64
    b : (n, p) float64

    Returns
    -------
    (m, p) float64
    """
    total = np.zeros((len(a), b.shape[1]))
    for column, row in zip(a.T, b, strict=True):
        used = np.flatnonzero(column)
        total[used] += np.multiply.outer(column[used], row)
    return total


@dataclass(frozen=True)
class Selection:
    """Which updates are combined, and with which coefficients.

    Parameters
    ----------
    members : tuple of int
        Positions of the updates that take part, ascending. Only these are read again.
    coefficients : tuple of float
        The coefficient of each member. Of a rule that is not linear, those of the mean of the rows that
        it combines.
    total : float
        The divisor of the coefficients: ``coefficients / total`` are the scaling factors. They are kept
        apart because counts and their sum are exact in float64 and their quotients are not.
    mixture : Mixture, optional
        Mixes the members before a rule that is not linear combines the rows.
    of_mixed : Selection, optional
        What that rule selected of the mixed rows.
    cosines : tuple of (float or None), optional
        For each of all updates, see `with_cosines`.

    Raises
    ------
    RuleError
        If there are no members.
    """

    members: tuple[int, ...]
    coefficients: tuple[float, ...]
    total: float
    mixture: Mixture | None = None
    of_mixed: Selection | None = None
    cosines: tuple[float | None, ...] | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise RuleError("with these arguments, the rule leaves out every update of this round")

    @classmethod
    def equal(cls, members: NDArray[np.intp] | range) -> Selection:
        """Return a selection in which each member has the same weight."""
        chosen = tuple(sorted(int(member) for member in members))
        return cls(chosen, (1.0,) * len(chosen), float(len(chosen)))

    @classmethod
    def weighted(cls, coefficients: Float64s, total: float | None = None) -> Selection:
        """Return all updates whose coefficient is not zero; ``total`` is by default their sum."""
        members = np.flatnonzero(coefficients)
        chosen = tuple(float(coefficients[member]) for member in members)
        return cls(
            tuple(int(m) for m in members), chosen, float(sum(chosen)) if total is None else total
        )

    def of_updates(self, mixture: Mixture, *, linear: bool) -> Selection:
        """Return this selection of mixed rows as a selection of updates.

        Parameters
        ----------
        mixture : Mixture
        linear : bool
            Whether the rule is linear. If so, its mean of mixtures is one mean of updates.
        """
        rows = Mixture(mixture.coefficients[list(self.members)], mixture.divisor)
        weights = ordered_product(np.asarray([self.coefficients]), rows.coefficients)[0]
        used = np.flatnonzero(weights if linear else rows.coefficients.any(axis=0))
        if not used.size:  # All rows are the centre, and so is the result.
            used = np.arange(1)
        return Selection(
            members=tuple(int(member) for member in used),
            coefficients=tuple(float(weight) for weight in weights[used]),
            total=self.total * mixture.divisor,
            mixture=None if linear else Mixture(rows.coefficients[:, used], rows.divisor),
            of_mixed=None if linear else self,
        )

    def scaling_factors(self, n: int) -> list[float]:
        """Return the share of each of ``n`` updates in the result: 0 for those that are left out."""
        shares = [0.0] * n
        for member, coefficient in zip(self.members, self.coefficients, strict=True):
            if member < n:  # Further members are bases of late updates.
                shares[member] = coefficient / self.total
        return shares

    def with_cosines(self, gram: Float64s) -> Selection:
        """Return this selection with the cosine of each update's difference and the aggregate's.

        The aggregate's difference from the parent is ``sum_k coefficients[k] * d_k / total``, exactly
        so for a linear rule. A cosine is None if one of the two differences is zero.

        Parameters
        ----------
        gram : (n, n) float64
            Inner products of all updates' differences from the parent.
        """
        weights = np.zeros(len(gram))
        weights[list(self.members)] = np.asarray(self.coefficients) / self.total
        # Relative to the longest, so that no product overflows.
        largest = max(float(np.diagonal(gram).max()), np.finfo(float).tiny)
        scaled = gram / largest
        with_aggregate = np.sum(scaled * weights, axis=1)
        squares = np.diagonal(scaled) * np.sum(weights * with_aggregate)
        cosines = tuple(
            round(float(np.clip(product / np.sqrt(square), -1.0, 1.0)), 6) if square > 0 else None
            for product, square in zip(with_aggregate, squares, strict=True)
        )
        return replace(self, cosines=cosines)

    def to_json(self) -> list[Any]:
        """Return the selection as JSON-able data."""
        return [
            list(self.members),
            list(self.coefficients),
            self.total,
            self.mixture and self.mixture.to_json(),
            self.of_mixed and self.of_mixed.to_json(),
            self.cosines and list(self.cosines),
        ]

    @classmethod
    def from_json(cls, saved: list[Any]) -> Selection:
        """Return the selection that `to_json` gave."""
        members, coefficients, total, mixture, of_mixed, cosines = saved
        return cls(
            members=tuple(members),
            coefficients=tuple(coefficients),
            total=total,
            mixture=Mixture.from_json(mixture) if mixture else None,
            of_mixed=cls.from_json(of_mixed) if of_mixed else None,
            cosines=tuple(cosines) if cosines else None,
        )
