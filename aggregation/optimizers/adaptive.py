"""Server optimizers with a learning rate for each element: `fedadagrad`, `fedadam` and `fedyogi`.

Reddi et al., *Adaptive Federated Optimization*, arXiv 2003.00295, Section 3, Algorithm 2.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from aggregation.arguments import number
from aggregation.optimizers.base import Float64s, Optimizer, register


@dataclass(frozen=True, kw_only=True)
class AdaptiveOptimizer(Optimizer):
    """Base of the three optimizers of Algorithm 2, which differ in the second moment ``v`` alone.

    With the pseudo-gradient ``D``: ``m = beta1 * m + (1 - beta1) * D``, a rule for ``v``, and
    ``step = eta * m / (sqrt(v) + tau)``. There is no bias correction. The first moment
    starts at 0 and the second at tau squared, the least that Algorithm 2 permits.
    """

    slots = 2

    eta: float = 0.1
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        number("eta", self.eta, above=0.0)
        number("beta1", self.beta1, at_least=0.0, below=1.0)
        number("tau", self.tau, above=0.0)

    @property
    def initial_state(self) -> tuple[float, ...]:
        return 0.0, self.tau * self.tau

    def step(self, gradient: Float64s, state: Float64s) -> tuple[Float64s, Float64s]:
        first, second = state.T
        denominator = self.second_moment(np.square(gradient), second)
        np.copyto(second, denominator)
        np.sqrt(denominator, out=denominator)
        np.add(denominator, self.tau, out=denominator)
        step = np.multiply(gradient, 1.0 - self.beta1, out=gradient)
        np.multiply(first, self.beta1, out=first)
        np.add(first, step, out=first)
        np.multiply(first, self.eta, out=step)
        np.divide(step, denominator, out=step)
        return step, state

    @abstractmethod
    def second_moment(self, square: Float64s, previous: Float64s) -> Float64s:
        """Return the new second moment, in an array of its own or in place of ``square``.

        Parameters
        ----------
        square : (n,) float64
            The squared pseudo-gradient. May be overwritten.
        previous : (n,) float64
        """


@register
@dataclass(frozen=True, kw_only=True)
class FedAdagrad(AdaptiveOptimizer):
    """Makes smaller steps for elements that have changed much: ``v = v + D^2`` (Algorithm 2).

    ``D`` is the pseudo-gradient. The steps never grow again: one huge pseudo-gradient makes all further
    steps of its element small.

    Parameters
    ----------
    eta : float
        The server's learning rate, which the paper tunes for each task.
    beta1 : float
        Decay of the first moment; in the paper 0, which is no momentum.
    tau : float
        Degree of adaptivity: the smaller, the more adaptive.
    """

    name = "fedadagrad"

    beta1: float = 0.0

    def second_moment(self, square: Float64s, previous: Float64s) -> Float64s:
        return np.add(previous, square, out=square)


@dataclass(frozen=True, kw_only=True)
class DecayingOptimizer(AdaptiveOptimizer):
    """Base of the optimizers whose second moment decays."""

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        number("beta2", self.beta2, at_least=0.0, below=1.0)


@register
@dataclass(frozen=True, kw_only=True)
class FedYogi(DecayingOptimizer):
    """Changes the second moment additively (Algorithm 2).

    ``v = v - (1 - beta2) * D^2 * sign(v - D^2)``, where ``D`` is the pseudo-gradient. The second moment
    falls more slowly than that of ``fedadam``, so that steps do not become large as soon as
    pseudo-gradients are small.

    Parameters
    ----------
    eta : float
        The server's learning rate, which the paper tunes for each task.
    beta1 : float
        Decay of the first moment.
    beta2 : float
        Decay of the second moment.
    tau : float
        Degree of adaptivity: the smaller, the more adaptive.
    """

    name = "fedyogi"

    def second_moment(self, square: Float64s, previous: Float64s) -> Float64s:
        change = np.sign(previous - square)
        np.multiply(square, 1.0 - self.beta2, out=square)
        np.multiply(change, square, out=change)
        return np.subtract(previous, change, out=change)


@register
@dataclass(frozen=True, kw_only=True)
class FedAdam(DecayingOptimizer):
    """Averages the second moment exponentially (Algorithm 2).

    ``v = beta2 * v + (1 - beta2) * D^2``, where ``D`` is the pseudo-gradient.

    Parameters
    ----------
    eta : float
        The server's learning rate, which the paper tunes for each task.
    beta1 : float
        Decay of the first moment.
    beta2 : float
        Decay of the second moment.
    tau : float
        Degree of adaptivity: the smaller, the more adaptive.
    """

    name = "fedadam"

    def second_moment(self, square: Float64s, previous: Float64s) -> Float64s:
        np.multiply(square, 1.0 - self.beta2, out=square)
        return np.add(previous * self.beta2, square, out=square)
