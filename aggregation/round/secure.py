"""One attempt to combine masked updates: sum them, ask the mask keeper for their masks, unmask the sum.

The aggregator never sees a seed, and asks for the sum of the masks only after the masked sum is complete:
the updates of the sum are final by then. An update that the mask keeper refuses is rejected, and the sum is
computed again without it; nothing was revealed. Until the keeper answers, the round is suspended.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

from aggregation.engine import Checkpoint, Combination, combine
from aggregation.errors import (
    InvalidWeights,
    MasksPending,
    MasksRefused,
    NotEnoughUpdates,
    ProgressLost,
    RuleError,
    UpdateRejected,
    UpdatesRejected,
)
from aggregation.formats import Spool
from aggregation.layout import TensorLayout
from aggregation.masks.requests import MaskAnswer, MaskKeys, MaskRequest, request_key
from aggregation.masks.settings import masked_layout
from aggregation.masks.terms import check_terms
from aggregation.masks.unmasking import UnmaskedMean, unmasked_mean
from aggregation.masks.weights import MaskedWeights
from aggregation.policies import OPTIMIZE_ALL, PolicyMap
from aggregation.round.attempt import Attempt
from aggregation.round.masked_sum import MaskedSum
from aggregation.round.port import MASKED_SUM, SecureRoundConnector
from aggregation.round.values import (
    ClaimedUpdate,
    MasksProgress,
    RoundCheckpoint,
    RoundResult,
    SecureTerms,
    sink_states,
)
from aggregation.rules import Rule, create_rule
from aggregation.weights import Weights


def sum_of(updates: Sequence[MaskedWeights]) -> Combination:
    """Return the combination that adds masked updates modulo 2**32."""
    return Combination(
        rule=MaskedSum(),
        updates=updates,
        num_examples=[1.0] * len(updates),
        policies=OPTIMIZE_ALL,
    )


def request_for(model: int, round_: int, updates: Sequence[MaskedWeights]) -> MaskRequest:
    """Return the request for the sum of the masks of exactly these updates."""
    messages = tuple(update.message for update in updates)
    return MaskRequest(model=model, round=round_, updates=messages)


def step_of(mean: UnmaskedMean, rule: Rule, terms: SecureTerms, **step: Any) -> Combination:
    """Return the combination that adds the mean of a round's updates to the parent.

    Parameters
    ----------
    mean : UnmaskedMean
        Without noise.
    rule : Rule
        Of the round; that of a private round with its noise.
    terms : SecureTerms
    step
        The parent, policies, optimizer and optimizer's state, as for `Combination`.
    """
    alone: Rule = create_rule("unweighted_mean")
    if rule.is_private:
        from aggregation.round.noisy_mean import ReleasedMean  # Private rounds alone need it.

        alone, mean = ReleasedMean(), _with_noise(mean, rule, terms)
    return Combination(rule=alone, updates=[mean], num_examples=[1.0], differences=True, **step)


def _with_noise(mean: UnmaskedMean, rule: Rule, terms: SecureTerms) -> UnmaskedMean:
    from aggregation.privacy.rule import PrivateMean
    from aggregation.round.noisy_mean import with_noise

    if not isinstance(rule, PrivateMean) or rule.noise is None:
        raise RuleError("the noise of this round is not known: its seed is needed")
    return with_noise(mean, rule.noise, rule.settings, terms.settings)


class SecureAttempt(Attempt):
    """One attempt to combine the masked updates of a claim."""

    @property
    def _terms(self) -> SecureTerms:
        if self._claim.secure is None:
            raise ValueError("the claim is not one of masked updates")
        return self._claim.secure

    @property
    def _masks(self) -> SecureRoundConnector:
        return cast(SecureRoundConnector, self._connector)

    def combine(self) -> RoundResult:
        """Combine the usable updates into a stored result.

        Raises
        ------
        MasksPending
        MasksRefused
        NotEnoughUpdates
        OutOfTime
        RuleError
        """
        with Spool(self._claim.spool_bytes) as spool:
            parent = self._connector.open_parent(self._claim, spool)
            if parent is None:
                raise InvalidWeights("a model with secure aggregation needs initial weights")
            layout = masked_layout(parent.layout, self._claim.policies)
            self._check_noise(parent.layout)
            while True:
                try:
                    progress = self._sum_of_masked(layout)
                    answer = self._ask(progress, layout)
                    if answer is not None:
                        return self._unmask(parent, layout, progress)
                except ProgressLost:
                    pass
                self._forget_progress()

    def _check_noise(self, layout: TensorLayout) -> None:
        """Refuse what has no noise before the mask keeper is asked, which spends the updates."""
        if self._claim.rule.is_private:
            from aggregation.round.noisy_mean import check_noise

            policy_map = PolicyMap(layout, self._claim.policies)
            check_noise(self._claim.rule, self._terms.settings, policy_map)

    # The masked sum

    def _sum_of_masked(self, layout: TensorLayout) -> MasksProgress:
        """Return the complete sum of the masked updates; compute it, or what is left of it."""
        while True:
            saved = self.checkpoint.get("masks") if self.checkpoint else None
            if saved:
                return saved
            usable, opened = self._open_masked(layout)
            try:
                return self._add(usable, opened)
            except UpdatesRejected as error:
                self.rejected |= {usable[i].id: why for i, why in error.reasons.items()}
                self._forget_progress()

    def _open_masked(self, layout: TensorLayout) -> tuple[list[ClaimedUpdate], list[MaskedWeights]]:
        """Open the usable updates; those that cannot be used are rejected."""

        def attempt(update: ClaimedUpdate) -> MaskedWeights | str:
            terms, model = self._terms, self._claim.model_id
            try:
                weights = self._masks.open_masked(update, layout)
                check_terms(
                    weights.header, terms.settings, model=model, max_weight=terms.max_weight
                )
            except UpdateRejected as error:
                return str(error)
            return weights

        self._reject_unidentified()
        usable = self._usable_updates()
        with ThreadPoolExecutor(self.resources.readers, "open") as pool:
            found = list(pool.map(attempt, usable))
        refused = {u.id: f for u, f in zip(usable, found, strict=True) if isinstance(f, str)}
        if refused:
            self.rejected |= refused
            self._forget_progress()
            usable = self._usable_updates()
        return usable, [each for each in found if isinstance(each, MaskedWeights)]

    def _usable_updates(self) -> list[ClaimedUpdate]:
        usable = super()._usable_updates()
        fewest = self._terms.settings.min_cohort
        if len(usable) < fewest:
            raise NotEnoughUpdates(
                f"{len(self.rejected)} updates rejected, {len(usable)} are left, and min_cohort is {fewest}"
            )
        return usable

    def _add(
        self, usable: Sequence[ClaimedUpdate], opened: Sequence[MaskedWeights]
    ) -> MasksProgress:
        """Store the sum of masked updates modulo 2**32, and the request for their masks."""
        work = sum_of(opened)
        engine = self.checkpoint["engine"] if self.checkpoint else None
        saved = sink_states(self.checkpoint).result if engine else None
        sink = self._connector.new_result(self._claim, MASKED_SUM, saved)
        self._sinks = [sink]
        try:
            combined = combine(
                work,
                sink,
                format="memory",
                resources=self.resources,
                resume=engine,
                checkpoint=self._save_progress,
                out_of_time=self._out_of_time,
            )
        except (UpdatesRejected, ProgressLost):
            self.discard()
            raise
        request = request_for(self._claim.model_id, self._terms.round, opened)
        body = request.encode()
        progress = MasksProgress(
            used=[update.id for update in usable],
            weight=sum(weights.header.weight for weights in opened),
            sum=sink.location,
            request=request_key(request, body),
            bytes_read=combined.bytes_read,
        )
        self._masks.store_request(progress["request"], body)
        self.checkpoint = self._checkpoint(None)
        self.checkpoint["masks"] = progress
        self._connector.save_checkpoint(self._claim, self.checkpoint)
        return progress

    # The masks

    def _ask(self, progress: MasksProgress, layout: TensorLayout) -> MaskAnswer | None:
        """Return the mask keeper's answer; None if it refuses updates, which are rejected."""
        answer = self._masks.masks_answer(self._claim, progress["request"])
        if answer is None:
            raise MasksPending("the mask keeper has not answered yet")
        if answer.reason:
            raise MasksRefused(f"the mask keeper refuses the sum: {answer.reason}")
        if answer.refused:
            self.rejected |= {
                update: f"refused by the mask keeper: {answer.refused[position]}"
                for position, update in enumerate(progress["used"])
                if position in answer.refused
            }
            return None
        if answer.elements != layout.size:
            raise MasksRefused(
                f"the mask keeper's sum has {answer.elements} elements, not {layout.size}"
            )
        return answer

    def _unmask(
        self, parent: Weights, layout: TensorLayout, progress: MasksProgress
    ) -> RoundResult:
        """Add the mean that the two sums belong to to the parent, and store the result."""
        used = [update for update in self._claim.updates if update.id in set(progress["used"])]
        state = self._claim.optimizer_state
        mean = self._mean(parent, layout, progress)
        work = step_of(
            mean,
            self._rule(used),
            self._terms,
            parent=parent,
            policies=self._claim.policies,
            optimizer=self._claim.optimizer,
            optimizer_state=self._connector.open_state(state) if state else None,
        )
        try:
            result = self._store(work, used)
        except UpdatesRejected as error:
            raise InvalidWeights(f"the mean of the updates: {error.reasons[0]}") from error
        combined = result.combined
        nbytes = combined.bytes_read + progress["bytes_read"]
        return replace(result, combined=replace(combined, bytes_read=nbytes))

    def _mean(self, parent: Weights, layout: TensorLayout, progress: MasksProgress) -> UnmaskedMean:
        terms, nbytes = self._terms, layout.nbytes
        return unmasked_mean(
            parent.layout,
            layout,
            self._masks.open_sum(progress["sum"], nbytes),
            self._masks.open_sum(MaskKeys.of(progress["request"]).sum, nbytes),
            terms.divisor(progress["weight"]),
        )

    def _checkpoint(self, engine: Checkpoint | None) -> RoundCheckpoint:
        checkpoint = super()._checkpoint(engine)
        if engine and self.checkpoint and "masks" in self.checkpoint:
            checkpoint["masks"] = self.checkpoint["masks"]
        return checkpoint
