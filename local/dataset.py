"""scikit-learn's handwritten digits, distributed unevenly over the clients of a federation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from local.network import Array, Labels

TEST_FRACTION = 0.2
HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True)
class Examples:
    """Rows of features, each with a label."""

    features: Array
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[np.intp]) -> Examples:
        return Examples(self.features[rows], self.labels[rows])


@dataclass(frozen=True, kw_only=True)
class Digits:
    """The examples of each client.

    Attributes
    ----------
    training, held_out : list of Examples
        What each client trains on, and what it evaluates aggregates on.
    test : Examples
        Examples that no client has.
    """

    training: list[Examples]
    held_out: list[Examples]
    test: Examples

    def pooled(self) -> Examples:
        """Return the training examples of all clients together."""
        return Examples(
            np.concatenate([part.features for part in self.training]),
            np.concatenate([part.labels for part in self.training]),
        )


def deal_digits(
    n_clients: int, rng: np.random.Generator, *, concentration: float = 0.5, smallest: int = 10
) -> Digits:
    """Distribute each class over the clients in proportions drawn from a Dirichlet distribution.

    The lower the concentration, the fewer classes dominate a client's examples; Hsu, Qi and Brown,
    "Measuring the effects of non-identical data distribution" (arXiv:1909.06335).

    Parameters
    ----------
    n_clients : int
    rng : numpy.random.Generator
    concentration : float
    smallest : int
        Minimum number of examples of a client. The draw is repeated until every client has them.

    Returns
    -------
    Digits
    """
    from sklearn.datasets import load_digits  # Takes a second to import.

    features, labels = load_digits(return_X_y=True)
    digits = Examples((features / 16).astype(np.float32), labels.astype(np.int64))
    test, rest = _split(digits, TEST_FRACTION, rng)
    parts = _dirichlet_parts(rest.labels, n_clients, concentration, rng)
    while min(map(len, parts)) < smallest:
        parts = _dirichlet_parts(rest.labels, n_clients, concentration, rng)
    split = [_split(rest[rows], HELD_OUT_FRACTION, rng) for rows in parts]
    return Digits(
        training=[training for _, training in split],
        held_out=[held_out for held_out, _ in split],
        test=test,
    )


def _split(
    examples: Examples, fraction: float, rng: np.random.Generator
) -> tuple[Examples, Examples]:
    """Return a random fraction of the examples, and the rest."""
    order = rng.permutation(len(examples))
    size = round(fraction * len(examples))
    return examples[order[:size]], examples[order[size:]]


def _dirichlet_parts(
    labels: Labels, n_clients: int, concentration: float, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    parts: list[list[NDArray[np.intp]]] = [[] for _ in range(n_clients)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(n_clients, concentration))
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, dealt in zip(parts, np.split(rows, cuts), strict=True):
            part.append(dealt)
    return [np.concatenate(part) for part in parts]
