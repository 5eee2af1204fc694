"""The metadata and the weights of a simulation, as the round of the function reads and writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from aggregation.counts import capped_examples, default_cap
from aggregation.engine.state import STATE_FORMAT
from aggregation.errors import InvalidWeights
from aggregation.formats import Spool, open_weights
from aggregation.in_memory import arrays_of, weights_in_memory
from aggregation.layout import TensorLayout
from aggregation.model_settings import ModelSettings
from aggregation.opening import first_of_majority
from aggregation.policies import PolicyMap
from aggregation.privacy.noise import SEED_BYTES
from aggregation.requirements import MAX_MINUTES, Readiness
from aggregation.round import (
    Claim,
    ClaimedUpdate,
    RoundAnswer,
    RoundCheckpoint,
    RoundResult,
    Status,
)
from aggregation.round.port import OPTIMIZER_STATE
from aggregation.sources import BytesSource
from aggregation.weights import Weights
from laboratory.arguments import NOISE, STEPS, random_numbers
from laboratory.contributions import norms_and_contributions
from laboratory.models import Arrays
from laboratory.private import content_of, spent
from laboratory.sinks import LaboratorySink
from laboratory.updates import Outcome, Submitted

#: The laboratory has no clock: a requirement that waits for a time has waited long enough.
WAITED = timedelta(minutes=MAX_MINUTES - 1)

MODEL_ID = 1


class LaboratoryConnector:
    """One federated model in memory: `aggregation.round.run_round` runs its rounds.

    Parameters
    ----------
    settings : ModelSettings
    members : int
        How many clients the model has.
    initial : dict of str to array, optional
        The initial weights.
    seed : int
        Of the simulation; the seeds of steps before the rule follow from it.

    Attributes
    ----------
    number : int
        Of the latest aggregate; 0 before the first.
    parent : str or None
        The location of the latest weights.
    outcome : Outcome
        Of the last round.
    """

    def __init__(
        self,
        settings: ModelSettings,
        members: int,
        initial: Arrays | None,
        seed: int,
    ) -> None:
        self._settings = settings
        self._members = members
        self._seed = seed
        self._models: dict[str, Arrays] = {}
        self._sinks: dict[str, LaboratorySink] = {}
        self._pending: dict[int, Submitted] = {}
        self._directions = [0.0] * members
        self._state: Weights | None = None
        self.number = 0
        self.parent: str | None = None
        self.outcome = Outcome()
        if initial is not None:
            self.parent = "initial"
            self._models["initial"] = initial

    @property
    def weights(self) -> Arrays | None:
        """The latest weights by name, which the caller must not change; None if there are none."""
        return None if self.parent is None else self._models[self.parent]

    def submit(self, update: Submitted) -> None:
        """Store an update, in place of an earlier one of the same client that no round has used."""
        self._pending[update.client] = update

    @property
    def epsilon(self) -> float | None:
        """What the published aggregates would have spent; None if the model is not private."""
        private = self._settings.privacy()
        return None if private is None else spent(private, self.number)

    def keep_bases(self, locations: Collection[str | None]) -> None:
        """Forget the weights from which no update was trained that is pending or in these locations."""
        kept = {self.parent, *locations, *(update.base for update in self._pending.values())}
        self._models = {name: arrays for name, arrays in self._models.items() if name in kept}

    # What a round asks for

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        settings = self._settings
        self.outcome = Outcome(rejected=self._reject_stale())
        ready = [self._pending[client] for client in sorted(self._pending)]
        readiness = Readiness(members=self._members, ready=len(ready), waited=WAITED)
        requirement, number = settings.requirement_object(), self.number + 1
        rule = settings.rule(random_numbers(self._seed, STEPS, number).bytes(32).hex())
        unmet = requirement.unmet(readiness)
        if unmet is None and len(ready) < rule.min_updates:
            unmet = f"{rule.name} needs at least {rule.min_updates} updates, {len(ready)} are ready"
        if unmet:
            return RoundAnswer(model_id=model_id, status=Status.WAITING, reason=unmet)
        private = settings.privacy()
        if private and spent(private, number) > private.max_epsilon:
            reason = f"another round would raise epsilon to {spent(private, number):.4f}, and "
            reason += f"max_epsilon is {private.max_epsilon:g}"
            return RoundAnswer(model_id=model_id, status=Status.PAUSED, reason=reason)
        counts = [update.num_examples for update in ready]
        robust = rule.max_hostile(len(ready)) > 0
        cap = settings.max_num_examples or default_cap(counts, robust=robust)
        return Claim(
            model_id=model_id,
            round_id=number,
            number=number,
            attempt=1,
            rule=rule,
            requirement=requirement,
            readiness=readiness,
            updates=tuple(self._claimed(update, cap, private=rule.is_private) for update in ready),
            policies=settings.policies(),
            parent=self.parent,
            staleness=settings.staleness_object(),
            optimizer=settings.optimizer(),
            optimizer_state=OPTIMIZER_STATE if self._state else None,
        )

    def _reject_stale(self) -> dict[int, str]:
        """Reject updates that are based on an older aggregate than the model allows."""
        furthest = self._settings.furthest_base_agg
        rejected = {
            client: f"based on aggregate number {update.base_number}; the latest is {self.number} "
            f"and furthest_base_agg is {furthest}"
            for client, update in self._pending.items()
            if furthest is not None and update.base_number <= self.number - furthest
        }
        for client in rejected:
            del self._pending[client]
        return rejected

    def _claimed(self, update: Submitted, cap: int | None, *, private: bool) -> ClaimedUpdate:
        return ClaimedUpdate(
            id=update.client,
            num_examples=capped_examples(update.num_examples, cap),
            location=f"updates/{update.client}",
            etag=content_of(update.arrays) if private else "",
            num_steps=update.num_steps,
            rounds_late=self.number - update.base_number,
            base=update.base,
            direction=self._directions[update.client],
        )

    def open_parent(self, claim: Claim, spool: Spool | None) -> Weights | None:
        return None if claim.parent is None else self.open_base(claim.parent, spool)

    def open_base(self, location: str, spool: Spool | None) -> Weights:
        return weights_in_memory(self._models[location])

    def open_state(self, location: str) -> Weights:
        if self._state is None:
            raise InvalidWeights("the optimizer has no state yet")
        return self._state

    def open_seed(self, claim: Claim) -> bytes:
        return random_numbers(self._seed, NOISE, claim.number).bytes(SEED_BYTES)

    def open_update(
        self, update: ClaimedUpdate, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        return weights_in_memory(self._pending[update.id].arrays)

    def new_result(self, claim: Claim, format: str, state: dict[str, Any] | None) -> LaboratorySink:
        sink = LaboratorySink(f"aggregates/{claim.number}.{format}")
        self._sinks[sink.location] = sink
        return sink

    def publish_round(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        self.outcome = self._outcome(claim, result)
        self._keep(result, self._layout(claim, result))
        for update in claim.updates:
            del self._pending[update.id]
        return RoundAnswer.published(claim, result, claim.number)

    def reject_round(self, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        self.outcome = Outcome(rejected=self.outcome.rejected | dict(rejected))
        for client in rejected:
            del self._pending[client]
        return RoundAnswer.rejected(claim, rejected, reason)

    def fail_round(self, claim: Claim, error: Exception) -> bool:
        return True

    def release_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        """Do nothing: nothing in memory fails for a while."""

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        """Do nothing: no other attempt resumes a round."""

    def suspend_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> RoundAnswer:
        raise AssertionError("a simulated round has no time limit")

    # After a round

    def _outcome(self, claim: Claim, result: RoundResult) -> Outcome:
        selection = result.combined.selection
        norms, contributions = self._measured(claim, result)
        factors = np.asarray(selection.coefficients) / selection.total
        members = zip(selection.members, factors.tolist(), strict=True)
        used = result.used
        return Outcome(
            weights={used[member]: factor for member, factor in members if member < len(used)},
            norms=dict(zip(used, norms, strict=True)) if norms else {},
            contributions={
                client: cosine
                for client, cosine in zip(used, contributions, strict=False)
                if cosine is not None
            },
            rejected=self.outcome.rejected | dict(result.rejected),
            rounds_late={update.id: update.rounds_late for update in claim.updates},
        )

    def _measured(
        self, claim: Claim, result: RoundResult
    ) -> tuple[Sequence[float], Sequence[float | None]]:
        """Return the norms and the contributions of the updates that were used, as far as known."""
        combined = result.combined
        if claim.parent is None:
            return combined.norms or (), ()
        policies = PolicyMap(self._layout(claim, result), claim.policies)
        norms, cosines = norms_and_contributions(
            self._models[claim.parent],
            [self._pending[client].arrays for client in result.used],
            policies.optimized_names,
            combined.selection,
        )
        return combined.norms or norms, combined.selection.cosines or cosines

    def _layout(self, claim: Claim, result: RoundResult) -> TensorLayout:
        """Return the layout of a result: that of its parent, or of most of its updates."""
        if claim.parent is not None:
            return self.open_base(claim.parent, None).layout
        updates = [self._pending[client].arrays for client in result.used]
        return first_of_majority([weights_in_memory(arrays) for arrays in updates]).layout

    def _keep(self, result: RoundResult, layout: TensorLayout) -> None:
        """Make a result the latest weights."""
        cosines = result.combined.selection.cosines
        if cosines:
            for client, cosine in zip(result.used, cosines, strict=True):
                self._directions[client] += cosine or 0.0
        self._models[result.location] = arrays_of(self._sinks[result.location].data, layout)
        self._state = None
        if result.optimizer_state:
            state = BytesSource(self._sinks[result.optimizer_state].data)
            self._state = open_weights(state, STATE_FORMAT, spool=None, trusted=True)
        self._sinks.clear()
        self.parent, self.number = result.location, self.number + 1
