"""Rounds whose calls to the connector are counted and may be disturbed, and processes that end early."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aggregation.engine import Resources
from aggregation.round import Status, run_round
from tests.connectors.workflow.backends import TwinWorld

#: A model of nine parts.
MODEL = {"w": np.zeros((10, 12), np.float32), "b": np.zeros(24, np.float32)}


class Watched:
    """A connector whose calls, and those of its sinks, are recorded and may be disturbed.

    Parameters
    ----------
    inner
        The connector.
    disturb : callable
        Called before each call with its name and the number of calls so far; it may raise.
    """

    def __init__(
        self, inner: Any, disturb: Callable[[str, int], None] = lambda *call: None
    ) -> None:
        self._inner = inner
        self._disturb = disturb
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self._disturb(name, len(self.calls))
            result = attribute(*args, **kwargs)
            if name != "new_result":
                return result
            sink = Watched(result, self._disturb)
            sink.calls = self.calls
            return sink

        return call


class Killed(BaseException):
    """Stands for the end of the process."""


def killing(moment: int) -> Callable[[str, int], None]:
    """Return a disturbance that ends the process before its call of this number, counted from 1."""

    def kill(name: str, count: int) -> None:
        if count >= moment:
            raise Killed

    return kill


def publish_after_death(world: TwinWorld, model: Any, moment: int) -> None:
    """Run a round whose first process dies before its call of this number; the next one publishes."""
    with pytest.raises(Killed):
        run_round(Watched(world.connector, killing(moment)), model.id)
    world.pass_time()
    assert run_round(world.connector, model.id).status is Status.PUBLISHED


def small_steps(chunks: int) -> dict[str, Any]:
    """Return arguments for a round that has time for this many chunks."""
    asked = itertools.count(1)
    return {"out_of_time": lambda: next(asked) >= chunks, "resources": Resources(readers=1)}


def values(seed: int, expected_layout: Any = None) -> dict[str, Any]:
    """Return the tensors of a client, all of whose values differ."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=tensor.shape).astype(tensor.dtype)
        for name, tensor in (expected_layout or MODEL).items()
    }


def bad(seed: int, *places: tuple[str, Any, float]) -> dict[str, Any]:
    """Return the same tensors with values at some places that are not finite."""
    tensors = values(seed)
    for name, place, value in places:
        tensors[name][place] = value
    return tensors


def ready_model(world: TwinWorld, clients: int = 3, **fields: Any) -> tuple[Any, list[Any]]:
    """Return a model and one update of each of its clients."""
    model = world.model(clients, initial=MODEL, **fields)
    updates = [world.update(model, n, values(n), num_examples=n) for n in range(1, clients + 1)]
    return model, updates


def end_state(world: TwinWorld, model: Any, updates: list[Any]) -> Any:
    """Return what a round left: the aggregates, the states of the updates and the reasons."""
    return (
        [world.bytes_of(aggregate) for aggregate in model.aggregates],
        world.states(*updates),
        [update.rejection_reason for update in updates],
    )


def unfinished(world: TwinWorld) -> list[str]:
    """Return the names of results that were begun and not finished."""
    return list(world.connector.storage.unfinished)
