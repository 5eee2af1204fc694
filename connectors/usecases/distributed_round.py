"""A round over several functions: it is handed over after its claim, and its tasks are done here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

from aggregation.engine import Resources
from aggregation.engine.distribution import Capacity
from aggregation.errors import (
    AggregationError,
    LeaseLost,
    ObjectMissing,
    OutOfTime,
    ProgressLost,
    TemporarilyUnavailable,
)
from aggregation.round import Claim, RoundAnswer, Status
from aggregation.round.distributed import finish, finished_tasks, select
from aggregation.round.plan import Execution, Rejection
from aggregation.round.planning import (
    checkpoint_after_tasks,
    discard_result,
    load_claim,
    plan_round,
    record_failure,
    recorded_failure,
)
from aggregation.round.worker import Worker
from connectors.rounds.connector import DjangoRoundConnector
from connectors.storage.keys import model_of_plan

#: Errors of a task after which the round is resumed: it may succeed later with the same updates.
TEMPORARY_ERRORS = (
    "TemporarilyUnavailable",
    "OutOfTime",
    "ProgressLost",
    "Lambda.",
    "Runtime.",
    "Sandbox.",
    "States.",
)

#: Characters of an error that are kept.
MAX_CAUSE = 1000

#: The answer to a task that is repeated after the round has ended.
PLAN_GONE = "the plan is gone: the round has ended"


class StartsExecutions(Protocol):
    """Starts the tasks of a round, which several functions run."""

    def start(self, name: str, execution: Execution) -> RoundAnswer | None:
        """Start an execution; a repeated start under one name has no effect.

        Returns
        -------
        RoundAnswer or None
            The round's answer, if it has ended by now.
        """


def execution_name(claim: Claim, execution: Execution) -> str:
    """Return the name under which an attempt starts the tasks of a plan, however often.

    Step Functions reserves a name for 90 days. The plan is in it because the numbers of rounds and attempts
    begin again when the database is restored.
    """
    plan = execution.plan.rstrip("/").rsplit("-", 1)[-1]
    return f"model-{claim.model_id}-round-{claim.round_id}-plan-{plan[:8]}-attempt-{claim.attempt}"


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
        if isinstance(execution, Rejection):
            return reject(self._connector, execution)
        answer = self._state_machine.start(execution_name(claim, execution), execution)
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

    def measure(self, plan: str, item: int, centre: str, retries: int = 0) -> dict[str, Any]:
        """Measure the segments of a task; the metadata is not needed."""
        with self._failure_recorded(plan, f"measure-{item:05d}"):
            return {"bytes_read": self._worker(plan).measure(item, centre, retries).bytes_read}

    def combine(self, plan: str, item: int, retries: int = 0) -> dict[str, Any]:
        """Compute and store the parts of a task; the metadata is not needed."""
        with self._failure_recorded(plan, f"combine-{item:05d}"):
            return {"bytes_read": self._worker(plan).combine(item, retries).bytes_read}

    def _worker(self, plan: str) -> Worker:
        return Worker(
            self._connector, plan, self._resources, self._out_of_time, clock=time.monotonic
        )

    @contextmanager
    def _failure_recorded(self, plan: str, task: str) -> Iterator[None]:
        """Leave the reason of a permanent failure beside the plan.

        Step Functions says of a map only that one of its tasks has failed.
        """
        try:
            yield
        except (TemporarilyUnavailable, OutOfTime, ProgressLost):
            raise
        except Exception as error:
            with suppress(AggregationError):
                record_failure(self._connector.folder(plan), task, error)
            raise

    def select(self, plan: str, attempt: int, centre: str) -> Execution | RoundAnswer:
        """Let the rule select; return the tasks that follow, or the answer if the round has ended."""
        with suppress(ObjectMissing):
            try:
                outcome = select(self._connector, plan, attempt, centre, self._resources)
                return self._reject(plan, outcome) if isinstance(outcome, Rejection) else outcome
            except LeaseLost as error:
                return _busy(plan, str(error))
        return _busy(plan, PLAN_GONE)

    def publish(self, plan: str, attempt: int) -> Execution | RoundAnswer:
        """Publish the round, or return the tasks that are to be done again without bad updates."""
        with suppress(ObjectMissing):
            try:
                outcome = finish(self._connector, plan, attempt, self._resources)
                if isinstance(outcome, Execution):
                    return outcome
                if isinstance(outcome, Rejection):
                    return self._reject(plan, outcome)
                answer = self._connector.publish_round(*outcome)
                self._delete(plan)
                return answer
            except LeaseLost as error:
                return _busy(plan, str(error))
        return _busy(plan, PLAN_GONE)

    def suspend(self, plan: str, attempt: int) -> RoundAnswer:
        """Release the lease of an unfinished round, so that the next request resumes it."""
        return self._connector.suspend_round(load_claim(self._connector, plan, attempt), None)

    def fail(self, plan: str, attempt: int, error: Mapping[str, Any]) -> RoundAnswer:
        """Close a round after an error of a task, or release its lease if it can be resumed."""
        name, cause = str(error.get("Error", "")), str(error.get("Cause", ""))[:MAX_CAUSE]
        try:
            claim = load_claim(self._connector, plan, attempt)
            recorded = recorded_failure(self._connector.folder(plan))
        except ObjectMissing:
            return _busy(plan, PLAN_GONE)
        if recorded is None and name.startswith(TEMPORARY_ERRORS):
            self._release(claim)
            return _busy(plan, f"a task ended with {name}", claim.number, continues=True)
        reason = recorded or f"{name}: {cause}"
        if not self._connector.fail_round(claim, TaskFailed(reason)):
            return _busy(plan, f"the round is held by another attempt; {reason}", claim.number)
        self._record_workers(plan, claim)
        discard_result(self._connector, plan)
        self._delete(plan)
        return RoundAnswer(
            model_id=claim.model_id, status=Status.FAILED, round=claim.number, reason=reason
        )

    def _release(self, claim: Claim) -> None:
        """Release the lease; if tasks have finished, the attempt counts as progress."""
        with suppress(AggregationError):
            saved = self._connector.ledger.saved_checkpoint(claim)
            checkpoint = checkpoint_after_tasks(self._connector, saved) if saved else None
            self._connector.release_round(replace(claim, checkpoint=saved), checkpoint)
            return
        self._connector.release_round(claim, None)

    def _reject(self, plan: str, rejection: Rejection) -> RoundAnswer:
        answer = reject(self._connector, rejection)
        self._record_workers(plan, rejection.claim)
        self._delete(plan)
        return answer

    def _record_workers(self, plan: str, claim: Claim) -> None:
        """Keep what the functions did in a round that has ended without a result."""
        with suppress(AggregationError):
            workers = finished_tasks(self._connector, plan, self._resources.readers)
            self._connector.ledger.record_workers(claim, workers)

    def _delete(self, plan: str) -> None:
        """Delete the folder of a round that has ended; the sweep deletes what cannot be deleted now."""
        with suppress(AggregationError):
            self._connector.folder(plan).delete()


def reject(connector: DjangoRoundConnector, rejection: Rejection) -> RoundAnswer:
    """Close a round that has too few usable updates left."""
    return connector.reject_round(rejection.claim, rejection.rejected, rejection.reason)


def _busy(
    plan: str, reason: str, number: int | None = None, *, continues: bool = False
) -> RoundAnswer:
    return RoundAnswer(
        model_id=model_of_plan(plan),
        status=Status.BUSY,
        round=number,
        reason=reason,
        continues=continues,
    )
