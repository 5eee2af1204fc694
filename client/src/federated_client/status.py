"""``status/<model>/<client>.json``: what the aggregator did with a client's updates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .errors import UpdateRejected


@dataclass(frozen=True, kw_only=True)
class UpdateStatus:
    """The status of one update.

    Parameters
    ----------
    key : str
        Of the object.
    state : {'uploaded', 'registered', 'running', 'complete', 'superseded', 'rejected'}
    reason : str
        Why it was rejected; otherwise empty.
    aggregate : int or None
        The id of the aggregate that contains it.
    weight : float or None
        Its weight in that aggregate, where the rule has weights.
    at : str
        ISO 8601; empty if it was not registered yet.
    """

    key: str
    state: str
    reason: str
    aggregate: int | None
    weight: float | None
    at: str

    def __str__(self) -> str:
        weight = "" if self.weight is None else f" with weight {self.weight:.3g}"
        outcome = f"in aggregate {self.aggregate}{weight}" if self.aggregate else self.reason
        return f"{self.state:<11} {self.at} {outcome}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Status:
    """The status document of one client.

    Parameters
    ----------
    updates : tuple of UpdateStatus
    ready : int
        Updates of the model that wait for a round.
    requirement : str
        The condition under which a round starts, in words.
    needed : int
        How many updates it needs.
    """

    updates: tuple[UpdateStatus, ...]
    ready: int
    requirement: str
    needed: int

    def of(self, key: str) -> UpdateStatus | None:
        """Return what became of one update; None if it is not known yet."""
        return next((update for update in self.updates if update.key == key), None)

    def __str__(self) -> str:
        return f"{self.ready} of {self.needed} updates are ready"


def status_key(model_id: int, client_id: object) -> str:
    """Return the key of a client's status document."""
    return f"status/{model_id}/{client_id}.json"


def parse_status(body: bytes) -> Status | None:
    """Return the content of a status document; None if it has another format."""
    try:
        found = json.loads(body)
        if found["format"] != 1:
            return None
        return Status(
            updates=tuple(parse_update(update) for update in found["updates"]),
            ready=int(found["ready"]),
            requirement=str(found["requirement"]),
            needed=int(found["needed"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def describe(status: Status, key: str) -> tuple[str, str]:
    """Return how far the round is and what became of one update, in words, and the update's state.

    Raises
    ------
    UpdateRejected
        If it was rejected.
    """
    own = status.of(key)
    if own and own.state == "rejected":
        raise UpdateRejected(own.reason)
    state = own.state if own else "not registered yet"
    return f"{status}; this one is {state}", state


def parse_update(found: dict[str, Any]) -> UpdateStatus:
    """Return the status of one update from its JSON object."""
    return UpdateStatus(
        key=str(found["key"]),
        state=str(found["state"]),
        reason=str(found["reason"]),
        aggregate=found["aggregate"],
        weight=found.get("weight"),
        at=str(found.get("at", "")),
    )
