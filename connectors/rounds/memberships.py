"""Which round of each model a workflow belongs to: the fencing of external rounds.

A workflow may act on the round that it opened, as long as nobody else has changed which updates the round
has: each such change gives the round another attempt number, its fencing token. A workflow that opened no
round may continue the model's open one.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import F

from aggregation.errors import Conflict, LeaseLost
from connectors.rounds.selectors import UpdateStatus
from models_app.models import AggregationRound, ModelUpdate


@dataclass(frozen=True)
class Membership:
    """The round of a workflow.

    Parameters
    ----------
    round_id : int or None
        None after the workflow was refused a round, or has read one of the function: it has none, and
        may not touch another's.
    attempt : int
        The fencing token.
    continued : bool
        Whether another workflow opened the round.
    """

    round_id: int | None
    attempt: int = 0
    continued: bool = False

    def is_of(self, held: AggregationRound) -> bool:
        """Return whether this is the membership of a round as it is now."""
        return (self.round_id, self.attempt) == (held.pk, held.attempt)


class Memberships:
    """The rounds that one workflow opened or continues, one for each model."""

    def __init__(self) -> None:
        self._by_model: dict[int, Membership] = {}

    def own(self, model_id: int) -> Membership | None:
        """Return the membership of the round that the workflow opened, or was refused."""
        membership = self._by_model.get(model_id)
        return None if membership is None or membership.continued else membership

    def open(self, held: AggregationRound) -> None:
        """Remember a round that the workflow opened."""
        self._by_model[held.federated_model_id] = Membership(held.pk, held.attempt)

    def see(self, held: AggregationRound) -> None:
        """Remember a round as the workflow has read it; it continues a round that is not its own.

        A workflow that has read the updates of a round of the function may not post a result of them.
        """
        own = self.own(held.federated_model_id)
        self._by_model[held.federated_model_id] = Membership(
            held.pk if held.external else None,
            held.attempt,
            continued=own is None or own.round_id != held.pk,
        )

    def refuse(self, model_id: int) -> None:
        """Remember that the workflow was refused a round, unless it has one."""
        if self.own(model_id) is None:
            self._by_model[model_id] = Membership(None)

    def leave(self, held: AggregationRound) -> None:
        """Forget a round that the workflow has ended."""
        self._by_model.pop(held.federated_model_id, None)

    def knows(self, held: AggregationRound) -> bool:
        """Return whether the workflow opened or continues this round, as it is now."""
        membership = self._by_model.get(held.federated_model_id)
        return membership is not None and membership.is_of(held)

    def check(self, model_id: int, held: AggregationRound | None) -> None:
        """Refuse to act on a round of another workflow, or on one that was changed since it was read.

        Raises
        ------
        Conflict
            If the workflow was refused a round.
        LeaseLost
            If its round has ended or was changed.
        """
        membership = self._by_model.get(model_id)
        if membership is None or (held and membership.is_of(held)):
            return
        if membership.round_id is None:
            raise Conflict(f"this workflow has registered no updates of model {model_id}")
        raise LeaseLost(
            f"the round of model {model_id} that this workflow registered updates for has ended or was "
            "changed by another: pull the registered updates again"
        )

    def check_update(self, held: AggregationRound, given: ModelUpdate) -> None:
        """Refuse to act on an update that is registered for a round which is not the workflow's.

        Parameters
        ----------
        held : AggregationRound
            The round that the update is registered for.
        given : ModelUpdate
            The update as the workflow knows it.

        Raises
        ------
        Conflict, LeaseLost
        """
        if not held.external:
            raise Conflict(f"update {given.pk} is registered for {held}, which settles it itself")
        self.check(held.federated_model_id, held)
        if self.knows(held):
            return
        if given.status == UpdateStatus.RUNNING and given.round_id != held.pk:
            raise LeaseLost(
                f"update {given.pk} is registered for {held} by now: the round that it was pulled with "
                "has ended"
            )

    def fence_off_others(self, held: AggregationRound) -> None:
        """Fence off other processes that hold a round whose updates the workflow has changed."""
        AggregationRound.objects.filter(pk=held.pk).update(attempt=F("attempt") + 1)
        held.attempt += 1
        self.see(held)
