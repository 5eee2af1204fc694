"""One attempt to combine the updates of a claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from aggregation.engine import Checkpoint, Combination, Resources, combine
from aggregation.errors import (
    AggregationError,
    NotEnoughUpdates,
    ProgressLost,
    UpdateRejected,
    UpdatesRejected,
)
from aggregation.formats import NeedsSpool, Spool
from aggregation.layout import TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.round.bases import Bases, stated_steps
from aggregation.round.port import OPTIMIZER_STATE, ResultSink, RoundConnector
from aggregation.round.values import (
    Claim,
    ClaimedUpdate,
    RoundCheckpoint,
    RoundResult,
    SinkStates,
    rule_with_noise,
    sink_states,
)
from aggregation.rules import Rule
from aggregation.weights import Weights


class Attempt:
    """One attempt to combine the updates of a claim.

    Attributes
    ----------
    resources : Resources
    rejected : dict of int to str
        Ids of the updates that turned out bad, with the reasons.
    checkpoint : RoundCheckpoint or None
        Where the next attempt can resume.
    """

    def __init__(
        self,
        connector: RoundConnector,
        claim: Claim,
        resources: Resources,
        out_of_time: Callable[[], bool],
    ) -> None:
        self._connector = connector
        self._claim = claim
        self.resources = resources
        self._out_of_time = out_of_time
        self._sinks: list[ResultSink] = []
        self.checkpoint = claim.checkpoint
        saved = claim.checkpoint["rejected"] if claim.checkpoint else {}
        self.rejected = {int(update): reason for update, reason in saved.items()}

    def combine(self) -> RoundResult:
        """Combine the usable updates into a stored result.

        If updates turn out bad, the work starts again without them. That rarely happens twice: the engine
        reads all updates to the end, if there is time, before it reports the bad ones.
        """
        with Spool(self._claim.spool_bytes) as spool:
            parent = self._connector.open_parent(self._claim, spool)
            opened = self._open_updates(parent, spool)
            bases = self._open_bases(parent, spool)
            while True:
                usable, work = self._combination(parent, opened, bases)
                try:
                    return self._store(work, usable)
                except UpdatesRejected as error:
                    self.rejected |= {usable[i].id: why for i, why in error.reasons.items()}
                except ProgressLost:
                    pass
                self._forget_progress()

    def open(self) -> tuple[list[ClaimedUpdate], Combination]:
        """Open the usable updates without unpacking any, for a task of a distributed round.

        Raises
        ------
        NeedsSpool
            If the parent or an update must be unpacked.
        NotEnoughUpdates
        """
        parent = self._connector.open_parent(self._claim, None)
        opened = self._open_updates(parent, None)
        return self._combination(parent, opened, self._open_bases(parent, None))

    def discard(self) -> None:
        """Delete what is stored of the result; the sweep deletes what cannot be deleted now."""
        for sink in self._sinks:
            with suppress(AggregationError):
                sink.abort()

    def _combination(
        self, parent: Weights | None, opened: Mapping[int, Weights], bases: Bases
    ) -> tuple[list[ClaimedUpdate], Combination]:
        usable, state = self._usable_updates(), self._claim.optimizer_state
        return usable, Combination(
            rule=self._rule(usable),
            updates=[opened[update.id] for update in usable],
            num_examples=[update.num_examples for update in usable],
            parent=parent,
            differences=self._claim.differences,
            policies=self._claim.policies,
            num_steps=stated_steps(usable),
            directions=[update.direction for update in usable],
            optimizer=self._claim.optimizer,
            optimizer_state=self._connector.open_state(state) if state else None,
            **bases.terms(usable),
        )

    def _rule(self, usable: Sequence[ClaimedUpdate]) -> Rule:
        """Return the rule; that of a private round with the noise of these updates."""
        rule = self._claim.rule
        if not rule.is_private:
            return rule
        return rule_with_noise(rule, self._connector.open_seed(self._claim), usable)

    def _open_updates(self, parent: Weights | None, spool: Spool | None) -> dict[int, Weights]:
        """Return the updates that can be read and have the model's layout, by id."""
        self._reject_without_steps()
        self._reject_unidentified()
        openers = {update.id: self._opener(update) for update in self._usable_updates()}
        policies = self._claim.policies
        expected_layout = policies.expected_layout(parent.layout if parent else None)
        opened, rejected = open_consistent(openers, expected_layout, self.resources.readers, spool)
        self.rejected |= rejected
        if rejected:  # The stored parts of the result were computed with them.
            self._forget_progress()
        return opened

    def _open_bases(self, parent: Weights | None, spool: Spool | None) -> Bases:
        """Open what late updates were trained from, and reject those whose base cannot be used."""
        bases = Bases(
            self._connector.open_base,
            staleness=self._claim.staleness,
            differences=self._claim.differences,
            location=self._claim.parent,
            parent=parent,
        )
        bases.open(self._usable_updates(), spool)
        self.rejected |= bases.rejected
        if bases.rejected:
            self._forget_progress()
        return bases

    def _reject_without_steps(self) -> None:
        """Reject updates that were sent before the model's rule needed their numbers of steps."""
        rule = self._claim.rule
        if rule.needs_steps:
            missing = (u.id for u in self._claim.updates if u.num_steps is None)
            reason = f"num-steps is missing, and {rule.name} needs it"
            self.rejected = dict.fromkeys(missing, reason) | self.rejected

    def _reject_unidentified(self) -> None:
        """Reject updates of a private round whose content is not known to stay the same: its noise must."""
        if self._claim.rule.is_private:
            unknown = (update.id for update in self._claim.updates if not update.etag)
            reason = "its ETag is not known, by which a private round identifies its content"
            self.rejected = dict.fromkeys(unknown, reason) | self.rejected

    def _opener(self, update: ClaimedUpdate) -> Opener:
        if self._claim.rule.is_private:
            return self._opener_without_spool(update)
        return lambda expected_layout, spool: self._connector.open_update(
            update, expected_layout, spool
        )

    def _opener_without_spool(self, update: ClaimedUpdate) -> Opener:
        """Return the opener of an update of a private round, of which none may be unpacked.

        The space for unpacking is shared: one update could lead to the rejection of another, and would
        change the result by more than the noise hides.
        """

        def open_update(expected_layout: TensorLayout | None, spool: Spool | None) -> Weights:
            try:
                return self._connector.open_update(update, expected_layout, None)
            except NeedsSpool as error:
                raise UpdateRejected(
                    "a private model takes updates that need not be unpacked: safetensors, or npz "
                    "without compression"
                ) from error

        return open_update

    def _usable_updates(self) -> list[ClaimedUpdate]:
        """Return the claim's updates that are not rejected.

        Raises
        ------
        NotEnoughUpdates
            If they no longer meet the requirement.
        """
        usable = [update for update in self._claim.updates if update.id not in self.rejected]
        readiness = replace(self._claim.readiness, ready=len(usable))
        unmet = self._claim.requirement.unmet(readiness)
        if unmet:
            raise NotEnoughUpdates(f"{len(self.rejected)} updates rejected, {unmet}")
        return usable

    def _store(self, work: Combination, usable: Sequence[ClaimedUpdate]) -> RoundResult:
        """Combine into new objects, or continue those that a function began alone.

        A result that several functions began is not continued: a late one may still write into it.
        """
        engine = self.checkpoint["engine"] if self.checkpoint else None
        try:
            result, state = self._open_sinks(
                work, usable, sink_states(self.checkpoint) if engine else SinkStates()
            )
            combined = combine(
                work,
                result,
                state_sink=state,
                resources=self.resources,
                resume=engine,
                checkpoint=self._save_progress,
                out_of_time=self._out_of_time,
            )
        except (UpdatesRejected, ProgressLost):
            self.discard()
            raise
        return RoundResult(
            used=tuple(update.id for update in usable),
            rejected=self.rejected,
            location=result.location,
            combined=combined,
            optimizer_state=state.location if state else None,
        )

    def _open_sinks(
        self, work: Combination, usable: Sequence[ClaimedUpdate], saved: SinkStates
    ) -> tuple[ResultSink, ResultSink | None]:
        """Return the sinks of the result, and of the optimizer's new state if there is one."""
        made_of = replace(self._claim, updates=tuple(usable))
        result = self._connector.new_result(made_of, work.model.format, saved.result)
        self._sinks = [result]
        if work.state is None:
            return result, None
        state = self._connector.new_result(made_of, OPTIMIZER_STATE, saved.optimizer)
        self._sinks.append(state)
        return result, state

    def _save_progress(self, engine: Checkpoint) -> None:
        self.checkpoint = self._checkpoint(engine)
        self._connector.save_checkpoint(self._claim, self.checkpoint)

    def _forget_progress(self) -> None:
        self.checkpoint = self._checkpoint(None)

    def _checkpoint(self, engine: Checkpoint | None) -> RoundCheckpoint:
        rejected = {str(update): reason for update, reason in self.rejected.items()}
        return RoundCheckpoint(rejected=rejected, engine=engine)
