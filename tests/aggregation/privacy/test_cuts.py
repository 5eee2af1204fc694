"""A private round has the same bytes however its work is cut, interrupted, or spread over processes."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

import aggregation.engine.ranges
from aggregation.engine import Combination, Resources, combine
from aggregation.engine.combine import combine_steps
from aggregation.engine.output import MemorySink
from aggregation.engine.steps import steps_of
from aggregation.errors import OutOfTime
from aggregation.in_memory import weights_in_memory
from aggregation.policies import DEFAULT
from aggregation.pre_aggregation import build_rule
from aggregation.privacy.rule import private_mean
from aggregation.rules import Selection
from tests.aggregation.engine.engine_tools import opened, run
from tests.aggregation.privacy.privacy_tools import noise, settings

PART_BYTES = 16_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a model of 20,000 elements have several parts."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", PART_BYTES)


def work(order: int = 1) -> Combination:
    """Return a private round of tensors of several dtypes, one of which is kept; clients may send them
    in the reverse order."""
    rng = np.random.default_rng(4)
    parent: dict[str, Any] = {
        "a": rng.normal(size=9_001).astype(np.float32),
        "count": np.arange(50),
        "b": rng.normal(size=(70, 90)),
        "c": rng.normal(size=5_000).astype(np.float16),
    }
    updates = []
    for _ in range(5):
        moved = [(name, values + rng.normal(size=values.shape)) for name, values in parent.items()]
        update = {name: values.astype(parent[name].dtype) for name, values in moved[::order]}
        updates.append(weights_in_memory(update))
    rule = private_mean(build_rule("unweighted_mean"), settings(), DEFAULT)
    return Combination(
        rule=rule.with_noise(noise("cuts")),
        updates=updates,
        num_examples=range(1, 6),
        parent=opened(parent),
        policies=DEFAULT,
    )


@settings_of_hypothesis(max_examples=10)
@given(cuts=st.sets(st.integers(1, 7)), memory=st.sampled_from([100_000, 1 << 20]))
def test_several_processes_give_the_same_bytes(cuts: set[int], memory: int) -> None:
    """Each range of parts can be computed by another process, with the clip factors that were stored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregation.engine.ranges, "PART_BYTES", PART_BYTES)
        whole, kept = finished(work())
        selection = Selection.from_json(kept["selection"])
        count = len(steps_of(work(), PART_BYTES))
        assert count > 4
        bounds = sorted({0, count, *(cut for cut in cuts if cut < count)})
        sink, resources = MemorySink(), Resources(memory_bytes=memory)
        for first, last in pairwise(bounds):
            combine_steps(
                work(), selection, sink, first, last, part_bytes=PART_BYTES, resources=resources
            )
        assert sink.data == whole


def finished(of: Combination) -> tuple[bytes, Any]:
    """Return the bytes of a round, and its last checkpoint, as JSON keeps it."""
    kept: list[Any] = []
    data, _ = run(of, checkpoint=kept.append)
    return data, json.loads(json.dumps(kept[-1]))


def test_a_round_that_is_interrupted_has_the_same_bytes() -> None:
    """It is stopped after each part of both passes, and resumed from JSON."""
    whole, _ = finished(work())
    sink, interruptions = MemorySink(), 0
    resume: Any = None
    while True:
        kept: list[Any] = []
        try:
            combine(
                work(),
                sink,
                resources=Resources(memory_bytes=100_000),
                resume=resume,
                checkpoint=kept.append,
                out_of_time=partial(bool, kept),
            )
            break
        except OutOfTime:
            resume, interruptions = json.loads(json.dumps(kept[-1])), interruptions + 1
    assert interruptions > 4
    assert sink.data == whole


def test_the_noise_belongs_to_the_elements_of_the_model() -> None:
    """Clients may send tensors in another order; kept tensors have the parent's values."""
    whole, _ = finished(work())
    assert finished(work(order=-1))[0] == whole
    assert safetensors.numpy.load(whole)["count"].tolist() == list(range(50))
