"""One invocation of the function: uploads are registered, rounds run, sweeps made, and all of it told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from aggregation.errors import AggregationError, OutOfTime, TemporarilyUnavailable
from aggregation.round import RoundAnswer, Status, run_round
from connectors.application import round_queue, score_intake, update_intake
from connectors.intake.registration import UnknownUpload
from connectors.limits import round_resources
from connectors.rounds.selectors import due_models
from connectors.runtime.events import (
    Request,
    RoundRequest,
    StorageTest,
    SweepRequest,
    Upload,
    parse_body,
)
from connectors.runtime.telemetry import (
    log_claim,
    log_failed,
    log_ignored,
    log_interrupted,
    log_paused,
    log_postponed,
    log_round,
    log_score,
    log_update,
    logger,
    told,
)
from connectors.storage.keys import SCORES
from connectors.usecases.after_round import (
    collect_orphans,
    write_pointer_later,
    write_stale_pointers,
)
from connectors.workflow.aggregator import DEFAULT_SETTINGS, DjangoAggConnector

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

#: An attempt stops this long before the function's time is up, or at this share of it if that is
#: less: enough to store a part and to ask for the rest.
STOP_BEFORE_END_SECONDS = 20.0
STOP_BEFORE_END_SHARE = 0.2

#: How much longer than its time a function is trusted to live.
LEASE_SLACK_SECONDS = 15.0


@dataclass
class Rounds:
    """What became of the rounds of several models.

    Parameters
    ----------
    answers : list of RoundAnswer
        Of those that ran.
    errors : dict of int to Exception
        By model; all have been told.
    """

    answers: list[RoundAnswer] = field(default_factory=list)
    errors: dict[int, Exception] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """The answers as the caller is given them.

        Raises
        ------
        Exception
            The first of the errors, if there are any: the invocation is to count as failed, and its
            event to be delivered again.
        """
        if self.errors:
            raise next(iter(self.errors.values()))
        return {"rounds": [told(answer) for answer in self.answers]}


class Invocation:
    """One invocation: what it may still do follows from the time that is left of it.

    Parameters
    ----------
    context : LambdaContext
        The runtime's.
    """

    def __init__(self, context: LambdaContext) -> None:
        self._context = context
        seconds = self._seconds_left()
        self._margin = min(STOP_BEFORE_END_SECONDS, seconds * STOP_BEFORE_END_SHARE)
        metadata = {
            **DEFAULT_SETTINGS["metadata_connector"],
            "settings": {
                "lease_until": timezone.now() + timedelta(seconds=seconds + LEASE_SLACK_SECONDS),
                "request_id": context.aws_request_id,
            },
        }
        self._connector = DjangoAggConnector({**DEFAULT_SETTINGS, "metadata_connector": metadata})
        self._objects = self._connector.model_data.objects

    def _seconds_left(self) -> float:
        return self._context.get_remaining_time_in_millis() / 1000

    def _out_of_time(self) -> bool:
        return self._seconds_left() <= self._margin

    def answer_batch(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Act on a batch of messages from SQS: all are read first, then one round is run for each model
        that is named, and the messages that named it share its fate.

        Returns
        -------
        dict
            The ids of the messages that are to be delivered again, as SQS wants them.
        """
        failed: set[str] = set()
        senders: dict[int, list[str]] = {}
        for record in records:
            message = record["messageId"]
            try:
                wanted = self.register(parse_body(record["body"]))
            except Exception:
                logger.exception("message failed", message_id=message)
                failed.add(message)
                continue
            for model_id in wanted:
                senders.setdefault(model_id, []).append(message)
        for model_id in self.run_each(senders).errors:
            failed.update(senders[model_id])
        return {"batchItemFailures": [{"itemIdentifier": each} for each in sorted(failed)]}

    def register(self, requests: Iterable[Request]) -> list[int]:
        """Register what was uploaded; the models for which a round is wanted, each once."""
        wanted: dict[int, None] = {}
        for request in requests:
            match request:
                case Upload():
                    wanted |= dict.fromkeys(self._register(request))
                case RoundRequest(model_id):
                    wanted[model_id] = None
                case SweepRequest():
                    self.sweep()
                case StorageTest():
                    logger.info("S3 tried its notifications: ignored")
        return list(wanted)

    def _register(self, upload: Upload) -> list[int]:
        try:
            if upload.key.startswith(SCORES):
                log_score(score_intake().register(upload))
                return []
            result = update_intake().register(upload)
        except UnknownUpload as error:
            log_ignored(upload.key, error)
            return []
        log_update(result)
        return [] if result.reason else [result.model_id]

    def sweep(self) -> dict[str, Any]:
        """See to every model that has ready updates or a round left behind.

        Raises
        ------
        Exception
            What a round met, where there is no queue to ask for it; the others have run.
        """
        due = due_models(timezone.now())
        to = round_queue()
        if to is not None:
            to.request_rounds(due)
            answer: dict[str, Any] = {"requested": due}
            logger.info("swept", extra=answer)
            self._tidy()
            return answer
        rounds = self.run_each(due)
        self._tidy()
        answer = rounds.told()
        logger.info("swept", extra=answer)
        return answer

    def _tidy(self) -> None:
        write_stale_pointers(self._objects)
        collect_orphans(self._objects)

    def run_each(self, model_ids: Iterable[int]) -> Rounds:
        """Run a round of each of these models. What one meets keeps no other from its round, and none
        begins that has no time: it would get nowhere, and count as a try."""
        rounds = Rounds()
        waiting = list(model_ids)
        while waiting and not self._out_of_time():
            model_id = waiting.pop(0)
            try:
                rounds.answers.append(self.run(model_id))
            except Exception as error:  # A round has told it; a queue that cannot be asked has not.
                logger.warning("request failed", model_id=model_id, reason=str(error))
                rounds.errors[model_id] = error
        if waiting:
            rounds.errors |= self._postponed(waiting)
        return rounds

    def _postponed(self, model_ids: Sequence[int]) -> dict[int, Exception]:
        """Ask the queue for rounds that were not begun; what keeps each from being asked for."""
        log_postponed(model_ids)
        to = round_queue()
        try:
            if to is None:
                raise OutOfTime("no time was left to begin the round")
            to.request_rounds(model_ids)
        except AggregationError as error:
            return dict.fromkeys(model_ids, error)
        return {}

    def run(self, model_id: int) -> RoundAnswer:
        """Run a round of a model, and further ones while updates that came meanwhile suffice.

        Returns
        -------
        RoundAnswer
            Of the first round.
        """
        first = answer = self._run_one(model_id)
        while answer.status is Status.PUBLISHED and not self._out_of_time():
            answer = self._run_one(model_id)
        to = round_queue()
        if (answer.continues or answer.status is Status.PUBLISHED) and to is not None:
            to.request_rounds([model_id])
        return first

    def _run_one(self, model_id: int) -> RoundAnswer:
        logger.append_keys(model=model_id)
        try:
            answer = run_round(
                self._connector,
                model_id,
                resources=round_resources(),
                out_of_time=self._out_of_time,
                on_claim=log_claim,
            )
        except TemporarilyUnavailable:
            log_interrupted()
            raise
        except Exception:
            log_failed()
            self._log_if_paused(model_id)
            raise
        else:
            log_round(answer)
            if answer.status is Status.FAILED:
                self._log_if_paused(model_id)
            if answer.status is Status.PUBLISHED:
                write_pointer_later(self._objects, model_id)
            return answer
        finally:
            logger.remove_keys(["model", "round", "attempt"])

    def _log_if_paused(self, model_id: int) -> None:
        model = self._connector.pull_federated_model_w_id(model_id)
        if model and not model.allow_aggregation:
            log_paused(model.pause_reason)
