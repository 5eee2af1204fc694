"""Server optimizers with one learning rate for all elements: `sgd` and `fedavgm`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregation.arguments import number
from aggregation.optimizers.base import Float64s, Optimizer, register


@register
@dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer):
    """Scales the pseudo-gradient: ``step = eta * gradient``.

    FedOpt with SGD as the server's optimizer: Reddi et al., arXiv 2003.00295, Section 2, Algorithm 1.
    With ``eta = 1`` the aggregate is the rule's result. A smaller value makes smaller steps, which helps
    if few clients of many take part in a round.

    Parameters
    ----------
    eta : float
        The server's learning rate.
    """

    name = "sgd"

    eta: float = 1.0

    def __post_init__(self) -> None:
        number("eta", self.eta, above=0.0)

    def step(self, gradient: Float64s, state: Float64s) -> tuple[Float64s, Float64s]:
        return np.multiply(gradient, self.eta, out=gradient), state


@register
@dataclass(frozen=True, kw_only=True)
class FedAvgM(Optimizer):
    """Adds momentum: ``m = beta * m + gradient``, ``step = eta * m``.

    Hsu, Qi and Brown, *Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification*, arXiv 1909.06335, FedAvgM: ``v <- beta v + dw``, ``w <- w - v``, where ``dw`` is
    the negated pseudo-gradient, and ``eta`` is 1. The momentum starts at zero. It is not scaled by
    ``1 - beta``, so that a constant gradient is taken in steps of ``eta / (1 - beta)`` in the end.

    Parameters
    ----------
    eta : float
        The server's learning rate.
    beta : float
        The momentum; the paper tries 0.7, 0.9, 0.97, 0.99 and 0.997.
    """

    name = "fedavgm"
    slots = 1

    eta: float = 1.0
    beta: float = 0.9

    def __post_init__(self) -> None:
        number("eta", self.eta, above=0.0)
        number("beta", self.beta, at_least=0.0, below=1.0)

    def step(self, gradient: Float64s, state: Float64s) -> tuple[Float64s, Float64s]:
        momentum = state[:, 0]
        np.multiply(momentum, self.beta, out=momentum)
        np.add(momentum, gradient, out=momentum)
        return np.multiply(momentum, self.eta, out=gradient), state
