"""Run rounds of masked updates on the twin, and compute their aggregates by plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from aggregation.engine import Resources
from aggregation.round import RoundAnswer, Status, run_round
from tests.aggregation.round.observed import Killed, Watched, killing
from tests.aggregation.round.secure_twin import PARENT, SETTINGS, SecureTwin
from tests.twin import MemoryModel

#: Masked elements of `PARENT`.
ELEMENTS = 51 + 29


def difference_of(number: int) -> NDArray[np.float32]:
    """Return the clipped difference of a client."""
    return np.random.default_rng(number).normal(0, 0.3, ELEMENTS).astype(np.float32)


def aggregate_of(twin: SecureTwin, model: MemoryModel) -> dict[str, Any]:
    """Return the latest aggregate of a model."""
    assert model.latest is not None
    return safetensors.numpy.load(twin.storage.bodies[model.latest.result.name])


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check that the tensors have the same bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].tobytes() == tensor.tobytes(), name


def run(twin: Any, model_id: int, **options: Any) -> RoundAnswer:
    """Run an attempt of a round."""
    return run_round(twin, model_id, **options)


def finish(twin: SecureTwin, model: MemoryModel, **options: Any) -> RoundAnswer:
    """Run a round to its end; the mask keeper answers in between."""
    for _ in range(100):
        answer = run(twin, model.id, **options)
        if answer.status is not Status.BUSY:
            return answer
        twin.answer_requests()
    raise AssertionError("the round does not end")


def finish_after_death(twin: SecureTwin, model: MemoryModel, moment: int) -> bool:
    """Run a round to its end, of which a process dies before the call of this number.

    Returns
    -------
    bool
        Whether it died; if not, the round has fewer calls to the connector and its sinks.
    """
    while True:
        watched = Watched(twin, killing(moment))
        try:
            answer = run(watched, model.id, resources=Resources(readers=1))
        except Killed:
            twin.now += 2 * twin.lease
            assert finish(twin, model).status is Status.PUBLISHED
            return True
        if answer.status is Status.PUBLISHED:
            return False
        moment -= len(watched.calls)
        twin.answer_requests()


def moved_parent(mean: NDArray[np.floating[Any]]) -> dict[str, NDArray[Any]]:
    """Return the parent plus a mean of the masked elements, in the order b, w."""
    rounded = mean.astype(np.float32).astype(np.float64)
    moved = {"b": PARENT["b"] + rounded[:29], "w": PARENT["w"] + rounded[29:].reshape(3, 17)}
    return PARENT | {name: tensor.astype(np.float32) for name, tensor in moved.items()}


def expected_aggregate(
    differences: Sequence[NDArray[Any]], weights: Sequence[int], max_weight: int = 1
) -> dict[str, NDArray[Any]]:
    """Return the parent plus the mean of the plain sum of the quantised updates."""
    total = np.zeros(ELEMENTS, np.int64)
    for difference, weight in zip(differences, weights, strict=True):
        scaled = np.rint(difference.astype(np.float64) * (SETTINGS.scale * weight / max_weight))
        total += scaled.astype(np.int64)
    return moved_parent(total / (SETTINGS.scale * sum(weights) / max_weight))
