"""Masks and quantisation: the keystream is seekable, sums are exact, and masked values are uniform."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.masks.masking import (
    CACHED,
    Mask,
    commitment_of,
    dequantised,
    derive,
    new_seed,
    quantised,
)
from tests.aggregation.masks.samples import quantised_values


def test_a_mask_is_the_keystream_of_aes_in_counter_mode() -> None:
    """The mask is that of a plain call of the cipher, little-endian, also beyond a cached piece."""
    seed, count = bytes(range(32)), CACHED + 5
    found = np.zeros(count, np.uint32)
    Mask(seed).add_to(found, 0)
    cipher = Cipher(algorithms.AES256(derive(seed, "mask")), modes.CTR(bytes(16)))
    expected = cipher.encryptor().update(bytes(4 * count))
    assert found.astype("<u4").tobytes() == expected


@given(st.integers(0, 200_000), st.integers(0, 3 * CACHED))
@settings(max_examples=25, deadline=None)
def test_any_range_of_a_mask_is_that_of_the_whole(start: int, count: int) -> None:
    """A mask can be computed from any element on."""
    mask, found = Mask(b"s" * 32), np.zeros(count, np.uint32)
    whole = np.zeros(start + count, np.uint32)
    mask.add_to(whole, 0)
    mask.add_to(found, start)
    assert np.array_equal(found, whole[start:])


def test_the_keystream_never_changes() -> None:
    """Clients and mask keepers of different versions agree on the mask of a seed and its commitment."""
    values = np.zeros(1000, np.uint32)
    Mask(b"s" * 32).add_to(values, 12345)
    digest = hashlib.sha256(values.astype("<u4").tobytes()).hexdigest()
    assert digest == "0b77f957d403d6d3011c0119eb15d6589c7d150cf7d8c74644a01fc48f1548a5"
    assert (
        commitment_of(b"s" * 32)
        == "ca93ad5389fa872247fc3ad468b8e8eefc07ed78d7c27de7cd33ff758f1a5ceb"
    )


@given(
    st.integers(1, 20),
    st.lists(st.booleans(), min_size=20, max_size=20),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_masks_cancel_for_any_drop_outs(n: int, present: list[bool], seed: int) -> None:
    """The masked sum minus the masks' sum is the sum of the quantised updates of those that are there."""
    updates = [quantised_values(seed + k, 999) for k in range(n)]
    masks = [Mask(new_seed()) for _ in range(n)]
    total, of_masks, expected = np.zeros((3, 999), np.uint32)
    for values, mask, is_there in zip(updates, masks, present, strict=False):
        if not is_there:
            continue
        masked = values.copy()
        mask.add_to(masked, 0)
        total += masked
        mask.add_to(of_masks, 0)
        expected += values
    assert np.array_equal(total - of_masks, expected)


def test_masked_values_are_uniform() -> None:
    """Masked zeros pass chi-square tests of bytes, of bits, and of differences of neighbours."""
    values = np.zeros(1 << 20, np.uint32)
    Mask(b"u" * 32).add_to(values, 0)
    for sample in (values, np.diff(values)):
        counts = np.bincount(sample.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        statistic = float(((counts - expected) ** 2 / expected).sum())
        # 255 degrees of freedom: the mean is 255, the standard deviation 22.6.
        assert 255 - 5 * 22.6 < statistic < 255 + 5 * 22.6
    ones = np.unpackbits(values.view(np.uint8)).sum()
    assert abs(int(ones) - 16 * (1 << 20)) < 5 * np.sqrt(32 * (1 << 20)) / 2


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=50), st.integers(1, 1 << 20))
def test_quantised_values_are_nearest(listed: list[float], scale: int) -> None:
    """A quantised value is within half a unit of the value, if it is below the limit."""
    values = np.array(listed, np.float32)
    found = dequantised(quantised(values, scale, (1 << 31) - 1), scale)
    assert np.all(np.abs(found - values) <= 0.5000001 / scale)


def test_quantised_values_are_bounded() -> None:
    """No element is larger than the limit, and one that is not finite is refused."""
    found = quantised(np.array([1e9, -1e9]), 1.0, 1000).view(np.int32)
    assert found.tolist() == [1000, -1000]
    with pytest.raises(ValueError, match="finite"):
        quantised(np.array([np.nan]), 1.0, 1000)
