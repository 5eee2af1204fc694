"""Server optimizers in the engine: the aggregate and the state have the same bytes however work was cut."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregation.engine.ranges
from aggregation.engine import Combination, Resources, combine
from aggregation.engine.combine import combine_steps
from aggregation.engine.measure import select
from aggregation.engine.output import FileSink, MemorySink
from aggregation.engine.parts import pieces_of
from aggregation.engine.ranges import part_bytes_of
from aggregation.engine.result import part_sizes
from aggregation.engine.steps import BEGINNING, steps_of
from aggregation.errors import InvalidWeights, OutOfTime, PartTooLarge, UpdatesRejected
from aggregation.optimizers import create_optimizer, known_optimizers
from aggregation.policies import TensorPolicies
from tests.aggregation.engine.engine_models import mixed_models
from tests.aggregation.engine.engine_tools import opened, passes_of, vectors, work_of
from tests.aggregation.optimizers.oracles import trajectory

STEPPING = [name for name, kind in known_optimizers().items() if kind.takes_steps]
WITH_STATE = [name for name in STEPPING if known_optimizers()[name].slots]
every_optimizer = pytest.mark.parametrize("name", STEPPING)
every_state = pytest.mark.parametrize("name", WITH_STATE)

#: Tensors of `mixed_models` that are frozen, that have no state, and that only a maximum is taken of.
POLICIES = TensorPolicies.from_list([["b", "average"], ["h", "max"]], frozen=["a"])

FLOATS = {"a", "b", "c", "g", "h"}


def with_optimizer(
    work: Combination, name: str, state: bytes = b"", **arguments: float
) -> Combination:
    optimizer = create_optimizer(name, arguments)
    return replace(work, optimizer=optimizer, optimizer_state=opened(state) if state else None)


def run(work: Combination, resources: Resources | None = None) -> tuple[bytes, bytes]:
    """Return the bytes of the aggregate and of the state."""
    model, state = MemorySink(), MemorySink()
    combine(work, model, state_sink=state, format="safetensors", resources=resources or Resources())
    return model.data, state.data


def mixed_work(name: str, rule: str = "weighted_mean", **arguments: Any) -> Combination:
    """Return work on several dtypes and policies, whose parent's state has tensors of an earlier round."""
    *updates, parent = mixed_models(8)
    updates = [{**update, "a": parent["a"]} for update in updates]
    work = work_of(rule, updates, list(range(1, 8)), parent, **arguments)
    state = b"" if name == "sgd" else run(with_optimizer(work, name))[1]
    return replace(with_optimizer(work, name, state), policies=POLICIES)


@every_optimizer
@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("rule", ["weighted_mean", "coordinate_median", "norm_clipped_mean"])
def test_rounds_give_the_aggregates_of_the_paper(name: str, differences: bool, rule: str) -> None:
    """Four rounds in the engine give what the paper's algorithm gives, for every kind of rule."""
    rng = np.random.default_rng(3)
    start, *results = rng.normal(size=(5, 33))
    arguments: dict[str, Any] = {"max_norm": 1e9} if rule == "norm_clipped_mean" else {}
    base, state = start, b""
    for result, expected in zip(results, trajectory(name, start, results, {}), strict=True):
        sent = vectors([result - base if differences else result] * 3, np.float64)
        work = work_of(rule, sent, None, {"w": base}, differences=differences, **arguments)
        aggregate, state = run(with_optimizer(work, name, state))
        base = safetensors.numpy.load(aggregate)["w"]
        np.testing.assert_allclose(base, expected, rtol=1e-9, atol=1e-12)


@every_optimizer
@given(memory=st.integers(8_000, 3_000_000), readers=st.integers(1, 5), workers=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_bytes_do_not_depend_on_resources(
    name: str, memory: int, readers: int, workers: int
) -> None:
    """Memory, readers and workers do not change a bit of the aggregate or of the state."""
    work = mixed_work(name)
    resources = Resources(memory_bytes=memory, readers=readers, workers=workers)
    assert run(work, resources) == run(work)


class Stopped(Exception):
    """Stands for the end of the process."""


def sink_states(checkpoint: Any) -> tuple[Any, Any]:
    """Return the states of both sinks if parts are stored."""
    of = {key: checkpoint[key] and checkpoint[key]["sink"] for key in ("progress", "state")}
    return of["progress"], of["state"]


@every_state
@pytest.mark.parametrize("format", ["safetensors", "npz", "json"])
@pytest.mark.parametrize("rule", ["weighted_mean", "krum"])
def test_resumed_work_gives_the_same_bytes(
    name: str, format: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that is stopped at any checkpoint and resumed gives the same aggregate and the same state."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 20_000)
    work = mixed_work(name, rule, **({"f": 1} if rule == "krum" else {}))

    def start(folder: Path, resume: Any = None, **options: Any) -> tuple[bytes, bytes]:
        folder.mkdir(exist_ok=True)
        states = sink_states(resume) if resume else (None, None)
        sinks = [FileSink(folder / each, state) for each, state in zip("ms", states, strict=True)]
        combine(work, sinks[0], state_sink=sinks[1], format=format, resume=resume, **options)
        return (folder / "m").read_bytes(), (folder / "s").read_bytes()

    kept: list[Any] = []
    expected = start(tmp_path / "whole", checkpoint=kept.append)
    assert len([each for each in kept if each["progress"]]) >= 3
    for number in range(len(kept)):
        seen: list[Any] = []

        def stop(checkpoint: Any, seen: list[Any] = seen, last: int = number) -> None:
            seen.append(json.loads(json.dumps(checkpoint)))
            if len(seen) > last:
                raise Stopped

        folder = tmp_path / str(number)
        with pytest.raises(Stopped):
            start(folder, checkpoint=stop, resources=Resources(memory_bytes=250_000))
        assert not (folder / "m").exists()
        assert not (folder / "s").exists()
        assert start(folder, resume=seen[-1]) == expected


@every_state
def test_work_out_of_time_again_and_again_ends(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts that have time for one chunk more each give the bytes of an undisturbed one."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 20_000)
    work, resume, chunks = mixed_work(name), None, 1
    while True:
        states = sink_states(resume) if resume else (None, None)
        sinks = [FileSink(tmp_path / each, of) for each, of in zip("ms", states, strict=True)]
        left = iter([False] * chunks)
        kept: list[Any] = [resume]
        try:
            combine(
                work,
                sinks[0],
                state_sink=sinks[1],
                resources=Resources(memory_bytes=250_000),
                resume=resume,
                checkpoint=kept.append,
                out_of_time=partial(next, left, True),
            )
            break
        except OutOfTime:
            resume, chunks = kept[-1], chunks + 1
    assert ((tmp_path / "m").read_bytes(), (tmp_path / "s").read_bytes()) == run(work)


@every_state
@pytest.mark.parametrize("few", [False, True])
@given(cuts=st.sets(st.integers(1, 7)))
@settings(max_examples=10, deadline=None)
def test_several_processes_give_the_same_bytes(name: str, few: bool, cuts: set[int]) -> None:
    """The steps may be computed by any number of processes, whether all tensors have a state or few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregation.engine.ranges, "PART_BYTES", 16_000)
        work = mixed_work(name)
        if few:
            only = TensorPolicies.from_list([["b", "optimize"], ["*", "average"]])
            work = replace(work, policies=only, optimizer_state=None)
        steps = steps_of(work, 16_000)
        bounds = sorted({0, len(steps), *(cut for cut in cuts if cut < len(steps))})
        with passes_of("weighted_mean", mixed_models(1)) as passes:
            passes.work = work
            selection, _ = select(passes)
        model, state = MemorySink(), MemorySink()
        for first, last in pairwise(bounds):
            combine_steps(work, selection, model, first, last, part_bytes=16_000, state_sink=state)
        assert (model.data, state.data) == run(work)


@given(
    dtypes=st.lists(st.sampled_from(["f2", "f4", "f8", "i8"]), min_size=1, max_size=6),
    sizes=st.lists(st.integers(0, 5000), min_size=6, max_size=6),
    optimized=st.sets(st.integers(0, 5)),
    part_bytes=st.integers(33, 700).map(lambda half: 16 * half),
    name=st.sampled_from(WITH_STATE),
)
@settings(deadline=None)
def test_parts_of_a_state_are_as_large_as_object_stores_require(
    dtypes: list[str], sizes: list[int], optimized: set[int], part_bytes: int, name: str
) -> None:
    """No part of a state but the last has less than half of a part's bytes, and none more than all."""
    model = {
        f"t{n}": np.zeros(size, dtype)
        for n, (dtype, size) in enumerate(zip(dtypes, sizes, strict=False))
    }
    pairs = [*([f"t{n}", "optimize"] for n in optimized), ["*", "average"]]
    work = with_optimizer(work_of("weighted_mean", [model], None, model), name)
    work = replace(work, policies=TensorPolicies.from_list(pairs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregation.engine.ranges, "PART_BYTES", part_bytes)
        steps = steps_of(work, part_bytes)
        parts = Parts()
        combine(work, MemorySink(), state_sink=parts)
    assert steps[-1].element == work.layout.size
    if work.state is None:
        return
    assert [n for n, _ in parts.written] == list(range(1, steps[-1].state_parts + 1))
    header = len(parts.written[0][1]) and 8 + int.from_bytes(parts.written[0][1][:8], "little")
    for number, data in parts.written:
        nbytes = len(data) - (header if number == 1 else 0)
        assert nbytes <= part_bytes
        assert 2 * nbytes >= part_bytes or number == len(parts.written)
    ends = [BEGINNING, *steps]
    assert all(a.element < b.element and a.parts < b.parts for a, b in pairwise(ends))


class Parts(MemorySink):
    """Keeps the parts apart."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[int, bytes]] = []

    def write_part(self, number: int, data: Any, *, last: bool = False) -> None:
        self.written.append((number, b"".join(pieces_of(data))))


@every_state
def test_a_tensor_that_is_not_optimized_keeps_its_state(name: str) -> None:
    """The state of a tensor that is frozen for a round is that of the parent, bit by bit."""
    work = mixed_work(name)
    assert work.optimizer_state
    before = safetensors.numpy.load(
        run(replace(work, policies=TensorPolicies(), optimizer_state=None))[1]
    )
    after = safetensors.numpy.load(run(work)[1])
    assert before.keys() == after.keys() == FLOATS
    for tensor in ("a", "b", "h"):
        assert before[tensor].tobytes() == after[tensor].tobytes()
    assert before["g"].tobytes() != after["g"].tobytes()


@every_state
def test_a_new_tensor_starts_with_the_initial_state(name: str) -> None:
    """A tensor that the parent's state does not have is treated as in a first round."""
    models = mixed_models(4)
    work = with_optimizer(work_of("weighted_mean", models[:3], None, models[3]), name)
    only_g = TensorPolicies.from_list([["g", "optimize"], ["*", "average"]])
    state = run(replace(work, policies=only_g))[1]
    assert safetensors.numpy.load(state).keys() == {"g"}
    first = safetensors.numpy.load(run(work)[1])
    later = safetensors.numpy.load(run(replace(work, optimizer_state=opened(state)))[1])
    assert first["a"].tobytes() == later["a"].tobytes()
    assert first["g"].tobytes() != later["g"].tobytes()


@every_optimizer
def test_integers_are_the_results_of_the_rule(name: str) -> None:
    """Integer tensors take no steps and have no state, even if they are to be optimized."""
    models = mixed_models(4)
    work = work_of("weighted_mean", models[:3], None, models[3])
    made, state = run(with_optimizer(work, name))
    expected = safetensors.numpy.load(run(work)[0])
    for tensor in ("e", "f"):
        np.testing.assert_array_equal(safetensors.numpy.load(made)[tensor], expected[tensor])
    assert not state or safetensors.numpy.load(state).keys() == FLOATS


@every_optimizer
def test_without_a_parent_the_result_is_that_of_the_rule(name: str) -> None:
    """The first aggregate of a model without initial weights has no state."""
    work = work_of("weighted_mean", mixed_models(3))
    assert run(with_optimizer(work, name)) == (run(work)[0], b"")


def test_sgd_with_a_learning_rate_of_one_is_the_rule() -> None:
    """With eta 1, sgd gives the rule's result, up to the last digits of float64."""
    models = mixed_models(4)
    work = work_of("weighted_mean", models[:3], None, models[3])
    made = safetensors.numpy.load(run(with_optimizer(work, "sgd"))[0])
    for tensor, expected in safetensors.numpy.load(run(work)[0]).items():
        np.testing.assert_allclose(
            made[tensor], expected, rtol=1e-3 if expected.dtype == "f2" else 1e-6
        )


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": np.zeros((4, 2))}, r"tensor 'w' is F64 \[4, 2\], expected F64 \[3, 2\]"),
        ({"w": np.zeros((3, 2), np.float32)}, r"'w' is F32"),
        ({"v": np.zeros((3, 2))}, r"tensor 'v' is F64 \[3, 2\], expected none"),
        (
            {"w": np.array([[0, 1], [np.nan, 1], [0, 1]])},
            r"state is not finite in tensor 'w' at \[1\]",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: Any, message: str) -> None:
    """A parent's state with other tensors or bad values fails the round, and no update is blamed."""
    work = work_of("weighted_mean", vectors(np.ones((2, 3))), None, vectors(np.zeros((1, 3)))[0])
    with pytest.raises(InvalidWeights, match=message):
        run(with_optimizer(work, "fedadam", safetensors.numpy.save(state)))


def test_an_update_that_makes_the_state_overflow_is_rejected() -> None:
    """A value whose square overflows float64 would freeze its element: its update is rejected."""
    sent = vectors([[1.0, 2.0], [1.0, 1e200], [2.0, 3.0]], np.float64)
    work = work_of("weighted_mean", sent, None, vectors(np.zeros((1, 2)), np.float64)[0])
    with pytest.raises(UpdatesRejected) as caught:
        run(with_optimizer(work, "fedadam"))
    assert list(caught.value.reasons) == [1]
    assert "'w' at [1]" in caught.value.reasons[1]


def large_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small models and states have parts that are written to disk."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 4_000)
    monkeypatch.setattr(aggregation.engine.ranges, "MAX_PARTS", 4)


@every_state
def test_large_parts_give_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The aggregate and the state do not depend on the size of their parts, which are files here."""
    work = mixed_work(name)
    expected = run(work)
    large_parts(monkeypatch)
    assert run(work) == expected


@every_state
def test_the_disk_must_hold_a_part_of_both(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that holds a part of the aggregate, but none of the state, is refused before it is used.

    One that holds a part of each is enough, although it has no room for the next ones meanwhile.
    """
    work = mixed_work(name, "krum", f=1)
    large_parts(monkeypatch)
    model, state = part_sizes(work, part_bytes_of(work.layout.nbytes))
    read: list[int] = []
    sinks: dict[str, Any] = {"sink": MemorySink(), "state_sink": MemorySink()}
    too_small = Resources(disk_bytes=model + state - 1)
    with pytest.raises(PartTooLarge):
        combine(work, **sinks, resources=too_small, on_bytes=read.append)
    assert not read
    combine(work, **sinks, resources=Resources(disk_bytes=2 * (model + state)))
