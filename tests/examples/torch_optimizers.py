"""Print the aggregates that torch.optim makes of the rounds on standard input, as JSON.

python -m tests.examples.torch_optimizers < rounds.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

#: Arguments of the optimizers.
ETA, BETA, BETA1, BETA2, TAU = 0.3, 0.8, 0.7, 0.95, 0.01


def sgd(parameter: Any) -> Any:
    return torch.optim.SGD([parameter], lr=ETA)


def fedavgm(parameter: Any) -> Any:
    return torch.optim.SGD([parameter], lr=ETA, momentum=BETA)


def fedadagrad(parameter: Any) -> Any:
    return torch.optim.Adagrad(
        [parameter], lr=ETA, initial_accumulator_value=TAU**2, eps=TAU, lr_decay=0.0
    )


def fedadam(parameter: Any) -> Any:
    """Return Adam with its second moment at tau squared; `uncorrected` removes the bias correction."""
    adam = torch.optim.Adam([parameter], betas=(BETA1, BETA2))
    adam.state[parameter] = {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.full_like(parameter, TAU**2),
    }
    return adam


def uncorrected(adam: Any, step: int) -> None:
    """Set the learning rate and epsilon of a step so that Adam's bias correction cancels.

    Adam divides m by ``1 - beta1^t`` and v by ``1 - beta2^t``.
    """
    root = (1 - BETA2**step) ** 0.5
    adam.param_groups[0]["lr"] = ETA * (1 - BETA1**step) / root
    adam.param_groups[0]["eps"] = TAU / root


def trajectory(create: Callable[[Any], Any], parent: list[float], results: Any) -> list[Any]:
    """Return the aggregates after each round, whose gradient is the parent minus the rule's result."""
    parameter = torch.tensor(parent, dtype=torch.float64, requires_grad=True)
    optimizer, aggregates = create(parameter), []
    for step, result in enumerate(results, 1):
        if create is fedadam:
            uncorrected(optimizer, step)
        parameter.grad = parameter.detach() - torch.tensor(result, dtype=torch.float64)
        optimizer.step()
        aggregates.append(parameter.tolist())
    return aggregates


if __name__ == "__main__":
    rounds = json.load(sys.stdin)
    optimizers = (sgd, fedavgm, fedadagrad, fedadam)
    print(json.dumps({each.__name__: trajectory(each, **rounds) for each in optimizers}))
