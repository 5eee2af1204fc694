"""Rounds of models, run one after the other in the time that is left.

The function, the commands `run_round` and `sweep` all run their rounds here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aggregation.engine import Resources
from aggregation.errors import AggregationError, OutOfTime, TemporarilyUnavailable
from aggregation.round import Claim, RoundAnswer, Status, run_round
from connectors.errors import UnknownModel, translate_database_errors
from connectors.rounds.connector import DjangoRoundConnector
from connectors.usecases.after_round import update_pointer, update_statuses
from connectors.usecases.observer import Observer
from models_app.models import FederatedModel

#: Answers of rounds that have changed the status of updates.
_SETTLED = (Status.PUBLISHED, Status.REJECTED, Status.FAILED)


class RequestsRounds(Protocol):
    """A queue that asks the function for rounds."""

    def request_rounds(self, model_ids: Sequence[int]) -> None:
        """Ask for one round of each of these models."""


@dataclass
class RoundOutcomes:
    """The results of the rounds of several models.

    Parameters
    ----------
    answers : list of RoundAnswer
        The first answer of each model whose round ran.
    errors : dict of int to Exception
        By model; each has been reported to the observer.
    """

    answers: list[RoundAnswer] = field(default_factory=list)
    errors: dict[int, Exception] = field(default_factory=dict)

    def raise_first_error(self) -> None:
        """Raise the first of the errors, if there are any."""
        for error in self.errors.values():
            raise error


class RoundRunner:
    """Runs rounds.

    Parameters
    ----------
    connector : DjangoRoundConnector
    resources : Resources
        How much memory and how many threads a round may use; they do not change its result.
    observer : Observer
    queue : RequestsRounds, optional
        Receives requests for rounds that must be resumed or have not begun.
    out_of_time : callable
        Returns whether the process must stop; it is called after every chunk.
    distribute : callable
        As for `aggregation.round.run_round`.
    """

    def __init__(
        self,
        connector: DjangoRoundConnector,
        resources: Resources,
        observer: Observer,
        *,
        queue: RequestsRounds | None = None,
        out_of_time: Callable[[], bool] = lambda: False,
        distribute: Callable[[Claim], RoundAnswer | None] = lambda claim: None,
    ) -> None:
        self.objects = connector.weights.objects
        self.queue = queue
        self.out_of_time = out_of_time
        self._connector = connector
        self._resources = resources
        self._observer = observer
        self._distribute = distribute

    def run_each(self, model_ids: Iterable[int]) -> RoundOutcomes:
        """Run rounds of each of these models.

        An error in one model's round does not keep the others from theirs. No round begins after the
        time is up: it would make no progress, and count as an attempt.
        """
        outcomes = RoundOutcomes()
        waiting = list(model_ids)
        while waiting and not self.out_of_time():
            model_id = waiting.pop(0)
            try:
                outcomes.answers.append(self.run(model_id))
            except Exception as error:
                self._observer.request_failed(model_id, error)
                outcomes.errors[model_id] = error
        if waiting:
            outcomes.errors |= self._postpone(waiting)
        return outcomes

    def run(self, model_id: int) -> RoundAnswer:
        """Run a round of a model, and further ones while updates that arrived meanwhile suffice.

        Returns
        -------
        RoundAnswer
            Of the first round.
        """
        first = answer = self.run_one(model_id)
        while _may_have_missed_updates(answer) and not self.out_of_time():
            answer = self.run_one(model_id)
        if self.queue and (answer.continues or _may_have_missed_updates(answer)):
            self.queue.request_rounds([model_id])
        return first

    def run_one(self, model_id: int) -> RoundAnswer:
        """Run one round of a model, and write what clients read: `latest.json` and their status."""
        try:
            answer = run_round(
                self._connector,
                model_id,
                resources=self._resources,
                out_of_time=self.out_of_time,
                on_claim=self._observer.round_claimed,
                distribute=self._distribute,
            )
        except UnknownModel:
            raise
        except TemporarilyUnavailable as error:
            self._observer.round_interrupted(model_id, error)
            raise
        except Exception as error:
            self._observer.round_failed(model_id, error)
            self._report_pause(model_id)
            update_statuses(self.objects, model_id, self._observer)
            raise
        return self.ended(answer)

    def ended(self, answer: RoundAnswer) -> RoundAnswer:
        """Do what follows a round, whichever function ended it, and return its answer."""
        model_id = answer.model_id
        self._observer.round_ended(answer)
        if answer.status is Status.FAILED or answer.pauses:
            self._report_pause(model_id)
        if answer.status is Status.PUBLISHED:
            update_pointer(self.objects, model_id, self._observer)
        if answer.status in _SETTLED or answer.continues:
            update_statuses(self.objects, model_id, self._observer)
        return answer

    def finish(self, answer: RoundAnswer) -> None:
        """Do what follows a round of several functions, and ask for the next one if it may be due."""
        self.ended(answer)
        if self.queue and (answer.continues or _may_have_missed_updates(answer)):
            self.queue.request_rounds([answer.model_id])

    def _postpone(self, model_ids: Sequence[int]) -> dict[int, Exception]:
        """Ask the queue for rounds that were not begun; return the error of each if that fails."""
        self._observer.rounds_postponed(model_ids)
        try:
            if self.queue is None:
                raise OutOfTime("no time was left to begin the round")
            self.queue.request_rounds(model_ids)
        except AggregationError as error:
            return dict.fromkeys(model_ids, error)
        return {}

    def _report_pause(self, model_id: int) -> None:
        paused = FederatedModel.objects.filter(pk=model_id, allow_aggregation=False)
        with translate_database_errors():
            reason = paused.values_list("pause_reason", flat=True).first()
        if reason is not None:
            self._observer.model_paused(model_id, reason)


def _may_have_missed_updates(answer: RoundAnswer) -> bool:
    """Return whether uploads that came during the round may be ready for another.

    A rejected round has made at least one update INVALID, so that this ends.
    """
    return answer.status is Status.PUBLISHED or (
        answer.status is Status.REJECTED and answer.updates_rejected > 0
    )
