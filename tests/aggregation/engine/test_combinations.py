"""Rules, optimizers, policies and formats together: the bytes depend on the updates alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregation.engine import Combination, Resources, combine
from aggregation.engine.output import MemorySink
from aggregation.formats import FORMATS
from aggregation.optimizers import create_optimizer, known_optimizers
from aggregation.policies import Policy, TensorPolicies
from tests.aggregation.engine.engine_models import RULES, mixed_models, policy_lists, with_policies
from tests.aggregation.engine.engine_tools import opened, work_of

N = 9
MEANS: list[tuple[str, dict[str, Any]]] = [("unweighted_mean", {}), ("normalized_mean", {})]
LATE = ("weighted_mean", {"late": True})


class ResumableSink(MemorySink):
    """A result in memory that can be continued."""

    def __init__(self, earlier: ResumableSink | None = None, state: Any = None) -> None:
        super().__init__()
        if earlier and state:
            self._parts = earlier._parts[: state["parts"]]

    def state(self) -> dict[str, Any]:
        return {"parts": len(self._parts)}


class Stopped(Exception):
    """Stands for the end of the process."""


def combination(
    rule: str,
    arguments: dict[str, Any],
    policies: TensorPolicies,
    optimizer: str,
    differences: bool,
) -> Combination:
    """Return work on several dtypes whose parent has a state; late updates have bases of their own."""
    late = arguments.get("late")
    models = with_policies(mixed_models(N + 1), policies)
    *updates, parent = [dict(model) for model in models]
    if differences:
        for update in updates:
            for name, tensor in update.items():
                if policies.of(name, tensor.dtype) is Policy.FROZEN:
                    update[name] = np.zeros_like(tensor)
    work = work_of(
        rule,
        updates,
        list(range(1, N + 1)),
        parent,
        differences=differences,
        policies=policies,
        num_steps=list(range(2, N + 2)),
        **{name: value for name, value in arguments.items() if name != "late"},
    )
    if late and not differences:
        bases = [opened(parent), opened(mixed_models(1, seed=9)[0])]
        work = replace(work, bases=bases, base_of=[n % 2 for n in range(N)])
    if late:
        work = replace(work, discounts=[1.0 - n % 2 / 4 for n in range(N)])
    work = replace(work, optimizer=create_optimizer(optimizer))
    if work.state is None:
        return work
    _, state = whole(work, "safetensors")
    return replace(work, optimizer_state=opened(state.data))


def whole(
    work: Combination, format: str, resources: Resources | None = None, **options: Any
) -> tuple[ResumableSink, ResumableSink]:
    sinks = options.pop("sinks", None) or (ResumableSink(), ResumableSink())
    combine(
        work,
        sinks[0],
        state_sink=sinks[1],
        format=format,
        resources=resources or Resources(),
        **options,
    )
    return sinks


def resumed(
    work: Combination, format: str, resources: Resources, stop_after: int
) -> tuple[ResumableSink, ResumableSink]:
    """Stop after so many checkpoints, and resume from the last one as a database returns it."""
    kept: list[Any] = []

    def keep(checkpoint: Any) -> None:
        kept.append(json.loads(json.dumps(checkpoint)))
        if len(kept) == stop_after:
            raise Stopped

    sinks = ResumableSink(), ResumableSink()
    try:
        return whole(work, format, resources, checkpoint=keep, sinks=sinks)
    except Stopped:
        pass
    progress = [kept[-1][name] for name in ("progress", "state")]
    states = [each["sink"] if each else None for each in progress]
    again = tuple(ResumableSink(*each) for each in zip(sinks, states, strict=True))
    return whole(work, format, resources, resume=kept[-1], sinks=again)


@pytest.mark.parametrize("optimizer", known_optimizers())
@given(
    rule=st.sampled_from([*RULES, *MEANS, LATE]),
    pairs=policy_lists,
    frozen=st.sampled_from([(), ("[ag]",)]),
    differences=st.booleans(),
    format=st.sampled_from(FORMATS),
    memory=st.integers(8_000, 1_000_000),
    workers=st.integers(1, 3),
    stop_after=st.integers(1, 12),
)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_combination_depends_on_the_updates_alone(
    optimizer: str,
    rule: tuple[str, dict[str, Any]],
    pairs: list[tuple[str, Policy]],
    frozen: tuple[str, ...],
    differences: bool,
    format: str,
    memory: int,
    workers: int,
    stop_after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory, threads and an interruption change neither the aggregate nor the optimizer's state."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", 30_000)
    policies = TensorPolicies(tuple(pairs), frozen)
    work = combination(*rule, policies, optimizer, differences)
    expected = [sink.data for sink in whole(work, format)]
    resources = Resources(memory_bytes=memory, workers=workers)
    found = [sink.data for sink in resumed(work, format, resources, stop_after)]
    assert found == expected
