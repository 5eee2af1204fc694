"""The events that use cases report: the function logs and counts them, a command prints them."""

from __future__ import annotations

from collections.abc import Sequence

from aggregation.round import Claim, RoundAnswer
from connectors.storage.port import Orphan


class Observer:
    """Is called when something happened; does nothing unless a method is overridden."""

    def round_due(self, model_id: int) -> None:
        """A dry run found that a round is due."""

    def round_claimed(self, claim: Claim) -> None:
        """A round was claimed, and its updates are about to be read."""

    def round_ended(self, answer: RoundAnswer) -> None:
        """A request for a round was answered."""

    def round_interrupted(self, model_id: int, error: Exception) -> None:
        """A round met a temporary fault and will be resumed."""

    def round_failed(self, model_id: int, error: Exception) -> None:
        """A round met an error."""

    def request_failed(self, model_id: int, error: Exception) -> None:
        """A request for a round ended with an error, which the caller receives."""

    def rounds_postponed(self, model_ids: Sequence[int]) -> None:
        """The time ran out before the rounds of these models began."""

    def model_paused(self, model_id: int, reason: str) -> None:
        """A model is paused since too many of its rounds failed in a row."""

    def pointer_written(self, model_id: int) -> None:
        """A sweep brought a model's `latest.json` up to date, or would in a dry run."""

    def orphan_removed(self, orphan: Orphan) -> None:
        """A sweep removed an orphan, or would in a dry run."""

    def events_sent(self, count: int) -> None:
        """Events went to the event bus."""

    def step_delayed(self, step: str, error: Exception) -> None:
        """A step that follows a round failed; a later sweep or invocation repeats it."""
