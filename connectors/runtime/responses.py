"""The function's responses, as EventBridge, SQS and direct callers receive them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aggregation.round import RoundAnswer
from connectors.usecases.run_round import RoundOutcomes
from connectors.usecases.sweep import SweepOutcome


def to_response(answer: RoundAnswer) -> dict[str, Any]:
    """Return the response to a request for one round."""
    response = {
        "model_id": answer.model_id,
        "status": str(answer.status),
        "round": answer.round,
        "aggregate_id": answer.aggregate_id,
        "updates_used": answer.updates_used,
        "updates_rejected": answer.updates_rejected,
    }
    return response | ({"reason": answer.reason} if answer.reason else {})


def rounds_response(rounds: RoundOutcomes) -> dict[str, Any]:
    """Return the response to an event that led to rounds of several models.

    Raises
    ------
    Exception
        The first error of a round: the invocation must fail, so that its event is delivered again.
    """
    rounds.raise_first_error()
    return {"rounds": [to_response(answer) for answer in rounds.answers]}


def sweep_response(outcome: SweepOutcome) -> dict[str, Any]:
    """Return the response to a sweep.

    Raises
    ------
    Exception
        As by `rounds_response`, if the sweep ran the rounds itself.
    """
    if outcome.rounds is None:
        return {"requested": outcome.due}
    return rounds_response(outcome.rounds)


def batch_response(failed: Iterable[str]) -> dict[str, Any]:
    """Return the partial-batch response that names the messages SQS is to deliver again."""
    return {"batchItemFailures": [{"itemIdentifier": each} for each in sorted(failed)]}
