"""The requests to S3 and the bytes of a round, as the engine divides the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aggregation.engine.chunks import chunk_elements
from aggregation.engine.ranges import CELL, part_ends, segment_ends
from aggregation.engine.state import OptimizerState
from aggregation.engine.steps import state_parts
from aggregation.layout import Tensor, TensorLayout
from aggregation.optimizers import NO_OPTIMIZER, Optimizer
from aggregation.policies import OPTIMIZE_ALL, PolicyMap
from aggregation.rules import Rule
from aggregation.rules.krum import Bulyan, Krum, MultiKrum

#: While no more updates are ready, each new one is written to the documents of all clients that wait.
STATUS_REFRESHED = 16

#: boto3 uploads an object of this size or more in parts of this size.
CLIENT_PART_BYTES = 8 << 20

#: The smallest memory budget; `settings` applies it to `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`.
MIN_BUDGET_MB = 32


def memory_budget(memory_mb: int, share: float) -> int:
    """Return the bytes that the engine may use in a function with this memory."""
    return max(MIN_BUDGET_MB, int(memory_mb * share)) << 20


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One reading of some updates from end to end.

    Parameters
    ----------
    rows : int
        Objects that are read: updates, and the parent if its values are needed.
    chunk : int
        Elements of a range at most.
    chunks : int
        Ranges that are read of each object.
    row_bytes, state_bytes : int
        Bytes of an element of the model in each of the objects, and in the optimizer's state if that is
        read as well.
    elements : int
        Of the model.
    """

    rows: int
    chunk: int
    chunks: int
    row_bytes: int
    state_bytes: int
    elements: int

    @property
    def nbytes(self) -> int:
        """Bytes of all objects."""
        return self.bytes_between(self.elements)

    @property
    def reads(self) -> int:
        """Number of ranged GETs."""
        return self.objects * self.chunks

    @property
    def objects(self) -> int:
        """Objects that are read, with the optimizer's state."""
        return self.rows + bool(self.state_bytes)

    def bytes_between(self, elements: int) -> int:
        """Return the bytes of a number of elements of the model in all objects."""
        return (self.rows * self.row_bytes + self.state_bytes) * elements


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one round of a model that already has an aggregate.

    Parameters
    ----------
    params : int
    dtype : numpy.dtype
    updates : int
    rule : Rule
    memory_bytes : int
        Memory budget of the engine.
    optimizer : Optimizer
        Of the model; its state is that of earlier rounds.
    """

    params: int
    dtype: np.dtype
    updates: int
    rule: Rule
    memory_bytes: int
    optimizer: Optimizer = NO_OPTIMIZER

    @cached_property
    def layout(self) -> TensorLayout:
        """The model as a single tensor: the engine reads adjacent tensors together."""
        return TensorLayout((Tensor("model", self.dtype, (self.params,)),))

    @property
    def has_measuring_pass(self) -> bool:
        """Whether the rule reads all updates before it combines any."""
        return self.rule.needs_gram or self.rule.needs_norms

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """The passes in their order; the last one combines."""
        parent = self.rule.on_differences or self.optimizer.takes_steps
        combining = self._pass(members(self.rule, self.updates), parent=parent, state=self.state)
        if not self.has_measuring_pass:
            return (combining,)
        return self._pass(self.updates, parent=True, on_grid=True), combining

    @cached_property
    def state(self) -> OptimizerState | None:
        """The optimizer's state, if it has one."""
        if not self.optimizer.slots:
            return None
        return OptimizerState(self.optimizer, PolicyMap(self.layout, OPTIMIZE_ALL), None)

    @property
    def state_nbytes(self) -> int:
        """Bytes of the optimizer's state."""
        return self.state.map.layout.nbytes if self.state else 0

    def _pass(
        self,
        updates: int,
        *,
        parent: bool,
        on_grid: bool = False,
        state: OptimizerState | None = None,
    ) -> Pass:
        rows, at_least = updates + parent, CELL if on_grid else 1
        chunk = chunk_elements(self.layout, rows, self.memory_bytes, at_least, state=state)
        return Pass(
            rows=rows,
            chunk=chunk,
            chunks=count_chunks(self.segments if on_grid else part_ends(self.layout), chunk),
            row_bytes=self.layout.itemsize,
            state_bytes=state.bytes_per_element if state else 0,
            elements=self.params,
        )

    @cached_property
    def segments(self) -> list[int]:
        """The elements before which the segments of a measuring pass end."""
        products = self.updates**2 if self.rule.needs_gram else self.updates
        return segment_ends(self.layout, 8 * products)

    @cached_property
    def nbytes(self) -> int:
        """Number of bytes that are read."""
        return sum(each.nbytes for each in self.passes)

    @cached_property
    def parts(self) -> int:
        """Number of parts of the result."""
        return len(part_ends(self.layout))

    def requests(self, invocations: int = 1) -> Counter[str]:
        """Return the requests to S3 of the round itself by operation."""
        written = 1 + bool(self.state)
        counts = Counter(
            HeadObject=invocations * written,
            # Headers: of each update, of the optimizer's state, and twice of the parent, once for its
            # metadata.
            GetObject=invocations * (self.updates + 1 + written)
            + sum(each.reads for each in self.passes),
            ListParts=(invocations - 1) * written,
        )
        counts.update(result_writes(self.parts))
        counts.update(self.state_writes(part_ends(self.layout)))
        return +counts

    def state_writes(self, ends: Sequence[int]) -> Counter[str]:
        """Return the requests that store the optimizer's new state beside a result with these parts."""
        if self.state is None:
            return Counter()
        return result_writes(len(state_parts(ends, self.state.map).ends))


def members(rule: Rule, updates: int) -> int:
    """Return how many updates are combined; rules that select none combine all."""
    match rule:
        case Krum():
            return 1
        case MultiKrum():
            return rule.averaged(updates)
        case Bulyan():
            return updates - 2 * rule.f
    return updates


def count_chunks(ends: Sequence[int], chunk: int) -> int:
    """Return the number of chunks, none of which crosses one of ``ends``."""
    starts = [0, *ends[:-1]]
    return sum(-(-(end - start) // chunk) for start, end in zip(starts, ends, strict=True))


def result_writes(parts: int) -> Counter[str]:
    """Return the requests that store a result."""
    if parts == 1:
        return Counter(PutObject=1)
    return Counter(CreateMultipartUpload=1, UploadPart=parts, CompleteMultipartUpload=1)


def client_writes(nbytes: int) -> int:
    """Return the number of requests in which boto3 uploads an object; a presigned post is one."""
    return 1 if nbytes < CLIENT_PART_BYTES else -(-nbytes // CLIENT_PART_BYTES) + 2


def intake_requests(updates: int) -> Counter[str]:
    """Return the requests to S3 that register the updates of a round.

    Each update is inspected and its header read, and so is the aggregate with which it is compared.
    """
    return Counter(HeadObject=updates + 1, GetObject=updates + 1)


def status_requests(updates: int) -> Counter[str]:
    """Return the requests to S3 that write the clients' status documents, at intake and by the round.

    While few updates are ready, each new one is written to the documents of all clients that wait.
    """
    few = min(updates, STATUS_REFRESHED)
    at_intake = few * (few + 1) // 2 + (updates - few)
    return Counter(PutObject=at_intake + updates)


def pointer_requests() -> Counter[str]:
    """Return the requests to S3 that update `latest.json`: the pointer, and the header of the weights."""
    return Counter(HeadObject=3, GetObject=2, PutObject=1)
