"""The requests to S3 and the bytes of a round, as the engine divides the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aggregation.engine.chunks import chunk_elements
from aggregation.engine.ranges import CELL, part_ends, segment_ends
from aggregation.layout import Tensor, TensorLayout
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
    nbytes : int
        Bytes of all objects.
    """

    rows: int
    chunk: int
    chunks: int
    nbytes: int

    @property
    def reads(self) -> int:
        """Number of ranged GETs."""
        return self.rows * self.chunks


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
    """

    params: int
    dtype: np.dtype
    updates: int
    rule: Rule
    memory_bytes: int

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
        combining = self._pass(members(self.rule, self.updates), parent=self.rule.on_differences)
        if not self.has_measuring_pass:
            return (combining,)
        return self._pass(self.updates, parent=True, on_grid=True), combining

    def _pass(self, updates: int, *, parent: bool, on_grid: bool = False) -> Pass:
        rows = updates + parent
        chunk = chunk_elements(self.layout, rows, self.memory_bytes, CELL if on_grid else 1)
        chunks = count_chunks(self.segments if on_grid else part_ends(self.layout), chunk)
        return Pass(rows=rows, chunk=chunk, chunks=chunks, nbytes=rows * self.layout.nbytes)

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
        counts = Counter(
            HeadObject=invocations,
            # Headers: of each update, and twice of the parent, once for its metadata.
            GetObject=invocations * (self.updates + 2) + sum(each.reads for each in self.passes),
            ListParts=invocations - 1,
        )
        counts.update(result_writes(self.parts))
        return +counts


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
