"""What a round asks for: requests, bytes and seconds, as the engine cuts the work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aggregation.engine.passes import chunk_elements
from aggregation.engine.ranges import CELL, part_ends, segment_ends
from aggregation.layout import Tensor, TensorLayout
from aggregation.rules import Rule
from aggregation.rules.krum import Bulyan, Krum, MultiKrum
from costs.stack import Stack

MB = 1_000_000

#: MB a second that a weighted mean took in over S3, by `make bench-peers` on 2026-11-24: 400 MB in 1.5 s,
#: on two cores, from a server on the same machine, each request held up for 30 ms. Not on AWS.
MEASURED_MB_A_SECOND = 270.0

#: What one function gets from S3 over its network, assumed from published measurements: 39 to 57 MB/s
#: where one object is read after the other, and somewhat more by parallel ranges.
NETWORK_MB_A_SECOND = 70.0

#: What a request to S3 waits for its first byte, assumed; requests of one round wait side by side.
REQUEST_SECONDS = 0.03

#: Of a round, beside reading: the claim, opening, publishing. Assumed.
REST_SECONDS = 0.5

#: Of an invocation that registers one upload. Assumed.
DOOR_SECONDS = 0.2

#: When the function stops before its time is up; see `connectors.runtime.dispatcher`.
STOP_BEFORE_END_SECONDS = 20.0
STOP_BEFORE_END_SHARE = 0.2

#: Lambda stops a chain of about as many invocations that feeds itself; the sweep goes on with it.
CHAIN = 16

#: boto3 uploads what is as large as this in parts of this size.
CLIENT_PART_BYTES = 8 << 20

#: Of `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`; see `settings`.
LEAST_BUDGET_MB = 32


class NeverEnds(Exception):
    """A round that no invocation brings any further; after some attempts it is given up."""


def default_rate() -> float:
    """MB a second that one function takes in, where nothing better is known."""
    return min(MEASURED_MB_A_SECOND, NETWORK_MB_A_SECOND)


def memory_budget(memory_mb: int, share: float) -> int:
    """Bytes the engine may use in a function with this memory."""
    return max(LEAST_BUDGET_MB, int(memory_mb * share)) << 20


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One reading of some updates from end to end.

    Parameters
    ----------
    rows : int
        Objects that are read: updates, and the parent where its values are needed.
    chunks : int
        Ranges that are read of each.
    nbytes : int
        Of all of them.
    """

    rows: int
    chunks: int
    nbytes: int

    @property
    def reads(self) -> int:
        """Ranged GETs."""
        return self.rows * self.chunks


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one round of a model that has an aggregate already.

    Parameters
    ----------
    params : int
    dtype : numpy.dtype
    updates : int
    rule : Rule
    memory_bytes : int
        What the engine may use.
    """

    params: int
    dtype: np.dtype
    updates: int
    rule: Rule
    memory_bytes: int

    @cached_property
    def layout(self) -> TensorLayout:
        """The model as one tensor: what lies together is read together, however many tensors it is."""
        return TensorLayout((Tensor("model", self.dtype, (self.params,)),))

    @property
    def measures(self) -> bool:
        """Whether the rule looks at all updates before it combines any."""
        return self.rule.needs_gram or self.rule.needs_norms

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """In their order; the last one combines."""
        combining = self._pass(members(self.rule, self.updates), parent=self.rule.on_differences)
        if not self.measures:
            return (combining,)
        return self._pass(self.updates, parent=True, on_grid=True), combining

    def _pass(self, updates: int, *, parent: bool, on_grid: bool = False) -> Pass:
        rows = updates + parent
        chunk = chunk_elements(self.layout, rows, self.memory_bytes, CELL if on_grid else 1)
        ends = segment_ends(self.layout, self._matrix_bytes) if on_grid else part_ends(self.layout)
        return Pass(rows=rows, chunks=pieces(ends, chunk), nbytes=rows * self.layout.nbytes)

    @property
    def _matrix_bytes(self) -> int:
        return self.updates**2 * 8 if self.rule.needs_gram else self.updates * 8

    @cached_property
    def nbytes(self) -> int:
        """Bytes read."""
        return sum(each.nbytes for each in self.passes)

    @cached_property
    def parts(self) -> int:
        """Parts of the result."""
        return len(part_ends(self.layout))

    def requests(self, invocations: int = 1) -> Counter[str]:
        """Requests to S3 of the round itself, by operation."""
        counts = Counter(
            HeadObject=invocations,
            # Headers: of each update, and of the parent twice, once for the free text in it.
            GetObject=invocations * (self.updates + 2) + sum(each.reads for each in self.passes),
            ListParts=invocations - 1,
        )
        counts.update(writes(self.parts))
        return +counts


def members(rule: Rule, updates: int) -> int:
    """How many of the updates are combined, after they were measured: of other rules, all at most."""
    match rule:
        case Krum():
            return 1
        case MultiKrum():
            return rule.averaged(updates)
        case Bulyan():
            return updates - 2 * rule.f
    return updates


def pieces(ends: Sequence[int], chunk: int) -> int:
    """How many chunks there are, none of which passes one of ``ends``."""
    starts = [0, *ends[:-1]]
    return sum(-(-(end - start) // chunk) for start, end in zip(starts, ends, strict=True))


def writes(parts: int) -> Counter[str]:
    """Requests that store a result."""
    if parts == 1:
        return Counter(PutObject=1)
    return Counter(CreateMultipartUpload=1, UploadPart=parts, CompleteMultipartUpload=1)


def client_writes(nbytes: int) -> int:
    """Requests in which boto3, and so the client package, uploads one object; a presigned post is one."""
    return 1 if nbytes < CLIENT_PART_BYTES else -(-nbytes // CLIENT_PART_BYTES) + 2


def door_requests(updates: int) -> Counter[str]:
    """Requests to S3 when the updates of a round are registered: what each is, and its header; the
    same of the aggregate with which they are compared."""
    return Counter(HeadObject=updates + 1, GetObject=updates + 1)


def pointer_requests() -> Counter[str]:
    """Requests to S3 that bring `latest.json` up to date: the pointer, and the header of the weights."""
    return Counter(HeadObject=3, GetObject=2, PutObject=1)


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a round takes.

    Parameters
    ----------
    seconds : float
        As one invocation, if that might take as long as it likes.
    invocations : int
    billed_seconds : float
        Of all of them: each opens the updates again, and reads a part again that it finds half done.
    """

    seconds: float
    invocations: int
    billed_seconds: float

    @property
    def sweeps(self) -> int:
        """How often a chain of invocations is so long that Lambda stops it, and a sweep goes on."""
        return (self.invocations - 1) // CHAIN


def duration(work: Work, stack: Stack, mb_a_second: float) -> Duration:
    """How long a round takes in a function that takes in so many MB a second.

    Raises
    ------
    NeverEnds
        If an invocation is over before it has stored a part that the next could go on from.
    """

    def reading(nbytes: float, reads: float) -> float:
        waiting = reads * REQUEST_SECONDS / min(stack.read_threads, max(reads, 1))
        return max(nbytes / MB / mb_a_second, waiting)

    *before, combining = work.passes
    opening = reading(0, work.updates + 3)
    measuring = sum(reading(each.nbytes, each.reads) for each in before)
    mixing = reading(combining.nbytes, combining.reads)
    seconds = REST_SECONDS + opening + measuring + mixing
    margin = min(STOP_BEFORE_END_SECONDS, stack.timeout_seconds * STOP_BEFORE_END_SHARE)
    usable = stack.timeout_seconds - margin
    if seconds <= usable:
        return Duration(seconds=seconds, invocations=1, billed_seconds=seconds)
    part = mixing / work.parts
    first = REST_SECONDS + opening + measuring + part
    if first > usable:
        raise NeverEnds(
            f"no part of the result is stored within {usable:.0f} s, when an invocation stops: "
            f"the first takes {first:.4g} s, and each invocation would begin anew"
        )
    again = REST_SECONDS + opening + part / 2
    further = math.ceil((seconds - usable) / (usable - again))
    return Duration(
        seconds=seconds, invocations=1 + further, billed_seconds=seconds + further * again
    )
