"""The definition of the state machine agrees with the template, the code, and the embedded cloud."""

from __future__ import annotations

import json
import re
from typing import Any

from aggregation.engine.distribution import LONGEST_TASK_SECONDS
from connectors.limits import EXECUTION_SECONDS, STOP_BEFORE_END_SECONDS
from connectors.runtime.events import TASK_FIELDS
from connectors.usecases.distributed_round import TEMPORARY_ERRORS
from local.step_functions import DEFINITION, definition
from tests.deploy.stack import template

#: Seconds after which an Express workflow ends.
EXPRESS_SECONDS = 300

TEXT = DEFINITION.read_text()
STATES: dict[str, Any] = json.loads(TEXT)["States"]
MAPS = {name: state for name, state in STATES.items() if state["Type"] == "Map"}
TASKS = {name: state for name, state in STATES.items() if state["Type"] == "Task"} | {
    name: task for each in MAPS.values() for name, task in each["ItemProcessor"]["States"].items()
}


def test_the_lease_covers_an_execution() -> None:
    """An execution ends when the lease of its round does."""
    assert json.loads(TEXT)["TimeoutSeconds"] == EXECUTION_SECONDS


def test_every_placeholder_is_substituted() -> None:
    """The template and the embedded cloud give a value to each placeholder, and to no other name."""
    machine = template()["Resources"]["RoundStateMachine"]["Properties"]
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == machine["DefinitionSubstitutions"].keys()
    assert "${" not in definition()


def test_a_worker_has_the_time_for_a_task() -> None:
    """The longest task ends before its function must stop, and the function before the workflow ends."""
    worker = template()["Resources"]["WorkerFunction"]["Properties"]
    assert worker["Timeout"] - STOP_BEFORE_END_SECONDS >= LONGEST_TASK_SECONDS
    assert worker["Timeout"] < EXPRESS_SECONDS


def test_what_is_retried_is_temporary() -> None:
    """Each error that a task is repeated for lets the round be resumed if the retries are exhausted."""
    for task in TASKS.values():
        for retry in task["Retry"]:
            assert all(name.startswith(TEMPORARY_ERRORS) for name in retry["ErrorEquals"])


def test_a_throttled_task_waits_for_others_to_end() -> None:
    """Without enough concurrency, a task waits longer than for a service that is unavailable."""
    for task in TASKS.values():
        throttled, unavailable = task["Retry"]
        assert throttled["ErrorEquals"] == ["Lambda.TooManyRequestsException"]
        assert seconds_of(throttled) > 2 * seconds_of(unavailable)


def seconds_of(retry: dict[str, Any]) -> float:
    """Return the most that the retries of a task wait."""
    first, factor, most = (
        float(retry[name]) for name in ("IntervalSeconds", "BackoffRate", "MaxDelaySeconds")
    )
    return sum(min(first * factor**n, most) for n in range(retry["MaxAttempts"]))


def test_every_failure_is_caught() -> None:
    """Whatever fails leads to the task that closes or releases the round, unless that fails itself."""
    for name, state in {**TASKS, **MAPS}.items():
        if name in STATES and name != "Fail":
            (catch,) = state["Catch"]
            assert (catch["ErrorEquals"], catch["Next"]) == (["States.ALL"], "Fail")


def test_tasks_have_the_fields_that_the_functions_expect() -> None:
    """The payload of each task is parsed by the function that it invokes."""
    payloads = [each["ItemSelector"] for each in MAPS.values()]
    payloads += [each["Parameters"]["Payload"] for name, each in TASKS.items() if name in STATES]
    for payload in payloads:
        fields = {name.removesuffix(".$") for name in payload} - {"task", "plan"}
        assert fields == TASK_FIELDS[payload["task"]]


def test_the_output_of_a_map_stays_small() -> None:
    """A child returns nothing: 256 KiB hold the outputs of ten thousand children."""
    for each in MAPS.values():
        for task in each["ItemProcessor"]["States"].values():
            assert task["OutputPath"] is None
        assert each["ResultPath"] is None
