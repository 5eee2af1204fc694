"""The costs and the duration of rounds that several functions share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aggregation.engine import Resources
from aggregation.engine.distribution import (
    MEASURING_SECONDS,
    OVERHEAD_SECONDS,
    Capacity,
)
from aggregation.round import Claim
from aggregation.round.distributed import finish, select
from aggregation.round.plan import Execution
from aggregation.round.planning import plan_round
from aggregation.round.worker import Worker
from connectors import application
from costs.published import SHARDED, same_work
from costs.shared import READING, SharedRound, share
from costs.stack import Stack
from tests.costs import page
from tests.costs.test_estimate import RULES, counted, ready_model, small_parts, work
from tests.deploy.stack import ROOT
from tests.untyped import default_storage

#: The fixture of the other module.
__all__ = ["small_parts"]

STATES = json.loads((ROOT / "statemachines" / "round.asl.json").read_text())["States"]

#: Updates are read more slowly than any target allows, so that all functions are used.
RATE = 1e-3


def do_all(claim: Claim, functions: int, resources: Resources) -> Execution:
    """Do all tasks of a round that several functions share, and return the last execution."""
    connector = application.round_connector()
    capacity = Capacity(bytes_per_second=1e3, target_seconds=0.0, max_functions=functions)
    execution = plan_round(connector, claim, capacity, resources)
    assert isinstance(execution, Execution)
    if execution.select:
        for task in execution.measure:
            Worker(connector, execution.plan, resources).measure(task, execution.centre)
        outcome = select(connector, execution.plan, claim.attempt, execution.centre, resources)
        assert isinstance(outcome, Execution)
        execution = outcome
    for task in execution.combine:
        Worker(connector, execution.plan, resources).combine(task)
    assert isinstance(finish(connector, execution.plan, claim.attempt, resources), tuple)
    return execution


def shared(
    rule: str, updates: int, params: int, functions: int, memory: int, optimizer: str = "none"
) -> SharedRound:
    found = share(
        work(params, updates, rule, memory, optimizer),
        Stack(max_functions=functions),
        RATE,
        target_seconds=0.001,
    )
    assert found
    return found


@pytest.mark.usefixtures("database", "cloud", "small_parts")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("memory", [1 << 15, 1 << 24])
@pytest.mark.parametrize("rule", RULES)
def test_the_requests_of_a_shared_round_are_estimated_exactly(rule: str, memory: int) -> None:
    """The plan, its tasks, the selection and the completed result make exactly the estimated requests."""
    params, updates = 5_000, 7
    model = ready_model(rule, params, updates)
    claim = application.round_connector().claim_round(model.pk)
    assert isinstance(claim, Claim)
    with counted(default_storage.connection.meta.client) as asked:
        execution = do_all(claim, 2, Resources(memory_bytes=memory))
    estimated = shared(rule, updates, params, 2, memory)
    assert execution.functions == estimated.functions == 2
    assert asked == estimated.requests


@pytest.mark.usefixtures("database", "cloud", "small_parts")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("optimizer", ["sgd", "fedavgm", "fedadam"])
def test_the_requests_of_a_shared_step_are_estimated_exactly(optimizer: str) -> None:
    """Each task opens the optimizer's state, and stores its share of the new one."""
    params, updates, memory = 5_000, 7, 1 << 24
    model = ready_model("weighted_mean", params, updates, optimizer)
    claim = application.round_connector().claim_round(model.pk)
    assert isinstance(claim, Claim)
    with counted(default_storage.connection.meta.client) as asked:
        do_all(claim, 2, Resources(memory_bytes=memory))
    assert asked == shared("weighted_mean", updates, params, 2, memory, optimizer).requests


#: The sizes of the comparison with the most that a round may take, and that a thousand rounds may cost.
BARS = {"512 MB, 16 functions": (20, 3.00), "5 GB": (60, 40.00)}


@pytest.mark.parametrize("model", BARS)
def test_a_shared_round_is_fast_and_cheap(model: str) -> None:
    """At 70 MB/s for each function, 20 updates take at most so many seconds and dollars."""
    (published,) = [each for each in SHARDED if each.model == model]
    federation = same_work(published, page.federation(rate=70), shared=True)
    seconds, dollars = BARS[model]
    assert federation.elapsed_seconds <= seconds
    assert 1000 * federation.round_dollars <= dollars
    assert seconds < published.seconds
    assert dollars < published.dollars


def test_the_readme_quotes_the_estimate() -> None:
    """The README states the modelled duration and costs of the shared round of 20 x 512 MB."""
    (published,) = [each for each in SHARDED if each.model == "512 MB, 16 functions"]
    federation = same_work(published, page.federation(), shared=True)
    assert federation.shared
    readme = (ROOT / "README.md").read_text()
    assert f"shared by {federation.shared.functions} functions, **modelled**" in readme
    assert (
        f"{federation.elapsed_seconds:.0f} s and ${1000 * federation.round_dollars:.2f} for"
        in readme
    )
    assert f"measured {published.seconds} s and ${published.dollars}" in readme


@pytest.mark.parametrize("rule", ["weighted_mean", "krum"])
@pytest.mark.parametrize("updates", [10, 100])
def test_the_planner_expects_the_modelled_overhead(rule: str, updates: int) -> None:
    """The planner assumes the time in which no function reads, within a second."""
    found = share(
        work(25_000_000, updates, rule, 272 << 20), Stack(max_functions=20), 70, target_seconds=10
    )
    assert found
    expected = OVERHEAD_SECONDS + (MEASURING_SECONDS if rule == "krum" else 0)
    assert found.seconds - found.terms[READING] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("rule", ["weighted_mean", "krum"])
def test_the_transitions_are_those_of_the_state_machine(rule: str) -> None:
    """The states that a round enters, and each task, are counted as transitions."""
    found = shared(rule, 7, 10_000_000, 3, 1 << 24)
    tasks = found.distribution
    todo = {"plan": "p", "measure": tasks.measuring, "combine": tasks.combining}
    entered, state = 0, "ChooseNext"
    while True:
        entered += 1
        if STATES[state]["Type"] == "Succeed":
            break
        if STATES[state]["Type"] == "Choice":
            state = chosen(STATES[state], {**todo, "select": bool(todo.get("measure"))})
            continue
        match state:
            case "Measure":
                entered += len(tasks.measuring)
            case "Select":
                todo["measure"] = ()
            case "Combine":
                entered += len(tasks.combining)
            case "Publish":
                todo = {}
        state = STATES[state]["Next"]
    assert entered == found.transitions


def chosen(choice: Any, values: dict[str, Any]) -> str:
    """Return the state that a choice leads to."""
    for rule in choice["Choices"]:
        name, _, index = rule["Variable"].removeprefix("$.").partition("[")
        value = values.get(name)
        found = bool(value) if index else value is not None
        if rule.get("BooleanEquals") == value or rule.get("IsPresent") == found:
            return str(rule["Next"])
    return str(choice["Default"])


def test_the_aggregating_function_waits_for_nobody() -> None:
    """It is billed for planning and publishing only, however long the tasks take."""
    short, long = (shared("weighted_mean", 7, params, 3, 1 << 24) for params in (10**7, 10**8))
    assert short.main_seconds < 2
    assert long.main_seconds == pytest.approx(short.main_seconds, abs=0.1)
    assert long.worker_seconds > 9 * short.worker_seconds


def test_several_functions_are_not_used_by_default() -> None:
    """With the template's defaults, one function does a round of any size."""
    assert page.federation().shared is None
    assert page.federation().sharing == []
