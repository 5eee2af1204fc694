"""Logs and metrics of the function; the template's dashboard and alarms use the metrics."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from aggregation.round import Claim, RoundAnswer, Status
from connectors.intake.registration import IntakeResult
from connectors.runtime.responses import to_response
from connectors.storage.port import Orphan
from connectors.usecases.observer import Observer

# An invocation without metrics is no mistake.
warnings.filterwarnings("ignore", "No application metrics to publish")

# At the level DEBUG, which the template can set for all loggers, the SDK logs whole requests, with the
# session's token in their headers.
for sdk in ("botocore", "urllib3"):
    logging.getLogger(sdk).setLevel(logging.INFO)

logger = Logger()
metrics = Metrics()


def _count(metric: str, value: int = 1, unit: MetricUnit = MetricUnit.Count) -> None:
    metrics.add_metric(metric, unit, value)


class Telemetry(Observer):
    """Logs and counts what happens in an invocation."""

    # Intake

    def upload_ignored(self, key: str, reason: Exception) -> None:
        """Log an upload that belongs to no known model and client."""
        logger.warning("upload ignored", key=ascii(key), reason=str(reason))
        _count("UploadsIgnored")

    def update_registered(self, result: IntakeResult) -> None:
        """Log an update that was registered, or rejected with a reason."""
        _log_intake(result, "update")
        if result.reason:
            _count("UpdatesRejected")

    def score_registered(self, result: IntakeResult) -> None:
        """Log a score that was registered, or rejected with a reason."""
        _log_intake(result, "score")
        _count("ScoresRejected" if result.reason else "ScoresRegistered")

    def storage_test_received(self) -> None:
        """Log a test event of S3."""
        logger.info("S3 test event ignored")

    # Messages

    def message_refused(self, message_id: str, reason: Exception) -> None:
        """Log a message that can never be processed and is not retried."""
        logger.error("message refused", message_id=message_id, reason=str(reason))
        _count("MessagesRefused")

    def message_failed(self, message_id: str) -> None:
        """Log a message that failed and will be delivered again; called while the error is handled."""
        logger.exception("message failed", message_id=message_id)

    # Rounds

    def round_claimed(self, claim: Claim) -> None:
        """Add the round and the attempt to every following line."""
        logger.append_keys(model=claim.model_id, round=claim.number, attempt=claim.attempt)
        details: dict[str, object] = {"updates": len(claim.updates)}
        if claim.optimizer.slots:
            details["optimizer"] = claim.optimizer.name
            details["optimizer_state"] = claim.optimizer_state or "initial"
        logger.info("round claimed", extra=details)

    def round_ended(self, answer: RoundAnswer) -> None:
        log = logger.error if answer.status is Status.FAILED else logger.info
        log(f"round {answer.status}", extra=to_response(answer))
        logger.remove_keys(["model", "round", "attempt"])
        if answer.status is Status.PUBLISHED:
            _count("UpdatesUsed", answer.updates_used)
            _count("BytesRead", answer.bytes_read, MetricUnit.Bytes)
        if answer.status in _METRICS:
            _count(_METRICS[answer.status])
        if answer.updates_rejected:
            _count("UpdatesRejected", answer.updates_rejected)

    def round_interrupted(self, model_id: int, error: Exception) -> None:
        logger.warning("round interrupted, to be resumed", exc_info=error, model=model_id)
        logger.remove_keys(["model", "round", "attempt"])
        _count("RoundsInterrupted")

    def round_failed(self, model_id: int, error: Exception) -> None:
        logger.error("round failed", exc_info=error, model=model_id)
        logger.remove_keys(["model", "round", "attempt"])
        _count("RoundsFailed")

    def request_failed(self, model_id: int, error: Exception) -> None:
        logger.warning("request failed", model=model_id, reason=str(error))

    def rounds_postponed(self, model_ids: Sequence[int]) -> None:
        logger.warning("out of time, rounds postponed", models=list(model_ids))

    def model_paused(self, model_id: int, reason: str) -> None:
        logger.error("model paused", model=model_id, reason=reason)
        _count("ModelsPaused")

    # Afterwards

    def swept(self, due: Sequence[int]) -> None:
        """Log the rounds that a sweep found due."""
        logger.info("swept", due=list(due))

    def orphan_removed(self, orphan: Orphan) -> None:
        logger.warning("orphan removed", key=orphan.key, kind=orphan.kind)
        _count("OrphansRemoved")

    def events_sent(self, count: int) -> None:
        _count("EventsSent", count)

    def step_delayed(self, step: str, error: Exception) -> None:
        logger.error(f"{step} failed, to be repeated later", exc_info=error)
        if step == "sending events":
            _count("EventsFailed")


_METRICS = {
    Status.PUBLISHED: "RoundsPublished",
    Status.FAILED: "RoundsFailed",
    Status.REJECTED: "RoundsRejected",
    Status.PAUSED: "ModelsPaused",
}


def _log_intake(result: IntakeResult, what: str) -> None:
    about = {"model": result.model_id, "client": result.client}
    if result.reason:
        logger.warning(f"{what} rejected at intake", extra=about | {"reason": result.reason})
    else:
        logger.info(f"{what} registered", extra=about | {"seen_before": result.seen_before})
