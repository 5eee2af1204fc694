"""One invocation: what each kind of event leads to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aggregation.round import RoundAnswer
from connectors.errors import UnknownModel
from connectors.intake.registration import UnknownUpload
from connectors.intake.scores import ScoreIntake
from connectors.intake.updates import UpdateIntake
from connectors.intake.upload import Upload
from connectors.runtime.events import (
    Request,
    RoundRequest,
    RoundTask,
    StorageTest,
    SweepRequest,
    UnknownEvent,
    is_sqs_batch,
    is_task,
    parse,
    parse_body,
    parse_task,
)
from connectors.runtime.queue import RoundQueue
from connectors.runtime.responses import (
    batch_response,
    rounds_response,
    sweep_response,
    to_response,
)
from connectors.runtime.telemetry import Telemetry
from connectors.storage.keys import SCORES
from connectors.usecases.after_round import update_statuses
from connectors.usecases.run_round import RoundRunner
from connectors.usecases.sweep import GarbageSchedule, SweepOutcome, sweep

if TYPE_CHECKING:
    from aggregation.round.plan import Execution
    from connectors.usecases.distributed_round import TaskRunner

Messages = Sequence[Mapping[str, Any]]


class Dispatcher:
    """Leads each kind of event to its use case and builds the response.

    Parameters
    ----------
    updates : UpdateIntake
    scores : ScoreIntake
    runner : RoundRunner
    tasks : callable
        Returns what does the tasks of distributed rounds; it is imported on use.
    queue : RoundQueue or None
        The function's own queue.
    garbage : GarbageSchedule
    telemetry : Telemetry
    """

    def __init__(
        self,
        *,
        updates: UpdateIntake,
        scores: ScoreIntake,
        runner: RoundRunner,
        tasks: Callable[[], TaskRunner],
        queue: RoundQueue | None,
        garbage: GarbageSchedule,
        telemetry: Telemetry,
    ) -> None:
        self._updates = updates
        self._scores = scores
        self._runner = runner
        self._tasks = tasks
        self._queue = queue
        self._garbage = garbage
        self._telemetry = telemetry
        #: Models of which updates were registered.
        self._changed: dict[int, None] = {}

    def dispatch(self, event: Any) -> dict[str, Any]:
        """Return the response to an event.

        Raises
        ------
        UnknownEvent
        UnknownModel
        TemporarilyUnavailable, OutOfTime
            The event must be delivered again.
        """
        if is_sqs_batch(event):
            return batch_response(self._process_batch(event["Records"]))
        if is_task(event):
            return self._do_task(parse_task(event))
        requests = parse(event)
        match requests:
            case [RoundRequest(model_id)]:
                return to_response(self._runner.run(model_id))
            case [SweepRequest()]:
                return sweep_response(self._sweep())
        models = self._models_named_by(requests)
        self._update_statuses()
        return rounds_response(self._runner.run_each(models))

    def _do_task(self, task: RoundTask) -> dict[str, Any]:
        """Do a task of a distributed round that needs the database."""
        tasks = self._tasks()
        outcome: Execution | RoundAnswer
        match task.kind:
            case "select":
                outcome = tasks.select(task.plan, task.attempt, task.centre)
            case "publish":
                outcome = tasks.publish(task.plan, task.attempt)
            case "fail":
                outcome = tasks.fail(task.plan, task.attempt, task.error)
            case _:
                raise UnknownEvent(f"{task.kind} is a task of the workers' function")
        if isinstance(outcome, RoundAnswer):
            self._runner.finish(outcome)
            return to_response(outcome)
        return outcome.to_json()

    def _process_batch(self, messages: Messages) -> set[str]:
        """Process messages of SQS; return the ids of those that must be delivered again.

        All messages are read before one round is run for each model that they name. If the time runs
        out, the messages that are left fail without an attempt, so that none is cut off half-way.
        """
        failed: set[str] = set()
        senders: dict[int, list[str]] = {}
        for message in messages:
            message_id = message["messageId"]
            if self._runner.out_of_time():
                failed.add(message_id)
                continue
            try:
                models = self._models_named_by(parse_body(message["body"]))
            except UnknownEvent as error:  # It would be refused each time.
                self._telemetry.message_refused(message_id, error)
            except Exception:
                self._telemetry.message_failed(message_id)
                failed.add(message_id)
            else:
                for model_id in models:
                    senders.setdefault(model_id, []).append(message_id)
        self._update_statuses()
        for model_id, reason in self._runner.run_each(senders).errors.items():
            for message_id in senders[model_id]:
                if isinstance(reason, UnknownModel):
                    self._telemetry.message_refused(message_id, reason)
                else:
                    failed.add(message_id)
        self._delay([message for message in messages if message["messageId"] in failed])
        return failed

    def _delay(self, messages: Messages) -> None:
        """Let failed messages return after a backoff rather than after their visibility timeout."""
        if not (self._queue and messages):
            return
        try:
            self._queue.delay(messages)
        except Exception as error:
            self._telemetry.step_delayed("shortening the wait of failed messages", error)

    def _models_named_by(self, requests: Iterable[Request]) -> list[int]:
        """Register uploads; return the models of which a round is wanted, each once."""
        models: dict[int, None] = {}
        for request in requests:
            match request:
                case Upload():
                    models |= dict.fromkeys(self._register(request))
                case RoundRequest(model_id):
                    models[model_id] = None
                case SweepRequest():
                    self._sweep()
                case StorageTest():
                    self._telemetry.storage_test_received()
        return list(models)

    def _register(self, upload: Upload) -> list[int]:
        """Register an upload; return the model of which it may complete a round."""
        try:
            if upload.key.startswith(SCORES):
                self._telemetry.score_registered(self._scores.register(upload))
                return []
            result = self._updates.register(upload)
        except UnknownUpload as error:
            self._telemetry.upload_ignored(upload.key, error)
            return []
        self._telemetry.update_registered(result)
        if not result.seen_before:
            self._changed[result.model_id] = None
        return [] if result.reason else [result.model_id]

    def _update_statuses(self) -> None:
        """Let clients read what became of their uploads, before rounds that may take minutes."""
        for model_id in self._changed:
            update_statuses(self._runner.objects, model_id, self._telemetry)
        self._changed.clear()

    def _sweep(self) -> SweepOutcome:
        outcome = sweep(self._runner, self._telemetry, collect=self._garbage.is_due())
        self._telemetry.swept(outcome.due)
        return outcome
