"""Masked updates: any range is verified when it is read, and a changed bit is refused wherever it is."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.layout import TensorLayout
from aggregation.masks.masking import Mask
from aggregation.masks.messages import check_signature, open_seed
from aggregation.masks.weights import BLOCK, MaskedWeights, open_masked
from aggregation.sources import BytesSource
from tests.aggregation.formats.samples import CountingSource
from tests.aggregation.masks.samples import (
    HEADER,
    KEEPER,
    LAYOUT,
    SIGNING_KEY,
    masked_update,
    quantised_values,
)

VALUES = quantised_values(1, LAYOUT.size)
UPDATE = masked_update(VALUES)


def read_all(weights: MaskedWeights) -> np.ndarray:
    """Return all elements."""
    found = np.empty(weights.layout.size, np.uint32)
    weights.read_into(weights.layout, 0, found.view(np.uint8).data)
    return found


def accept(update: bytes) -> MaskedWeights:
    """Do what the aggregator and then the mask keeper do with an update."""
    weights = open_masked(BytesSource(update), LAYOUT)
    read_all(weights)
    check_signature(weights.message, SIGNING_KEY.public_key().public_bytes_raw())
    open_seed(weights.message, weights.header, KEEPER)
    return weights


def test_an_update_without_its_mask_is_what_was_quantised() -> None:
    """The mask of the sealed seed is the one that was added."""
    weights = open_masked(BytesSource(UPDATE), LAYOUT)
    check_signature(weights.message, SIGNING_KEY.public_key().public_bytes_raw())
    masks = np.zeros(LAYOUT.size, np.uint32)
    Mask(open_seed(weights.message, weights.header, KEEPER)).add_to(masks, 0)
    assert np.array_equal(read_all(weights) - masks, VALUES)
    assert weights.header.base == HEADER.base


@given(st.integers(0, LAYOUT.size), st.integers(0, LAYOUT.size))
@settings(max_examples=40, deadline=None)
def test_any_range_is_that_of_the_whole(first: int, last: int) -> None:
    """Ranges need not begin or end with a block."""
    start, stop = sorted((first, last))
    weights = open_masked(BytesSource(UPDATE), LAYOUT)
    found = np.empty(stop - start, np.uint32)
    weights.read_into(LAYOUT, 4 * start, found.view(np.uint8).data)
    assert np.array_equal(found, read_all(weights)[start:stop])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_every_changed_bit_is_refused(data: st.DataObject) -> None:
    """A change of any bit is refused: when the object is opened, when it is read, or by the mask keeper."""
    position = data.draw(st.integers(0, len(UPDATE) - 1) | st.integers(0, 2000))
    changed = bytearray(UPDATE)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(UpdateRejected):
        accept(bytes(changed))


def test_a_changed_block_does_not_keep_others_from_being_read() -> None:
    """The block in which a bit has changed is the one that is refused."""
    changed = bytearray(UPDATE)
    changed[len(UPDATE) - 32 * 7 - 1] ^= 1
    weights = open_masked(BytesSource(bytes(changed)), LAYOUT)
    buffer = np.empty(BLOCK, np.uint32).view(np.uint8).data
    weights.read_into(LAYOUT, 0, buffer)
    with pytest.raises(UpdateRejected, match="not those that the client signed"):
        read_all(weights)


def test_digests_are_read_for_many_blocks_at_once() -> None:
    """Reading an update block by block takes one more request for every 128 blocks."""
    size = 300 * BLOCK
    layout = TensorLayout((replace(LAYOUT.tensors[0], shape=(size,)),))
    source = CountingSource(BytesSource(masked_update(quantised_values(2, size), layout)))
    weights = open_masked(source, layout)
    before = source.reads
    buffer = np.empty(BLOCK, np.uint32).view(np.uint8).data
    for block in range(300):
        weights.read_into(layout, 4 * block * BLOCK, buffer)
    assert source.reads - before == 303


def test_another_order_of_tensors_is_refused() -> None:
    """The elements of a mask have places, so that tensors cannot be reordered."""
    other = TensorLayout(tuple(reversed(LAYOUT.tensors)))
    with pytest.raises(UpdateRejected, match="order"):
        open_masked(BytesSource(UPDATE), other)


def test_an_update_that_is_not_masked_is_refused() -> None:
    """Plain tensors and random bytes are refused with a reason."""
    from aggregation.formats import encoder_for

    encoder = encoder_for("safetensors", LAYOUT)
    plain = encoder.header() + bytes(LAYOUT.nbytes)
    with pytest.raises(UpdateRejected, match="masked updates, and tensor '__digests__'"):
        open_masked(BytesSource(plain), LAYOUT)
    with pytest.raises(UpdateRejected):
        open_masked(BytesSource(os.urandom(1000)), LAYOUT)
