"""Helpers to run the engine on tensors in memory, through the formats that it reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import safetensors.numpy

from aggregation.engine import Combination, Combined, Passes, Resources, combine
from aggregation.engine.output import MemorySink
from aggregation.formats import Spool, open_weights
from aggregation.policies import OPTIMIZE_ALL, TensorPolicies
from aggregation.pre_aggregation import build_rule
from aggregation.sources import BytesSource
from aggregation.weights import Weights

Tensors = Mapping[str, Any]

#: For steps that need a secret seed.
SEED = "5eed" * 16


def opened(tensors: Tensors | bytes, format: str = "safetensors") -> Weights:
    body = tensors if isinstance(tensors, bytes) else safetensors.numpy.save(dict(tensors))
    return open_weights(BytesSource(body), format, spool=Spool())


def work_of(
    rule: str,
    updates: Sequence[Tensors | bytes],
    num_examples: Sequence[float] | None = None,
    parent: Tensors | None = None,
    *,
    differences: bool = False,
    policies: TensorPolicies = OPTIMIZE_ALL,
    num_steps: Sequence[int] | None = None,
    directions: Sequence[float] | None = None,
    pre_aggregation: Sequence[str] = (),
    **arguments: Any,
) -> Combination:
    base = opened(parent) if parent is not None else None
    weights = [opened(update) for update in updates]
    if base:
        expected = policies.expected_layout(base.layout) or base.layout
        weights = [update.in_order(expected) for update in weights]
    return Combination(
        directions=directions,
        num_steps=num_steps or [2] * len(weights),
        rule=build_rule(rule, arguments, pre_aggregation, SEED),
        updates=weights,
        num_examples=num_examples or [1] * len(weights),
        parent=base,
        differences=differences,
        policies=policies,
    )


def bytes_of(work: Combination, resources: Resources | None = None, **options: Any) -> bytes:
    return run(work, resources, **options)[0]


def run(
    work: Combination, resources: Resources | None = None, **options: Any
) -> tuple[bytes, Combined]:
    sink = MemorySink()
    combined = combine(
        work, sink, format="safetensors", resources=resources or Resources(), **options
    )
    return sink.data, combined


@contextmanager
def passes_of(*arguments: Any, **options: Any) -> Iterator[Any]:
    with ExitStack() as stack:
        never, nothing = (lambda: False), (lambda count: None)
        work = work_of(*arguments, **options)
        yield Passes(work, Resources(), stack, never, nothing)


def result_of(*arguments: Any, **options: Any) -> dict[str, Any]:
    return safetensors.numpy.load(bytes_of(work_of(*arguments, **options)))


def vectors(values: Any, dtype: Any = np.float32) -> list[Tensors]:
    """Return each row as a model of one tensor."""
    return [{"w": np.asarray(row, dtype)} for row in values]
