"""What the function tells of its work: lines in the log, and the metrics that the dashboard and the alarms
in template.yaml look at."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from aggregation.round import Claim, RoundAnswer, Status
from connectors.intake.registration import IntakeResult
from connectors.storage.port import Orphan

# An invocation that had nothing to count is no mistake.
warnings.filterwarnings("ignore", "No application metrics to publish")

# At the level DEBUG, which the template can set for all that logs, the SDK shows whole requests, with the
# session's token in their headers.
for sdk in ("botocore", "urllib3"):
    logging.getLogger(sdk).setLevel(logging.INFO)

logger = Logger()
metrics = Metrics()


def told(answer: RoundAnswer) -> dict[str, Any]:
    """An answer as the caller is given it."""
    shown = {
        "model_id": answer.model_id,
        "status": str(answer.status),
        "round": answer.round,
        "aggregate_id": answer.aggregate_id,
        "updates_used": answer.updates_used,
        "updates_rejected": answer.updates_rejected,
    }
    return shown | ({"reason": answer.reason} if answer.reason else {})


def log_ignored(key: str, reason: Exception) -> None:
    """An upload belongs to no model and client that are known."""
    logger.warning("upload ignored", key=ascii(key), reason=str(reason))
    metrics.add_metric("UploadsIgnored", MetricUnit.Count, 1)


def log_update(result: IntakeResult) -> None:
    """What became of an upload at the door."""
    if _log_result(result, "update"):
        metrics.add_metric("UpdatesRejected", MetricUnit.Count, 1)


def log_score(result: IntakeResult) -> None:
    """What became of a score at the door."""
    rejected = _log_result(result, "score")
    metrics.add_metric("ScoresRejected" if rejected else "ScoresRegistered", MetricUnit.Count, 1)


def _log_result(result: IntakeResult, what: str) -> bool:
    """Whether it was rejected."""
    about = {"model": result.model_id, "client": result.client}
    if result.reason:
        logger.warning(f"{what} rejected at the door", extra=about | {"reason": result.reason})
    else:
        logger.info(f"{what} registered", extra=about | {"seen_before": result.seen_before})
    return bool(result.reason)


def log_claim(claim: Claim) -> None:
    """From now on, every line names the round and the attempt."""
    logger.append_keys(round=claim.number, attempt=claim.attempt)
    logger.info("round claimed", updates=len(claim.updates))


def log_round(answer: RoundAnswer) -> None:
    """How a request for a round ended."""
    tell = logger.error if answer.status is Status.FAILED else logger.info
    tell(f"round {answer.status}", extra=told(answer))
    if answer.status is Status.FAILED:
        metrics.add_metric("RoundsFailed", MetricUnit.Count, 1)
    if answer.status is Status.PUBLISHED:
        metrics.add_metric("RoundsPublished", MetricUnit.Count, 1)
        metrics.add_metric("UpdatesUsed", MetricUnit.Count, answer.updates_used)
        metrics.add_metric("BytesRead", MetricUnit.Bytes, answer.bytes_read)
    if answer.status is Status.REJECTED:
        metrics.add_metric("RoundsRejected", MetricUnit.Count, 1)
    if answer.status is Status.PAUSED:
        metrics.add_metric("ModelsPaused", MetricUnit.Count, 1)
    if answer.updates_rejected:
        metrics.add_metric("UpdatesRejected", MetricUnit.Count, answer.updates_rejected)


def log_interrupted() -> None:
    """A round met what passes; to be called where the error is handled."""
    logger.warning("round interrupted: it goes on later", exc_info=True)
    metrics.add_metric("RoundsInterrupted", MetricUnit.Count, 1)


def log_postponed(model_ids: Sequence[int]) -> None:
    """The time is up before the rounds of these models have begun."""
    logger.warning("out of time: rounds not begun, they are asked for again", models=model_ids)


def log_failed() -> None:
    """A round met what would meet it again; to be called where the error is handled."""
    logger.exception("round failed")
    metrics.add_metric("RoundsFailed", MetricUnit.Count, 1)


def log_paused(reason: str) -> None:
    """A failed round was one too many."""
    logger.error("model paused", reason=reason)
    metrics.add_metric("ModelsPaused", MetricUnit.Count, 1)


def log_collected(orphan: Orphan) -> None:
    """Something that a dead round left behind is removed."""
    logger.warning("leftover collected", extra={"key": orphan.key, "kind": orphan.kind})
    metrics.add_metric("LeftoversCollected", MetricUnit.Count, 1)


def log_sent(count: int) -> None:
    """Events have gone to the bus."""
    metrics.add_metric("EventsSent", MetricUnit.Count, count)


def log_not_sent() -> None:
    """Events could not be sent; to be called where the error is handled."""
    logger.exception("events not sent: they are sent later")
    metrics.add_metric("EventsFailed", MetricUnit.Count, 1)
