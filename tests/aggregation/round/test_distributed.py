"""A distributed round gives the bytes of one function, whatever happens to its tasks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.engine import Resources, ranges
from aggregation.engine.distribution import Capacity
from aggregation.errors import OutOfTime
from aggregation.formats import Spool, format_of, open_weights
from aggregation.layout import TensorLayout
from aggregation.optimizers import create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.pre_aggregation import build_rule
from aggregation.requirements import Readiness, create_requirement
from aggregation.round import Claim, ClaimedUpdate, RoundCheckpoint, RoundResult
from aggregation.round.attempt import Attempt
from aggregation.round.distributed import finish, select
from aggregation.round.plan import PLAN, Execution, Plan, Rejection
from aggregation.round.planning import plan_round
from aggregation.round.worker import Worker
from aggregation.rules import Rule
from aggregation.staleness import create_staleness
from aggregation.weights import Weights
from connectors.storage.filesystem import FileObjects

RESOURCES = Resources(memory_bytes=1 << 16)
N = 9
ELEMENTS = 5000

RULES: dict[str, dict[str, Any]] = {
    "weighted_mean": {},
    "unweighted_mean": {},
    "normalized_mean": {},
    "coordinate_median": {},
    "trimmed_mean": {"f": 2},
    "krum": {"f": 2},
    "multi_krum": {"f": 2},
    "bulyan": {"f": 1},
    "geometric_median": {},
    "norm_clipped_mean": {"max_norm": 20.0},
    "centered_clipping": {"tau": 20.0},
    "norm_filtered_mean": {"threshold": 3.0},
    "spectral_filter": {"f": 2},
    "history_filter": {"f": 2},
    "nnm(f=2) + multi_krum": {"f": 2},
    "arc(f=2) + nnm(f=2) + coordinate_median": {},
    "bucketing(s=2) + trimmed_mean": {"f": 1},
}

#: The state that the optimizer left with the parent.
STATE = "base-0.optimizer.safetensors"

MEANS = ("weighted_mean", "normalized_mean")


#: Each policy at least once, with the defaults for the others.
POLICIES = TensorPolicies.from_list(
    [["head.*", "exclude"], ["steps", "max"], ["b", "average"]], frozen=["lora_A"]
)


@dataclass
class FileFolder:
    path: Path

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(data)

    def names(self) -> set[str]:
        return {path.name for path in self.path.glob("*")}


@dataclass
class DirectoryConnector:
    """The storage of a round, in a directory; the metadata is the last checkpoint."""

    root: Path
    checkpoint: RoundCheckpoint | None = None
    folders: int = 0
    results: int = 0
    objects: FileObjects = field(init=False)

    def __post_init__(self) -> None:
        self.objects = FileObjects(self.root)

    def _open(self, key: str, expected: TensorLayout | None, spool: Spool | None) -> Weights:
        seen = self.objects.stat(key)
        source = self.objects.source(key, size=seen.size, etag=seen.etag)
        return open_weights(source, format_of(key), expected_layout=expected, spool=spool)

    def open_parent(self, claim: Claim, spool: Spool | None) -> Weights | None:
        return self._open(claim.parent, None, spool) if claim.parent else None

    def open_base(self, location: str, spool: Spool | None) -> Weights:
        return self._open(location, None, spool)

    def open_state(self, location: str) -> Weights:
        return self._open(location, None, None)

    def open_update(
        self, update: ClaimedUpdate, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        return self._open(update.location, expected_layout, spool)

    def new_result(self, claim: Claim, format: str, state: Any) -> Any:
        self.results += 1
        return self.objects.sink(f"result-{self.results}.{format}", state)

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        self.checkpoint = checkpoint

    def hand_over(self, claim: Claim, checkpoint: RoundCheckpoint, *, progress: bool) -> None:
        self.checkpoint = checkpoint

    def new_folder(self, claim: Claim) -> str:
        self.folders += 1
        return f"plan-{self.folders}"

    def folder(self, location: str) -> FileFolder:
        return FileFolder(self.root / location)


def rule_named(text: str) -> Rule:
    """Return a rule of the table with the steps before it."""
    *steps, name = text.split(" + ")
    return build_rule(name, RULES[text], steps, "5eed" * 16)


def claim_in(
    root: Path,
    rule: str,
    *,
    bad: dict[int, Any] | None = None,
    requirement: int = 1,
    staleness: str = "",
    optimizer: str = "none",
) -> Claim:
    """Store bases and updates, some of them with other values, and return a claim of them.

    The first of the three bases is the parent. The updates are up to two rounds late. The parent has a
    state of the optimizer for two of the tensors, one of which is frozen in this round.
    """
    generator = np.random.default_rng(7)
    shapes = {
        "w": (ELEMENTS - 40,),
        "b": (40,),
        "bn.running_var": (130,),
        "head.w": (170,),
        "steps": (50,),
        "lora_A": (300,),
    }

    def tensors() -> dict[str, Any]:
        found = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        return {**found, "counter": np.arange(3)}

    bases = [tensors() for _ in range(3)]
    for late, base in enumerate(bases):
        base["lora_A"] = bases[0]["lora_A"]
        safetensors.numpy.save_file(base, root / f"base-{late}.safetensors")
    updates = []
    for number in range(N):
        arrays = tensors() | {"lora_A": bases[0]["lora_A"]}
        del arrays["head.w"]
        if bad and number in bad:
            arrays["w"][bad[number]] = np.nan
        path = root / f"update-{number}.safetensors"
        safetensors.numpy.save_file(arrays, path)
        size = path.stat().st_size
        updates.append(
            ClaimedUpdate(
                id=number,
                num_examples=number + 1,
                location=path.name,
                size=size,
                num_steps=2 * number + 1,
                rounds_late=number % 3,
                base=f"base-{number % 3}.safetensors",
                direction=2.0 - number,
            )
        )
    chosen = create_optimizer(optimizer)
    if chosen.slots:
        names = ("w", "lora_A")
        state = {name: generator.uniform(size=(*shapes[name], chosen.slots)) for name in names}
        safetensors.numpy.save_file(state, root / STATE)
    return Claim(
        model_id=1,
        round_id=1,
        number=1,
        attempt=1,
        optimizer=chosen,
        optimizer_state=STATE if chosen.slots else None,
        rule=rule_named(rule),
        requirement=create_requirement("require_x_updates", {"x": requirement}),
        readiness=Readiness(members=N, ready=N),
        updates=tuple(updates),
        policies=POLICIES,
        parent="base-0.safetensors",
        staleness=create_staleness(staleness),
    )


def capacity(functions: int) -> Capacity:
    return Capacity(bytes_per_second=1000, target_seconds=0.001, max_functions=functions)


def in_one_function(connector: DirectoryConnector, claim: Claim) -> tuple[bytes, Any]:
    attempt = Attempt(connector, claim, RESOURCES, lambda: False)  # type: ignore[arg-type]
    result = attempt.combine()
    return stored_bytes(connector, result), result


def stored_bytes(connector: Any, result: RoundResult) -> bytes:
    """Return the bytes of a result, followed by those of the optimizer's state if there is one."""
    names = filter(None, (result.location, result.optimizer_state))
    return b"".join((connector.root / name).read_bytes() for name in names)


def run_tasks(
    connector: Any, execution: Execution, disturb: Callable[[list[Any]], list[Any]]
) -> tuple[bytes, Any]:
    """Do what the state machine does, with the tasks of each map in the order of ``disturb``."""
    while True:
        worker = Worker(connector, execution.plan, RESOURCES)
        if execution.select:
            for task in disturb(execution.measure):
                worker.measure(task, execution.centre)
            selected = select(
                connector, execution.plan, execution.attempt, execution.centre, RESOURCES
            )
            assert isinstance(selected, Execution)
            execution = selected
            continue
        for task in disturb(execution.combine):
            worker.combine(task)
        ended = finish(connector, execution.plan, execution.attempt, RESOURCES)
        if isinstance(ended, Execution):
            execution = ended
            continue
        assert isinstance(ended, tuple)
        _, result = ended
        return stored_bytes(connector, result), result


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 800 bytes, so that the model has 25 of them; cells and segments of 40 elements."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", 800)
    for module in ("ranges", "segments", "passes"):
        monkeypatch.setattr(f"aggregation.engine.{module}.CELL", 40)


@pytest.mark.parametrize("functions", [2, 3, 7, 16])
@pytest.mark.parametrize("rule", RULES)
def test_any_number_of_functions_gives_the_same_bytes(
    rule: str, functions: int, tmp_path: Path
) -> None:
    """The bytes, the selection and the norms are those of one function; late means are discounted."""
    connector = DirectoryConnector(tmp_path)
    claim = claim_in(tmp_path, rule, staleness="polynomial" if rule in MEANS else "")
    expected, alone = in_one_function(connector, claim)
    execution = plan_round(connector, claim, capacity(functions), RESOURCES)  # type: ignore[arg-type]
    assert isinstance(execution, Execution)
    assert execution.functions == functions
    found, result = run_tasks(connector, execution, list)
    assert found == expected
    assert result.combined.selection == alone.combined.selection
    assert result.combined.norms == alone.combined.norms
    assert result.combined.bytes_read == alone.combined.bytes_read
    assert result.workers["functions"] == functions
    combined = [each for each in result.workers["tasks"] if each["kind"] == "combine"]
    parts = Plan.from_json(connector.folder(execution.plan).read(PLAN)).parts
    assert (combined[0]["first"], combined[-1]["last"]) == (0, parts)


@given(
    rule=st.sampled_from(sorted(RULES)),
    functions=st.integers(2, 16),
    seed=st.integers(0, 2**32),
    optimizer=st.sampled_from(["none", "sgd", "fedavgm", "fedadam"]),
    bad=st.dictionaries(st.integers(0, N - 1), st.integers(0, ELEMENTS - 41), max_size=2),
)
@settings(max_examples=25)
def test_disturbed_tasks_give_the_same_bytes(
    rule: str,
    functions: int,
    seed: int,
    optimizer: str,
    bad: dict[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Tasks in any order, repeated, killed and resumed by a later attempt, with bad updates found on the
    way, give the bytes that one function gives, and the same rejections."""
    root = tmp_path_factory.mktemp("round")
    connector: Any = DirectoryConnector(root)
    staleness = "polynomial" if rule in MEANS else ""
    claim = claim_in(root, rule, bad=bad, staleness=staleness, optimizer=optimizer)
    expected, alone = in_one_function(connector, claim)
    chance = random.Random(seed)

    def disturb(tasks: list[Any]) -> list[Any]:
        return chance.sample(tasks, len(tasks)) + chance.choices(tasks, k=len(tasks) // 2)

    execution = plan_round(connector, claim, capacity(functions), RESOURCES)
    assert isinstance(execution, Execution)
    # The first attempt dies after some of its tasks, one of them half-way.
    worker = Worker(connector, execution.plan, RESOURCES, lambda: chance.random() < 0.2)
    for task in disturb(execution.measure or execution.combine)[: functions // 2]:
        try:
            if execution.select:
                worker.measure(task, execution.centre)
            else:
                worker.combine(task)
        except OutOfTime:
            pass
    again = replace(claim, attempt=2, checkpoint=connector.checkpoint)
    resumed = plan_round(connector, again, capacity(functions), RESOURCES)
    assert isinstance(resumed, Execution)
    assert resumed.plan == execution.plan
    found, result = run_tasks(connector, resumed, disturb)
    assert found == expected
    assert result.rejected == alone.rejected
    assert result.used == alone.used


@pytest.mark.parametrize("functions", [2, 7, 16])
@pytest.mark.parametrize("optimizer", ["sgd", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_several_functions_write_the_state_of_the_optimizer(
    optimizer: str, functions: int, tmp_path: Path
) -> None:
    """The aggregate and the state have the bytes of one function; a frozen tensor keeps its state."""
    connector = DirectoryConnector(tmp_path)
    claim = claim_in(tmp_path, "weighted_mean", optimizer=optimizer)
    expected, _ = in_one_function(connector, claim)
    execution = plan_round(connector, claim, capacity(functions), RESOURCES)  # type: ignore[arg-type]
    assert isinstance(execution, Execution)
    assert execution.functions == functions
    found, result = run_tasks(connector, execution, list)
    assert found == expected
    assert bool(result.optimizer_state) == bool(claim.optimizer.slots)
    if result.optimizer_state:
        before = safetensors.numpy.load_file(tmp_path / STATE)
        after = safetensors.numpy.load_file(tmp_path / result.optimizer_state)
        assert after.keys() == {"w", "lora_A"}
        assert before["lora_A"].tobytes() == after["lora_A"].tobytes()


def test_one_function_does_not_continue_the_result_of_several(tmp_path: Path) -> None:
    """If one function takes a planned round over, a late task cannot write into its result."""
    connector: Any = DirectoryConnector(tmp_path)
    claim = claim_in(tmp_path, "weighted_mean")
    expected, _ = in_one_function(connector, claim)
    execution = plan_round(connector, claim, capacity(4), RESOURCES)
    assert isinstance(execution, Execution)
    late = Worker(connector, execution.plan, RESOURCES)
    late.combine(execution.combine[0])
    assert connector.checkpoint
    again = replace(claim, attempt=2, checkpoint=connector.checkpoint)
    begun = connector.checkpoint["sink"]["key"]
    found, result = in_one_function(connector, again)
    assert result.location != begun
    late.combine(execution.combine[1])
    assert found == expected
    assert (tmp_path / result.location).read_bytes() == expected


def test_a_small_round_stays_in_one_function(tmp_path: Path) -> None:
    """A round that one function reads within the target is not planned, and nothing is written."""
    connector: Any = DirectoryConnector(tmp_path)
    claim = claim_in(tmp_path, "weighted_mean")
    before = set(tmp_path.iterdir())
    enough = Capacity(bytes_per_second=1e6, target_seconds=30, max_functions=8)
    assert plan_round(connector, claim, enough, RESOURCES) is None
    assert plan_round(connector, claim, capacity(1), RESOURCES) is None
    assert set(tmp_path.iterdir()) == before


def test_a_round_that_loses_too_many_updates_ends(tmp_path: Path) -> None:
    """The requirement is checked again without the updates that the tasks found to be bad."""
    connector: Any = DirectoryConnector(tmp_path)
    claim = claim_in(tmp_path, "weighted_mean", bad={2: 100}, requirement=N)
    execution = plan_round(connector, claim, capacity(4), RESOURCES)
    assert isinstance(execution, Execution)
    worker = Worker(connector, execution.plan, RESOURCES)
    for task in execution.combine:
        worker.combine(task)
    ended = finish(connector, execution.plan, execution.attempt, RESOURCES)
    assert isinstance(ended, Rejection)
    assert ended.rejected.keys() == {2}
    assert "8 of 9 clients ready" in ended.reason


@pytest.mark.parametrize("functions", [2, 7])
def test_large_parts_give_the_same_bytes(
    functions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers write parts that are too large for the memory to disk, and the bytes stay the same."""
    connector: Any = DirectoryConnector(tmp_path)
    claim = claim_in(tmp_path, "weighted_mean")
    expected, _ = in_one_function(connector, claim)
    monkeypatch.setattr("aggregation.engine.ranges.MAX_PARTS", 7)
    monkeypatch.setattr("aggregation.engine.distribution.MAX_PARTS", 7)
    execution = plan_round(connector, claim, capacity(functions), RESOURCES)
    assert isinstance(execution, Execution)
    plan = Plan.from_json(connector.folder(execution.plan).read(PLAN))
    assert plan.part_bytes > 2 * ranges.PART_BYTES
    found, _ = run_tasks(connector, execution, list)
    assert found == expected
