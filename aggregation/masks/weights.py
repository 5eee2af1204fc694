"""Masked updates: safetensors objects whose tensors are U32, with the signed message in their metadata.

The tensors lie in the order of the model, without gaps. The U8 tensor `DIGESTS` after them has the SHA-256
of each block of `BLOCK` elements, and the header of the message that of the digests. So any range can be
verified when it is read, and a sum needs to read each update only once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from ..errors import UpdateRejected
from ..formats import open_weights, read_metadata
from ..layout import Tensor, TensorLayout, layout_difference
from ..sources import Buffer, ByteSource, read
from ..weights import TensorIndex, Weights, shared_index
from .messages import Header, Message
from .settings import MASKED, layout_digest

#: Elements of one block: 16 KiB.
BLOCK = 4096

DIGESTS = "__digests__"
DIGEST_BYTES = 32
BLOCK_BYTES = BLOCK * MASKED.itemsize

#: Digests that are kept of each update: those of 2 MiB.
_KEPT = 128

#: Digests that are read at once to verify all of them.
_AT_ONCE = 1 << 15


def count_blocks(elements: int) -> int:
    """Return the number of blocks, of which the last may be shorter."""
    return -(-elements // BLOCK)


@lru_cache(maxsize=4)
def stored_layout_of(layout: TensorLayout) -> TensorLayout:
    """Return the layout of an object that holds masked tensors and their digests.

    Raises
    ------
    UpdateRejected
        If a tensor of the model has the name of the digests.
    """
    if DIGESTS in layout.by_name:
        raise UpdateRejected(f"a model with a tensor called {DIGESTS!r} cannot have masked updates")
    digests = Tensor(DIGESTS, np.dtype("u1"), (DIGEST_BYTES * count_blocks(layout.size),))
    return TensorLayout((*layout.tensors, digests))


@dataclass
class _KeptDigests:
    """The first block and the digests that an update's last read needed.

    They are one attribute, since several threads read and replace them.
    """

    latest: tuple[int, bytes] = (0, b"")


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedWeights(Weights):
    """A masked update, whose elements are verified when they are read.

    Parameters
    ----------
    message : Message
    header : Header
    """

    message: Message
    header: Header
    kept: _KeptDigests = field(default_factory=_KeptDigests, repr=False)

    def in_order(self, order: TensorLayout) -> MaskedWeights:
        if order != self.layout:
            raise ValueError("the order of masked tensors is that of the model")
        return self if order is self.layout else replace(self, index=self.index.in_order(order))

    def read_into(self, order: TensorLayout, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with the masked elements from byte ``start`` on, all of them verified.

        Raises
        ------
        UpdateRejected
            If they are not those that the client signed, or the object is shorter or has changed.
        """
        if not buffer:
            return
        stop, end = start + len(buffer), self.layout.nbytes
        first = start // BLOCK_BYTES
        begin = first * BLOCK_BYTES
        until = min(-(-stop // BLOCK_BYTES) * BLOCK_BYTES, end)
        is_aligned = (begin, until) == (start, stop)
        data = buffer if is_aligned else np.empty(until - begin, np.uint8).data
        self.source.read_into(self.base + begin, data)
        self._verify(data, first)
        if not is_aligned:
            buffer[:] = data[start - begin : stop - begin]

    def _verify(self, data: Buffer, first: int) -> None:
        expected = self._digests(first, -(-len(data) // BLOCK_BYTES))
        if digests_of(data) != expected:
            raise UpdateRejected("the masked tensors are not those that the client signed")

    def _digests(self, first: int, count: int) -> bytes:
        """Return the stored digests of some blocks; `open_masked` has verified all of them."""
        kept_from, kept = self.kept.latest
        offset = (first - kept_from) * DIGEST_BYTES
        found = kept[offset : offset + count * DIGEST_BYTES] if offset >= 0 else b""
        if len(found) == count * DIGEST_BYTES:
            return found
        ahead = min(max(count, _KEPT), count_blocks(self.layout.size) - first)
        place = self.base + self.layout.nbytes + first * DIGEST_BYTES
        data = read(self.source, place, ahead * DIGEST_BYTES)
        if count <= _KEPT:
            self.kept.latest = first, data
        return data[: count * DIGEST_BYTES]


def digests_of(data: Buffer) -> bytes:
    """Return the digests of the blocks of some data."""
    begins = range(0, len(data), BLOCK_BYTES)
    return b"".join(hashlib.sha256(data[b : b + BLOCK_BYTES]).digest() for b in begins)


def open_masked(source: ByteSource, layout: TensorLayout) -> MaskedWeights:
    """Open a masked update and verify its digests, but not yet its elements.

    Parameters
    ----------
    source : ByteSource
    layout : TensorLayout
        Of the model's masked updates (`aggregation.masks.settings.masked_layout`).

    Raises
    ------
    UpdateRejected
        If it is not a masked update of the model.
    """
    stored = stored_layout_of(layout)
    weights = open_weights(source, "safetensors", spool=None)
    difference = layout_difference(stored, weights.layout)
    if difference:
        raise UpdateRejected(f"the model takes masked updates, and {difference}")
    message = Message.from_mapping(read_metadata(source))
    header = Header.decode(message.header)
    if weights.layout != stored or header.layout != layout_digest(layout):
        raise UpdateRejected("the order of the masked tensors is not that of the model")
    if header.elements != layout.size:
        raise UpdateRejected(f"the header says {header.elements} elements, there are {layout.size}")
    _check_digests(weights, layout, header)
    index = _index_of(weights.index, layout)
    return MaskedWeights(
        index=index,
        source=source,
        format=weights.format,
        base=weights.base,
        message=message,
        header=header,
    )


def _index_of(stored: TensorIndex, layout: TensorLayout) -> TensorIndex:
    """Return the index of the masked tensors, which are all but the last of an object."""
    return shared_index(layout, stored.offsets[:-1])


def _check_digests(weights: Weights, layout: TensorLayout, header: Header) -> None:
    """Compare the digests with the one that the client signed."""
    root = hashlib.sha256()
    end = DIGEST_BYTES * count_blocks(layout.size)
    for start in range(0, end, _AT_ONCE * DIGEST_BYTES):
        place = weights.base + layout.nbytes + start
        root.update(read(weights.source, place, min(_AT_ONCE * DIGEST_BYTES, end - start)))
    if root.hexdigest() != header.tensors:
        raise UpdateRejected(
            "the digests of the masked tensors are not those that the client signed"
        )
