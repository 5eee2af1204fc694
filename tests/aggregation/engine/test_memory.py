"""Flat memory: a hundred updates are combined in the memory that ten of them take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from itertools import accumulate
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.engine import Combination, Resources, combine
from aggregation.engine.parts import PartData
from aggregation.formats.safetensors_header import encode_header
from aggregation.layout import Tensor, TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.rules import create_rule
from aggregation.sources import Buffer, BytesSource
from aggregation.weights import Weights, shared_index
from tests.aggregation.engine.peak import FORMATS, OPTIMIZERS, RULES

MIB = 1 << 20
UPDATE_BYTES = 2 * MIB
BUDGET = 8 * MIB

#: For what the workers make of a block: float64 rows of it, and products.
MARGIN = 4 * MIB


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Return the peak of allocated bytes by rule, format and number of updates."""
    folder = tmp_path_factory.mktemp("memory")
    tensors: dict[str, Any] = {"w": np.arange(UPDATE_BYTES // 4, dtype=np.float32)}
    safetensors.numpy.save_file(tensors, folder / "update.safetensors")
    np.savez(folder / "update.npz", **tensors)
    done = subprocess.run(
        [sys.executable, "-m", "tests.aggregation.engine.peak", str(BUDGET), str(folder)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rule", RULES)
def test_memory_does_not_grow_with_the_number_of_updates(
    rule: str, kind: str, peaks: dict[str, int]
) -> None:
    """Ten updates, and a hundred with 200 MiB in total, stay within one small budget."""
    # The result and the two numbers in float64 that an optimizer keeps for each element are stored in
    # one part each, which are in memory until they are full.
    parts = UPDATE_BYTES + (4 * UPDATE_BYTES if rule in OPTIMIZERS else 0)
    assert peaks[f"{rule} {kind} 10"] < max(BUDGET, parts) + MARGIN
    assert peaks[f"{rule} {kind} 100"] < max(BUDGET, parts) + MARGIN


class Remote:
    """A source in memory that is read as if it were remote."""

    local = False

    def __init__(self, size: int) -> None:
        self._source = BytesSource(bytes(size))
        self.size = size

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self._source.read_into(offset, buffer)


def update_of(tensors: list[Tensor]) -> Weights:
    """Return weights that hold these tensors in this order."""
    ends = list(accumulate((tensor.nbytes for tensor in tensors), initial=0))
    index = shared_index(TensorLayout(tuple(tensors)), ends[:-1])
    return Weights(index=index, source=Remote(ends[-1]), format="npz")


def opener_of(update: Weights) -> Opener:
    """Return a function that opens these weights, whatever layout is expected."""
    return lambda expected_layout, spool: update


@pytest.mark.parametrize("orders", [1, 4])
@pytest.mark.parametrize("rule", ["weighted_mean", "krum"])
def test_memory_does_not_grow_with_the_number_of_tensors(rule: str, orders: int) -> None:
    """For 20,000 small tensors the engine holds the budget and a few times the result's header.

    That is so as well if the clients hold the tensors in different orders.
    """
    tensors = [
        Tensor(f"model.layers.{n // 64}.experts.{n % 64}.lora_A", np.dtype("<f4"), (4, 8))
        for n in range(20_000)
    ]
    openers: dict[int, Opener] = {}
    for client in range(10):
        order = list(tensors)
        Random(client % orders).shuffle(order)
        update = update_of(order)
        openers[client] = opener_of(update)
    model = TensorLayout(tuple(tensors))
    header = len(encode_header(model, {}))
    tracemalloc.start()
    try:
        opened, _ = open_consistent(openers, model, 2)
        del openers
        work = Combination(
            rule=create_rule(rule, RULES[rule]),
            updates=list(opened.values()),
            num_examples=[1] * 10,
        )
        combine(work, Discard(), format="safetensors", resources=Resources(memory_bytes=4 * MIB))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB + 8 * header


class Discard:
    """A sink that keeps nothing."""

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def complete(self) -> None:
        pass

    def abort(self) -> None:
        pass
