"""A round on files: the engine of the Lambda function for ``python -m aggregation``."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from aggregation.engine import Combination, Combined, Resources, combine
from aggregation.engine.output import DiscardingSink, FileSink, Sink
from aggregation.engine.progress import ProgressMeter
from aggregation.engine.state import STATE_FORMAT
from aggregation.errors import InvalidWeights, NotEnoughUpdates, UpdateRejected, UpdatesRejected
from aggregation.explanation import AggregationInfo, explain
from aggregation.formats import Spool, format_of, open_weights, read_metadata
from aggregation.layout import TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.optimizers import Optimizer
from aggregation.policies import TensorPolicies
from aggregation.privacy.local import with_local_noise
from aggregation.rules import Rule
from aggregation.sources import FileSource
from aggregation.weights import Weights


class FileRound:
    """Aggregates files, starting again without those that turn out bad.

    Parameters
    ----------
    paths : sequence of str
        The updates, in claim order.
    counts : sequence of float
        What each update counts.
    num_steps : sequence of int, optional
        Training steps of each update, for a rule that needs them.
    rule : Rule
    seed : str
        For the noise of a private rule.
    parent : str, optional
    differences : bool
        Whether the updates are differences from the parent.
    policies : TensorPolicies
    optimizer : Optimizer
    state : str, optional
        The path of the state that the optimizer left with the parent.
    memory_mb : int
        Memory for blocks and parts.
    spool : Spool
        For what must be unpacked.
    on_rejected : callable
        Called with the path of each update that is left out, and the reason.
    """

    def __init__(
        self,
        *,
        paths: Sequence[str],
        counts: Sequence[float],
        num_steps: Sequence[int] | None,
        rule: Rule,
        seed: str,
        parent: str | None,
        differences: bool,
        policies: TensorPolicies,
        optimizer: Optimizer,
        state: str | None,
        memory_mb: int,
        spool: Spool,
        on_rejected: Callable[[str, str], None],
    ) -> None:
        self._paths = paths
        self._counts = counts
        self._num_steps = num_steps
        self._rule = rule
        self._seed = seed
        self._differences = differences
        self._policies = policies
        self._optimizer = optimizer
        self._spool = spool
        self._on_rejected = on_rejected
        cores = os.cpu_count() or 1
        self._resources = Resources(memory_bytes=memory_mb << 20, readers=cores, workers=cores)
        self._parent = self._open_parent(parent) if parent else None
        self._state = self._open_state(state) if state else None

    def run(self, out: str, state_out: str | None, progress: Callable[[float], None]) -> Combined:
        """Combine the files into a result.

        Parameters
        ----------
        out, state_out : str
            The paths of the result, and of the optimizer's new state if it has one.
        progress : callable
            Called with the share of the work that is done, from 0 to 1.
        """

        def store(work: Combination) -> Combined:
            state_sink = FileSink(state_out) if work.state and state_out else None
            return self._combine(work, FileSink(out), state_sink, format_of(out), progress)

        _, _, combined = self._without_bad_files(store)
        return combined

    def explain(self) -> tuple[list[str], AggregationInfo]:
        """Combine the files, store nothing, and return the paths that were used and what happened."""

        def discard(work: Combination) -> Combined:
            sink, state_sink = DiscardingSink(), DiscardingSink()
            return self._combine(work, sink, state_sink, "memory", lambda share: None)

        paths, work, combined = self._without_bad_files(discard)
        return paths, explain(work, combined, self._resources)

    def _without_bad_files(
        self, combine_files: Callable[[Combination], Combined]
    ) -> tuple[list[str], Combination, Combined]:
        """Combine the files, and start again without those that cannot be used, until all can."""
        openers = {position: self._opener(path) for position, path in enumerate(self._paths)}
        parent = self._parent
        expected_layout = self._policies.expected_layout(parent.layout if parent else None)
        opened, rejected = open_consistent(
            openers, expected_layout, self._resources.readers, self._spool
        )
        while True:
            for position, reason in rejected.items():
                opened.pop(position, None)
                self._on_rejected(self._paths[position], reason)
            if not opened:
                raise NotEnoughUpdates("no update can be used")
            work = self._combination(opened)
            try:
                return [self._paths[position] for position in opened], work, combine_files(work)
            except UpdatesRejected as error:
                positions = list(opened)
                rejected = {positions[row]: reason for row, reason in error.reasons.items()}

    def _open_parent(self, path: str) -> Weights:
        try:
            return open_weights(_source(path), format_of(path), spool=self._spool, trusted=True)
        except UpdateRejected as error:
            raise InvalidWeights(f"the parent {path} cannot be used: {error}") from error

    def _open_state(self, path: str) -> Weights:
        try:
            state = open_weights(_source(path), STATE_FORMAT, spool=None, trusted=True)
            made_by = read_metadata(state.source).get("server_optimizer", self._optimizer.name)
        except UpdateRejected as error:
            raise InvalidWeights(f"the state {path} cannot be used: {error}") from error
        if made_by != self._optimizer.name:
            raise InvalidWeights(f"the state {path} is that of {made_by}")
        return state

    def _opener(self, path: str) -> Opener:
        def open_update(expected_layout: TensorLayout | None, spool: Spool | None) -> Weights:
            source = _source(path)
            return open_weights(
                source,
                format_of(path),
                expected_layout=expected_layout,
                spool=spool,
                trusted=True,
                compressed=self._differences,
            )

        return open_update

    def _combination(self, opened: dict[int, Weights]) -> Combination:
        steps = self._num_steps
        return Combination(
            rule=with_local_noise(
                self._rule,
                self._seed,
                list(opened.values()),
                parent=self._parent,
                differences=self._differences,
                policies=self._policies,
            ),
            updates=list(opened.values()),
            num_examples=[self._counts[position] for position in opened],
            parent=self._parent,
            num_steps=None if steps is None else [steps[position] for position in opened],
            differences=self._differences,
            policies=self._policies,
            optimizer=self._optimizer,
            optimizer_state=self._state,
        )

    def _combine(
        self,
        work: Combination,
        sink: Sink,
        state_sink: Sink | None,
        format: str,
        progress: Callable[[float], None],
    ) -> Combined:
        try:
            with ProgressMeter(work, progress) as meter:
                return combine(
                    work,
                    sink,
                    state_sink=state_sink,
                    format=format,
                    resources=self._resources,
                    on_bytes=meter.advance,
                )
        except BaseException:
            sink.abort()
            if state_sink:
                state_sink.abort()
            raise


def _source(path: str) -> FileSource:
    """Return the source of a file's bytes.

    Raises
    ------
    UpdateRejected
        If there is no such file, or it is not a file, or it may not be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UpdateRejected("it is not a file")
        with open(path, "rb"):
            return FileSource(path)
    except OSError as error:
        raise UpdateRejected(f"{error.strerror}") from error
