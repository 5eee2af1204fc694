"""A round over several functions: it is handed over after its claim, and its tasks are done here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aggregation.engine import Resources
from aggregation.engine.distribution import Capacity
from aggregation.errors import AggregationError, LeaseLost
from aggregation.round import Claim, RoundAnswer, Status
from aggregation.round.distributed import finish, load_claim, plan_round, select
from aggregation.round.plan import Execution, Rejection
from aggregation.round.worker import Worker
from connectors.rounds.connector import DjangoRoundConnector

#: Errors of a task after which the round is resumed: it may succeed later with the same updates.
TEMPORARY_ERRORS = (
    "TemporarilyUnavailable",
    "OutOfTime",
    "Lambda.",
    "Runtime.",
    "Sandbox.",
    "States.",
)


class StartsExecutions(Protocol):
    """Starts the tasks of a round, which several functions run."""

    def start(self, name: str, execution: Execution) -> RoundAnswer | None:
        """Start an execution; a repeated start under one name has no effect.

        Returns
        -------
        RoundAnswer or None
            The round's answer, if it has ended by now.
        """


class TaskFailed(AggregationError):
    """A task of a distributed round met an error that the same updates would cause again."""


class RoundDistributor:
    """Hands rounds over that one function would not do within their target.

    Parameters
    ----------
    connector : DjangoRoundConnector
    resources : Resources
    state_machine : StartsExecutions
    bytes_per_second : float
        Rate at which one function reads.
    max_functions : int
        Functions that may share a round, unless its model says otherwise.
    """

    def __init__(
        self,
        connector: DjangoRoundConnector,
        resources: Resources,
        state_machine: StartsExecutions,
        *,
        bytes_per_second: float,
        max_functions: int,
    ) -> None:
        self._connector = connector
        self._resources = resources
        self._state_machine = state_machine
        self._bytes_per_second = bytes_per_second
        self._max_functions = max_functions

    def distribute(self, claim: Claim) -> RoundAnswer | None:
        """Hand a claimed round over; return None if one function is to do it."""
        functions = claim.max_functions or self._max_functions
        if functions < 2:
            return None
        capacity = Capacity(
            bytes_per_second=self._bytes_per_second,
            target_seconds=claim.target_seconds,
            max_functions=functions,
        )
        execution = plan_round(self._connector, claim, capacity, self._resources)
        if execution is None:
            return None
        name = f"model-{claim.model_id}-round-{claim.round_id}-attempt-{claim.attempt}"
        answer = self._state_machine.start(name, execution)
        return answer or RoundAnswer(
            model_id=claim.model_id,
            status=Status.BUSY,
            round=claim.number,
            reason=f"{execution.functions} functions work on the round",
        )


class TaskRunner:
    """Does the tasks of a distributed round.

    Parameters
    ----------
    connector : DjangoRoundConnector
    resources : Resources
    out_of_time : callable
        Returns whether the process must stop.
    """

    def __init__(
        self,
        connector: DjangoRoundConnector,
        resources: Resources,
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> None:
        self._connector = connector
        self._resources = resources
        self._out_of_time = out_of_time

    def measure(self, plan: str, item: int, centre: str) -> dict[str, Any]:
        """Measure the segments of a task; the metadata is not needed."""
        worker = Worker(self._connector, plan, self._resources, self._out_of_time)
        return {"bytes_read": worker.measure(item, centre).bytes_read}

    def combine(self, plan: str, item: int) -> dict[str, Any]:
        """Compute and store the parts of a task; the metadata is not needed."""
        worker = Worker(self._connector, plan, self._resources, self._out_of_time)
        return {"bytes_read": worker.combine(item).bytes_read}

    def select(self, plan: str, attempt: int, centre: str) -> Execution | RoundAnswer:
        """Let the rule select; return the tasks that follow, or the answer if the round has ended."""
        try:
            outcome = select(self._connector, plan, attempt, centre, self._resources)
            return self._reject(outcome) if isinstance(outcome, Rejection) else outcome
        except LeaseLost as error:
            return self._busy(plan, error)

    def publish(self, plan: str, attempt: int) -> Execution | RoundAnswer:
        """Publish the round, or return the tasks that are to be done again without bad updates."""
        try:
            outcome = finish(self._connector, plan, attempt, self._resources)
            if isinstance(outcome, Execution):
                return outcome
            if isinstance(outcome, Rejection):
                return self._reject(outcome)
            return self._connector.publish_round(*outcome)
        except LeaseLost as error:
            return self._busy(plan, error)

    def fail(self, plan: str, attempt: int, error: Mapping[str, Any]) -> RoundAnswer:
        """Close a round after an error of a task, or release its lease if it can be resumed."""
        claim = load_claim(self._connector, plan, attempt)
        name, cause = str(error.get("Error", "")), str(error.get("Cause", ""))[:1000]
        if name.startswith(TEMPORARY_ERRORS):
            self._connector.release_round(claim, None)
            status = Status.BUSY
        else:
            self._connector.fail_round(claim, TaskFailed(f"{name}: {cause}"))
            status = Status.FAILED
        return RoundAnswer(
            model_id=claim.model_id,
            status=status,
            round=claim.number,
            reason=f"a task ended with {name}",
            continues=status is Status.BUSY,
        )

    def _reject(self, rejection: Rejection) -> RoundAnswer:
        return self._connector.reject_round(rejection.claim, rejection.rejected, rejection.reason)

    def _busy(self, plan: str, error: Exception) -> RoundAnswer:
        claim = load_claim(self._connector, plan, 0)
        return RoundAnswer(
            model_id=claim.model_id, status=Status.BUSY, round=claim.number, reason=str(error)
        )
