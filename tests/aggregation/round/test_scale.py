"""Rounds of terabytes are planned without moving a byte, and compared with the limits of AWS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregation.engine import Resources
from aggregation.engine.distribution import Capacity
from aggregation.errors import PartTooLarge
from aggregation.layout import Tensor, TensorLayout
from aggregation.requirements import Readiness, create_requirement
from aggregation.round import Claim, ClaimedUpdate
from aggregation.round.plan import PLAN, Execution, Plan
from aggregation.round.planning import plan_round
from aggregation.rules import create_rule
from aggregation.weights import Weights, shared_index

MB, MIB, GIB, TB = 10**6, 1 << 20, 1 << 30, 10**12

# Limits of AWS.

#: "Amazon S3 multipart upload limits", user guide of Amazon S3.
S3_PARTS, S3_SMALLEST_PART, S3_LARGEST_PART = 10_000, 5 * MIB, 5 * GIB

#: "Step Functions service quotas", developer guide of AWS Step Functions: the input or output of a state or
#: an execution, the events of an execution, the children of a map at the same time, an Express workflow.
STATE_BYTES, HISTORY_EVENTS, MAP_CONCURRENCY, EXPRESS_SECONDS = 256 << 10, 25_000, 10_000, 300

#: "Lambda quotas", developer guide of AWS Lambda: a function's time, its /tmp, and executions of an account
#: at the same time, before a raise.
LAMBDA_SECONDS, LAMBDA_DISK, LAMBDA_CONCURRENCY = 900, 10_240 * MIB, 1000

# Assumptions.

#: The rate of one function, and nine tenths of its /tmp by default.
RATE, DISK = 70 * MB, (512 * MIB) // 10 * 9

RULES: dict[str, dict[str, Any]] = {"weighted_mean": {}, "multi_krum": {"f": 3}}
DEFINITION = Path(__file__).parents[3] / "statemachines" / "round.asl.json"


class Unread:
    """A source of which no byte may be read."""

    local = False

    def __init__(self, size: int) -> None:
        self.size = size

    def read_into(self, offset: int, buffer: Any) -> None:
        raise AssertionError("a plan reads no weights")


@dataclass
class MemoryFolder:
    objects: dict[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        return self.objects[name]

    def write(self, name: str, data: bytes) -> None:
        self.objects[name] = data

    def names(self) -> set[str]:
        return set(self.objects)


class Upload:
    """An upload that is begun, and nothing else."""

    def begin(self) -> dict[str, Any]:
        return {"key": "aggregates/1/round-000001", "upload_id": "u" * 120, "parts": 0}


class PlanningConnector:
    """Opens updates of one layout without content, and keeps a plan."""

    def __init__(self, layout: TensorLayout) -> None:
        ends = list(accumulate((tensor.nbytes for tensor in layout.tensors), initial=0))
        index = shared_index(layout, ends[:-1])
        self._weights = Weights(index=index, source=Unread(ends[-1]), format="safetensors")
        self._folder = MemoryFolder()

    def open_parent(self, claim: Claim, spool: Any) -> Weights:
        return self._weights

    def open_update(self, update: ClaimedUpdate, expected_layout: Any, spool: Any) -> Weights:
        return self._weights

    def open_base(self, location: str, spool: Any) -> Weights:
        return self._weights

    def new_result(self, claim: Claim, format: str, state: Any) -> Upload:
        return Upload()

    def new_folder(self, claim: Claim) -> str:
        return f"plans/{claim.model_id}/{claim.round_id}-{'0' * 32}/"

    def folder(self, location: str) -> MemoryFolder:
        return self._folder

    def hand_over(self, claim: Claim, checkpoint: Any, *, progress: bool = False) -> None:
        pass


def layout_of(nbytes: int) -> TensorLayout:
    """Return the layout of a model of this size, in tensors of 1 GB."""
    return TensorLayout(
        tuple(
            Tensor(f"layers.{number}.weight", np.dtype("<f4"), (250 * MB,))
            for number in range(nbytes // (1000 * MB))
        )
    )


def plan_of(
    nbytes: int, clients: int, rule: str, *, disk: int = DISK
) -> tuple[Plan, bytes, Execution] | None:
    """Plan a round of so many clients, each with a model of this size.

    Returns
    -------
    (Plan, bytes, Execution) or None
        The plan, its object, and the input of the state machine; None if the round is not distributed.
    """
    claim = Claim(
        model_id=10**6,
        round_id=10**9,
        number=10**6,
        attempt=5,
        rule=create_rule(rule, RULES[rule]),
        requirement=create_requirement("require_x_updates", {"x": 1}),
        readiness=Readiness(members=clients, ready=clients),
        updates=tuple(
            ClaimedUpdate(
                id=10**9 + number,
                num_examples=10**6,
                location=f"updates/1000000/{number:036}/update.safetensors",
                size=nbytes,
                etag=f"{number:032x}-10000",
                version="v" * 32,
            )
            for number in range(clients)
        ),
        parent="aggregates/1000000/round-000999.safetensors",
    )
    connector: Any = PlanningConnector(layout_of(nbytes))
    capacity = Capacity(bytes_per_second=RATE, target_seconds=30, max_functions=LAMBDA_CONCURRENCY)
    execution = plan_round(connector, claim, capacity, Resources(disk_bytes=disk))
    if execution is None:
        return None
    assert isinstance(execution, Execution)
    data = connector.folder(execution.plan).read(PLAN)
    return Plan.from_json(data), data, execution


def largest_share(count: int, tasks: Sequence[tuple[int, int]]) -> float:
    """Return the largest share of a pass that a task has."""
    return max(last - first for first, last in tasks) / count


@pytest.mark.parametrize(("nbytes", "clients"), [(TB, 100), (5 * TB, 20)], ids=["1 TB", "5 TB"])
@pytest.mark.parametrize("rule", RULES)
def test_a_round_of_terabytes_fits_into_the_limits_of_aws(
    rule: str, nbytes: int, clients: int
) -> None:
    """The plan of 100 TB of updates has parts, payloads, tasks and items that AWS accepts.

    Tasks end in time even if functions read at two thirds of the assumed rate.
    """
    planned = plan_of(nbytes, clients, rule, disk=LAMBDA_DISK // 10 * 9)
    assert planned
    plan, data, execution = planned
    tasks = plan.distribution

    # Amazon S3
    assert plan.parts <= S3_PARTS
    assert S3_SMALLEST_PART <= plan.part_bytes <= S3_LARGEST_PART
    assert 2 * plan.part_bytes < LAMBDA_DISK
    # The plan is read by each task: a small share of what it reads besides.
    assert len(data) < MB

    # AWS Step Functions
    started = json.dumps(execution.to_json())
    assert len(started) < STATE_BYTES
    assert execution.functions <= min(MAP_CONCURRENCY, LAMBDA_CONCURRENCY)
    items = max(len(execution.measure), len(execution.combine))
    assert items * len("{},") < STATE_BYTES  # The outputs of a map's children: see below.

    # AWS Lambda, and the Express workflows in which its tasks run
    rows = clients + 1
    longest = nbytes * rows * largest_share(plan.parts, tasks.combining)
    if tasks.measuring:
        longest = max(longest, nbytes * rows * largest_share(plan.segments, tasks.measuring))
    assert longest / RATE * 1.5 < EXPRESS_SECONDS < LAMBDA_SECONDS


def test_one_terabyte_needs_no_larger_disk() -> None:
    """Two parts of a model of 1 TB fit into the /tmp that a function has by default."""
    planned = plan_of(TB, 100, "weighted_mean")
    assert planned
    plan, *_ = planned
    assert 2 * plan.part_bytes < DISK


def test_a_plan_whose_parts_exceed_the_disk_is_refused() -> None:
    """A model of 5 TB has parts of 500 MB; the error says how to make room for them."""
    with pytest.raises(PartTooLarge, match="EphemeralStorageMb"):
        plan_of(5 * TB, 20, "weighted_mean")


def test_a_part_that_takes_longer_than_a_task_is_not_distributed() -> None:
    """A part of 5 TB of a hundred clients takes 12 minutes, and an Express workflow ends after five."""
    assert plan_of(5 * TB, 100, "weighted_mean", disk=LAMBDA_DISK) is None


def test_the_history_of_an_execution_does_not_grow_with_its_tasks() -> None:
    """The children of the maps have histories of their own, and their outputs are empty.

    Counted are the events of a state's entry and exit, of each attempt of a task, and of a map's run, on
    a path through the state machine with two measuring passes, which is repeated for bad updates. An
    execution fails once, so that the states from `Fail` on are not repeated.
    """
    definition = json.loads(DEFINITION.read_text())
    repeated = dict(definition["States"])
    assert repeated.pop("Fail")["Next"] == "Failed"
    assert repeated.pop("Failed")["Type"] == "Fail"
    events = 0
    for state in repeated.values():
        events += 2
        if state["Type"] == "Map":
            assert state["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED"
            (task,) = state["ItemProcessor"]["States"].values()
            assert task["OutputPath"] is None
            events += 4
        if state["Type"] == "Task":
            attempts = 1 + sum(retry["MaxAttempts"] for retry in state["Retry"])
            events += 3 * attempts
    of_failing = 100
    assert 100 * 2 * events + of_failing < HISTORY_EVENTS
