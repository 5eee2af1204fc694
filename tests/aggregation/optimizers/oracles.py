"""Each server optimizer again as its paper writes it, in plain numpy: the reference for the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Array = Any  # of float64


def sgd(x: Array, results: Iterable[Array], *, eta: float = 1.0) -> Iterator[Array]:
    """Reddi et al., arXiv 2003.00295, Algorithm 1, with SGD as the server's optimizer."""
    for result in results:
        x = x + eta * (result - x)
        yield x


def fedavgm(
    w: Array, results: Iterable[Array], *, eta: float = 1.0, beta: float = 0.9
) -> Iterator[Array]:
    """Hsu et al., arXiv 1909.06335, FedAvgM: v <- beta v + dw, w <- w - v."""
    v = np.zeros_like(w)
    for result in results:
        dw = w - result
        v = beta * v + dw
        w = w - eta * v
        yield w


def algorithm_2(
    name: str,
    x: Array,
    results: Iterable[Array],
    *,
    eta: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> Iterator[Array]:
    """Reddi et al., arXiv 2003.00295, Algorithm 2, which has no bias correction."""
    m, v = np.zeros_like(x), np.full_like(x, tau**2)
    for result in results:
        delta = result - x
        m = beta1 * m + (1 - beta1) * delta
        if name == "fedadagrad":
            v = v + delta**2
        elif name == "fedyogi":
            v = v - (1 - beta2) * delta**2 * np.sign(v - delta**2)
        elif name == "fedadam":
            v = beta2 * v + (1 - beta2) * delta**2
        x = x + eta * m / (np.sqrt(v) + tau)
        yield x


def trajectory(
    name: str, parent: Array, results: Iterable[Array], arguments: dict[str, float]
) -> list[Array]:
    """Return the aggregates that an optimizer makes from a parent and the rule's results."""
    if name == "sgd":
        return list(sgd(parent, results, **arguments))
    if name == "fedavgm":
        return list(fedavgm(parent, results, **arguments))
    defaults = {"beta1": 0.0} if name == "fedadagrad" else {}
    return list(algorithm_2(name, parent, results, **{**defaults, **arguments}))
