"""The interface of a server optimizer, which takes a step from the parent aggregate.

The *pseudo-gradient* is the rule's result minus the parent (Reddi et al., *Adaptive Federated
Optimization*, arXiv 2003.00295, Section 3; here it points towards the clients' weights, as in the
paper's Algorithm 2). An optimizer is added by writing one module with a frozen dataclass whose fields
are its arguments. `@register` adds its name to the registry, the choices in the admin and the reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from aggregation.arguments import instantiate
from aggregation.errors import RuleError
from aggregation.registry import import_modules

Float64s = NDArray[np.float64]


class Optimizer(ABC):
    """Base of all server optimizers.

    An optimizer never sees storage or a whole model. `step` is a function of each element alone, by
    elementwise operations in a fixed order. This makes a result independent of how the model was cut
    into chunks.
    """

    name: ClassVar[str]

    #: Numbers that the optimizer keeps of each element from one aggregate to the next.
    slots: ClassVar[int] = 0

    #: Whether the aggregate differs from the rule's result.
    takes_steps: ClassVar[bool] = True

    @property
    def initial_state(self) -> tuple[float, ...]:
        """The state of an element before the first step, a number for each of the `slots`."""
        return (0.0,) * self.slots

    @abstractmethod
    def step(self, gradient: Float64s, state: Float64s) -> tuple[Float64s, Float64s]:
        """Return the step from the parent to the aggregate, and the new state.

        Parameters
        ----------
        gradient : (n,) float64
            The pseudo-gradient. May be overwritten, since it is scratch space of the engine.
        state : (n, slots) float64
            The state that the parent's step left. May be overwritten, and returned as the new one.

        Returns
        -------
        step : (n,) float64
            The aggregate is the parent plus the step.
        state : (n, slots) float64
        """


_REGISTRY: dict[str, type[Optimizer]] = {}

O = TypeVar("O", bound=type[Optimizer])  # noqa: E741


def register(optimizer: O) -> O:
    """Register an optimizer under its name."""
    _REGISTRY[optimizer.name] = optimizer
    return optimizer


def known_optimizers() -> dict[str, type[Optimizer]]:
    """Return the optimizers by name: first none, then in alphabetical order."""
    import_modules("aggregation.optimizers")
    return dict(sorted(_REGISTRY.items(), key=lambda item: (item[1].takes_steps, item[0])))


def create_optimizer(name: str, arguments: Mapping[str, Any] | None = None) -> Optimizer:
    """Return the optimizer of that name with these arguments.

    Raises
    ------
    RuleError
        If the name or an argument is unknown, or out of range. The message says what is expected.
    """
    optimizer = _REGISTRY.get(name) or known_optimizers().get(name)
    if optimizer is None:
        known = ", ".join(known_optimizers())
        raise RuleError(f"unknown server optimizer {name!r}; known are {known}")
    return instantiate(optimizer, optimizer.name, arguments or {})


@register
@dataclass(frozen=True, kw_only=True)
class NoOptimizer(Optimizer):
    """Makes the rule's result the aggregate."""

    name = "none"
    takes_steps = False

    def step(self, gradient: Float64s, state: Float64s) -> tuple[Float64s, Float64s]:
        return gradient, state


#: The default.
NO_OPTIMIZER = NoOptimizer()
