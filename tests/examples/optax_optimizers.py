"""Print the aggregates that optax makes of the rounds on standard input, as JSON.

python -m tests.examples.optax_optimizers < rounds.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

#: Arguments of the optimizers.
ETA, BETA, BETA1, BETA2, TAU = 0.3, 0.8, 0.7, 0.95, 0.01

#: A step of an optimizer: the direction, and the state after it.
Step = Callable[[int, Any, Any], Any]


def sgd(step: int, gradient: Any, state: Any) -> Any:
    optimizer = optax.sgd(ETA)
    return optimizer.update(gradient, state or optimizer.init(gradient))


def fedavgm(step: int, gradient: Any, state: Any) -> Any:
    optimizer = optax.sgd(ETA, momentum=BETA)
    return optimizer.update(gradient, state or optimizer.init(gradient))


def fedadam(step: int, gradient: Any, state: Any) -> Any:
    return _uncorrected(optax.scale_by_adam, step, gradient, state)


def fedyogi(step: int, gradient: Any, state: Any) -> Any:
    return _uncorrected(optax.scale_by_yogi, step, gradient, state)


def _uncorrected(create: Any, step: int, gradient: Any, state: Any) -> Any:
    """Take a step whose bias correction the epsilon and the learning rate cancel.

    optax divides the first moment by ``1 - b1^t`` and the second by ``1 - b2^t``. The second moment starts
    at tau squared.
    """
    root = (1 - BETA2**step) ** 0.5
    optimizer = create(b1=BETA1, b2=BETA2, eps=TAU / root, eps_root=0.0)
    if state is None:
        zeros = jnp.zeros_like(gradient)
        state = optimizer.init(gradient)._replace(mu=zeros, nu=zeros + TAU**2)
    direction, state = optimizer.update(gradient, state)
    return -ETA * (1 - BETA1**step) / root * direction, state


def trajectory(take: Step, parent: list[float], results: Any) -> list[Any]:
    """Return the aggregates after each round, whose gradient is the parent minus the rule's result."""
    parameter, state, aggregates = jnp.array(parent), None, []
    for step, result in enumerate(results, 1):
        change, state = take(step, parameter - jnp.array(result), state)
        parameter = optax.apply_updates(parameter, change)
        aggregates.append(parameter.tolist())
    return aggregates


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    rounds = json.load(sys.stdin)
    optimizers = (sgd, fedavgm, fedadam, fedyogi)
    print(json.dumps({each.__name__: trajectory(each, **rounds) for each in optimizers}))
