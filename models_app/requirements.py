"""How many updates the next round of a model needs, as a number and in words."""

from __future__ import annotations

from aggregation.requirements import (
    AllClients,
    Quorum,
    Readiness,
    RequireFraction,
    Requirement,
)
from models_app.models import FederatedModel


def needed_updates(model: FederatedModel, readiness: Readiness) -> int:
    """Return how many updates the next round needs: those of the requirement, of the rule, and of a sum
    of masked updates.
    """
    requirement, secure = model.requirement_object(), model.secure_terms()
    min_cohort = secure.settings.min_cohort if secure else 1
    return max(1, requirement.needed(readiness), model.rule().min_updates, min_cohort)


def requirement_in_words(model: FederatedModel, members: int) -> str:
    """Return when a round may start, such as ``5 updates, or one after 20 minutes``."""
    words = _in_words(model.requirement_object(), members)
    fewest, secure = model.rule().min_updates, model.secure_terms()
    if fewest > 1:
        words += f"; the rule {model.aggregator} needs at least {fewest}"
    if secure:
        words += f"; min_cohort is {secure.settings.min_cohort}"
    return words


def _in_words(requirement: Requirement, members: int) -> str:
    match requirement:
        case AllClients():
            return f"an update from {'the' if members == 1 else 'each of the'} {_clients(members)}"
        case Quorum(x=x, after_minutes=minutes):
            some = "one" if x == 1 else f"{x}"
            return f"{_updates(members)}, or {some} after {_minutes(minutes)}"
        case RequireFraction(f=f):
            needed = requirement.needed(Readiness(members=members, ready=0))
            return f"{_updates(needed)}: {100 * f:g} % of {_clients(members)}"
    return _updates(requirement.needed(Readiness(members=members, ready=0)))


def _updates(count: int) -> str:
    return "1 update" if count == 1 else f"{count} updates"


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _minutes(minutes: float) -> str:
    if 0 < minutes < 1:
        return f"{60 * minutes:.3g} seconds"
    if minutes and minutes % 60 == 0:
        return "1 hour" if minutes == 60 else f"{minutes / 60:g} hours"
    return "1 minute" if minutes == 1 else f"{minutes:g} minutes"
