"""Work that is stopped and resumed: the result has the same bytes, and the work ends."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aggregation.engine.ranges
from aggregation.engine import Resources, combine
from aggregation.engine.output import FileSink, MemorySink
from aggregation.errors import OutOfTime, UpdatesRejected
from aggregation.policies import OPTIMIZE_ALL, TensorPolicies
from tests.aggregation.engine.engine_models import every_rule, mixed_models, with_policies
from tests.aggregation.engine.engine_tools import run, work_of

#: Each policy at least once.
MIXED = TensorPolicies.from_list(
    [["a", "optimize"], ["b", "average"], ["c", "exclude"], ["f", "max"], ["h", "average"]],
    frozen=["g"],
)


class Stopped(Exception):
    """Stands for the end of the process."""


def state_of(checkpoint: Any) -> Any:
    """Return the state of the sink if part of the result is stored."""
    return checkpoint["progress"]["sink"] if checkpoint and checkpoint["progress"] else None


@every_rule
@pytest.mark.parametrize("policies", [OPTIMIZE_ALL, MIXED], ids=["optimize", "mixed"])
def test_a_resumed_result_has_the_same_bytes(
    name: str,
    arguments: dict[str, Any],
    policies: TensorPolicies,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work that is stopped after any part and resumed from its checkpoint gives the same result."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 20_000)
    updates = with_policies(mixed_models(8), policies)
    counts = list(range(1, 8))
    work = work_of(name, updates[:7], counts, updates[7], policies=policies, **arguments)
    expected, _ = run(work)
    parts = len(aggregation.engine.ranges.part_ends(work.layout))
    passes = 1 + (work.rule.needs_gram or work.rule.needs_norms)
    resources = Resources(memory_bytes=250_000)
    assert parts > 5
    for stop_after in range(1, passes * (parts - 1)):
        kept: list[Any] = []

        def keep(checkpoint: Any, kept: list[Any] = kept, last: int = stop_after) -> None:
            kept.append(json.loads(json.dumps(checkpoint)))
            if len(kept) == last:
                raise Stopped

        path = tmp_path / f"{name}-{stop_after}.safetensors"
        with pytest.raises(Stopped):
            combine(
                work, FileSink(path), format="safetensors", resources=resources, checkpoint=keep
            )
        assert not path.exists()
        combine(work, FileSink(path, state_of(kept[-1])), format="safetensors", resume=kept[-1])
        assert path.read_bytes() == expected


@pytest.mark.parametrize("format", ["safetensors", "npz", "json"])
def test_work_that_runs_out_of_time_again_and_again_ends(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that is stopped after each part it stored ends with the same bytes, in any format."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 30_000)
    work = work_of("weighted_mean", mixed_models(3))
    whole = MemorySink()
    combine(work, whole, format=format)
    resume, attempts = None, 0
    resources = Resources(memory_bytes=100_000)
    path = tmp_path / f"result.{format}"
    while True:
        attempts += 1
        kept: list[Any] = []
        try:
            combine(
                work,
                FileSink(path, state_of(resume)),
                format=format,
                resources=resources,
                resume=resume,
                checkpoint=kept.append,
                out_of_time=partial(bool, kept),
            )
            break
        except OutOfTime:
            resume = json.loads(json.dumps(kept[-1]))
    assert attempts >= 3
    assert path.read_bytes() == whole.data


def bunched(n: int) -> list[dict[str, Any]]:
    """Return updates so close to each other that they must be measured a second time."""
    rng = np.random.default_rng(0)
    return [{"w": (1 + 1e-5 * rng.normal(size=9000)).astype(np.float32)} for _ in range(n)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("krum", {"f": 1}), ("norm_filtered_mean", {}), ("centered_clipping", {"tau": 3.0})],
)
@pytest.mark.parametrize("updates", [mixed_models(7), bunched(7)], ids=["scattered", "bunched"])
def test_measuring_can_be_interrupted(
    name: str, arguments: dict[str, Any], updates: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that is stopped repeatedly while it measures comes to the same selection and norms."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 4_000)
    parent = {key: np.zeros_like(tensor) for key, tensor in updates[0].items()}
    work = work_of(name, updates, list(range(1, 8)), parent, **arguments)
    _, whole = run(work)
    resume: Any = None
    attempts = 0
    while not (resume and resume["progress"]):
        attempts += 1
        kept: list[Any] = []
        with pytest.raises(OutOfTime):
            run(
                work,
                Resources(memory_bytes=200_000),
                resume=resume,
                checkpoint=kept.append,
                out_of_time=partial(bool, kept),
            )
        resume = json.loads(json.dumps(kept[-1]))
    assert attempts > 4
    assert resume["selection"] == json.loads(json.dumps(whole.selection.to_json()))
    assert resume["norms"] == whole.norms


def test_work_that_runs_out_of_time_reports_the_bad_updates() -> None:
    """If bad values were found when the time is up, they are reported, or no attempt would get
    further."""
    updates = [*bunched(4), {"w": np.full(9000, np.nan, np.float32)}]
    cases: list[tuple[str, dict[str, Any]]] = [("krum", {"f": 1}), ("weighted_mean", {})]
    for name, arguments in cases:
        with pytest.raises(UpdatesRejected) as rejected:
            run(
                work_of(name, updates, **arguments),
                Resources(memory_bytes=40_000),
                out_of_time=lambda: True,
            )
        assert rejected.value.reasons == {4: "nan in tensor 'w' at [0]"}
