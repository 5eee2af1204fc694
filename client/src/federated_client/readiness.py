"""``progress.json``: how far a federated model is from its next round."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

from .storage import Storage, visible


@dataclass(frozen=True, kw_only=True)
class ModelProgress:
    """How far a model is from its next round.

    Parameters
    ----------
    ready, needed : int
        Updates that wait for the round, and how many it needs.
    requirement : str
        The condition under which it starts, in words.
    deadline : str or None
        When fewer updates will be enough, in ISO 8601.
    """

    ready: int
    needed: int
    requirement: str
    deadline: str | None

    def __str__(self) -> str:
        until = f"; fewer are enough from {self.deadline}" if self.deadline else ""
        return f"{self.ready} of {self.needed} updates are ready{until}"


def read_progress(storage: Storage, model_id: int) -> ModelProgress | None:
    """Return the progress of a model; None if it is not known, as without the API."""
    body = visible(partial(storage.get, f"aggregates/{model_id}/progress.json"))
    try:
        found = json.loads(body or b"null")
        return ModelProgress(
            ready=int(found["ready"]),
            needed=int(found["needed"]),
            requirement=str(found["requirement"]),
            deadline=found["deadline"],
        )
    except (ValueError, KeyError, TypeError):
        return None
