"""A federation that trains quickly: each client moves the model towards a target of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from laboratory import History, simulate

#: The initial weights.
INITIAL: dict[str, Any] = {"w": np.zeros((4, 5), np.float32), "b": np.zeros(5, np.float64)}

#: A target for each of seven clients; the last two are far away.
TARGETS = [1.0, 1.2, 0.8, 1.1, 0.9, 40.0, -35.0]


def train(model: Any, target: float, rng: np.random.Generator) -> tuple[Any, int]:
    """Move each weight half of the way to the target, with noise."""
    moved = {
        name: (array + (target - array) / 2 + rng.normal(0, 0.01, array.shape)).astype(array.dtype)
        for name, array in model.items()
    }
    return moved, int(abs(target) * 10)


def evaluate(model: Any) -> float:
    """Return the largest distance of a weight from 1."""
    return float(max(np.abs(array - 1).max() for array in model.values()))


def run(**options: Any) -> History:
    """Simulate five rounds of the federation."""
    defaults: dict[str, Any] = {"rounds": 5, "seed": 7, "initial": INITIAL, "evaluate": evaluate}
    return simulate(options.pop("train", train), TARGETS, **(defaults | options))
