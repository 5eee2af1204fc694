"""Explain why a round of a model cannot start now."""

from __future__ import annotations

from aggregation.round import RoundAnswer, Status
from connectors.rounds.selectors import ModelSnapshot


def refusal(snapshot: ModelSnapshot) -> RoundAnswer | None:
    """Return the answer to a request for a round that cannot start; None if one can."""

    def answer(status: Status, reason: str, number: int | None = None) -> RoundAnswer:
        return RoundAnswer(model_id=model.pk, status=status, round=number, reason=reason)

    model, running = snapshot.model, snapshot.running
    if not model.allow_aggregation:
        return answer(Status.PAUSED, model.pause_reason or "aggregation is not allowed")
    if running:
        if snapshot.lease_expired:
            return None
        return answer(Status.BUSY, f"{running} is running", running.number)
    if not snapshot.ready:
        return answer(Status.WAITING, "no update is ready")
    unmet = model.requirement_object().unmet(snapshot.readiness())
    if unmet:
        return answer(Status.WAITING, unmet)
    needed = model.rule().min_updates
    if len(snapshot.ready) < needed:
        reason = f"{model.aggregator} needs {needed} updates, {len(snapshot.ready)} are ready"
        return answer(Status.WAITING, reason)
    secure = model.secure_terms()
    if secure and len(snapshot.ready) < secure.settings.min_cohort:
        reason = f"min_cohort is {secure.settings.min_cohort}, {len(snapshot.ready)} are ready"
        return answer(Status.WAITING, reason)
    return None
