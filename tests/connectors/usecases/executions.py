"""Executions of distributed rounds in this process: the real handlers, one task after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.test import override_settings

from aggregation.round import RoundAnswer
from aggregation.round.plan import Execution
from connectors import application
from tests.test_lambda_handler import Context, invoke

ARN = "arn:aws:states:eu-central-1:123456789012:stateMachine:federation-round"

#: What Step Functions reports of a map with a failed task.
MAP_FAILED = {
    "Error": "States.ExceedToleratedFailureThreshold",
    "Cause": "The specified tolerated failure threshold was exceeded",
}


def work(event: Any) -> Any:
    """Invoke the workers' function."""
    from lambda_handler import work

    return work(event, Context())  # type: ignore[arg-type]


class Executions:
    """Starts no execution, but keeps its input until `run` is called.

    Attributes
    ----------
    started : dict
        Inputs by name.
    work : callable
        Invokes the workers' function.
    tasks : list of str
        The kinds of the tasks that were invoked.
    """

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}
        self.work: Callable[[Any], Any] = work
        self.tasks: list[str] = []

    def start(self, name: str, execution: Execution) -> RoundAnswer | None:
        self.started[name] = json.loads(json.dumps(execution.to_json()))
        return None

    def run(self) -> Any:
        """Do what the state machine does with the latest execution, and return the last answer."""
        state = list(self.started.values())[-1]
        while "plan" in state:
            common = {"plan": state["plan"], "attempt": state["attempt"]}
            kind = "measure" if state["select"] else "combine"
            try:
                for item in state[kind]:
                    self._invoke(self.work, task=kind, item=item, **_of_worker(state))
            except Exception:
                return self._invoke(invoke, task="fail", error=MAP_FAILED, **common)
            if state["select"]:
                state = self._invoke(invoke, task="select", centre=state["centre"], **common)
            else:
                state = self._invoke(invoke, task="publish", **common)
        return state

    def _invoke(self, function: Callable[[Any], Any], **event: Any) -> Any:
        self.tasks.append(event["task"])
        return json.loads(json.dumps(function(event)))


def _of_worker(state: Any) -> dict[str, Any]:
    return {"plan": state["plan"], "centre": state["centre"]}


@contextmanager
def shared_by(functions: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executions]:
    """Let rounds be shared by so many functions, whatever their size."""
    executions = Executions()
    monkeypatch.setattr(application, "state_machine", lambda: executions)
    with override_settings(MAX_FUNCTIONS=functions, FUNCTION_BYTES_PER_SECOND=500):
        yield executions
