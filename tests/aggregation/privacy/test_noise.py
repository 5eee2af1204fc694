"""The noise: a function of the seed, the updates and the element, with the stated distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aggregation.errors import RuleError
from aggregation.privacy.discrete_gaussian import SIGMA_SQUARED, table
from aggregation.privacy.noise import Noise, digest_of
from tests.aggregation.privacy.privacy_tools import noise
from tests.aggregation.privacy.test_discrete_gaussian import (
    BUCKET_BITS,
    HALF,
    REST,
    threshold,
)

SEED, DIGEST = bytes(range(32)), bytes(range(32, 64))

#: The noise of four elements.
PINNED = [35130629, 47677830, -6257483, -11403758]

#: Where the ranges of the tests begin: cuts near the length of what is drawn at once, and far elements.
PLACES = st.one_of(st.integers(0, 100_000), st.integers(16_380, 16_390), st.integers(0, 2**42))

#: A test of 10**7 draws fails by chance at this rate; the draws are the same each time.
CHANCE = 1e-3


def reference(element: int) -> tuple[int, int]:
    """Return the noise of an element by its definition in whole numbers, and how many ties it has."""
    label = b"federated aggregation: noise, version 1"
    key = HKDF(SHA256(), length=32, salt=None, info=label + DIGEST).derive(SEED)

    def block(number: int) -> bytes:
        encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
        return encryptor.update(number.to_bytes(16, "big"))

    total, ties = 0, 0
    for level in range(3):
        word = int.from_bytes(block(element)[4 * level : 4 * level + 4], "little")
        first = (1 << 127) + 2 * (3 * element + level)
        number = (word << REST) + int.from_bytes(block(first) + block(first + 1), "big")
        bucket = number >> BUCKET_BITS
        own = number < threshold(bucket)
        total = (total << 8) + (bucket - HALF if own else int(table().others[bucket]))
        ties += word == threshold(bucket) >> REST
    return total, ties


def test_an_element_has_the_noise_of_its_block() -> None:
    """The vectorised draws are those of the definition, whatever the element."""
    for first in (0, 16_383, 2**40, 2**64 + 5):
        found = Noise(SEED, DIGEST).integers(first, 3)
        assert found.tolist() == [reference(first + place)[0] for place in range(3)]


def test_ties_have_the_noise_of_all_their_bits() -> None:
    """About one word in 131,072 is as large as its threshold, and its tie-breaker decides."""
    drawn = Noise(SEED, DIGEST)
    count = 300_000
    words = np.concatenate(
        [drawn._stream.words(first, 10_000)[:, :3] for first in range(0, count, 10_000)]
    )
    tied = np.flatnonzero((words == table().thresholds[words >> np.uint32(17)]).any(axis=1))
    assert len(tied) > 2
    for element in tied.tolist():
        value, ties = reference(element)
        assert ties
        assert drawn.integers(element, 1)[0] == value


@given(first=PLACES, cuts=st.lists(st.integers(0, 700), min_size=1, max_size=5))
def test_any_cut_gives_the_same_noise(first: int, cuts: list[int]) -> None:
    """A range is what its pieces are, wherever it begins."""
    drawn = Noise(SEED, DIGEST)
    whole = drawn.integers(first, sum(cuts))
    pieces, place = [], first
    for count in cuts:
        pieces.append(drawn.integers(place, count))
        place += count
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_the_noise_is_pinned() -> None:
    """Another stream would make the noise of a retry differ from that of the first attempt."""
    assert Noise(SEED, DIGEST).integers(10**9, 4).tolist() == PINNED


def test_other_updates_or_another_seed_give_other_noise() -> None:
    """The noise of two sets of updates is unrelated, also if one contains the other."""
    same = noise("seed", "a", "b").integers(0, 1000)
    np.testing.assert_array_equal(same, noise("seed", "b", "a").integers(0, 1000))
    for other in (noise("seed", "a"), noise("seed", "ab"), noise("other", "a", "b")):
        assert abs(np.corrcoef(same, other.integers(0, 1000))[0, 1]) < 0.15
        assert not np.equal(same, other.integers(0, 1000)).any()


def test_a_digest_separates_its_updates() -> None:
    """No other list of names has the digest of a set."""
    sets = [(), ("",), ("a",), ("a", "a"), ("a", "b"), ("ab",), ("a\nb",)]
    assert len({digest_of(each) for each in sets}) == len(sets)
    assert digest_of(["b", "a"]) == digest_of(["a", "b"])


@pytest.mark.parametrize("arguments", [(b"short", DIGEST), (SEED, b""), ("x" * 32, DIGEST)])
def test_seed_and_digest_have_their_length(arguments: Any) -> None:
    """A short seed would be guessed."""
    with pytest.raises(RuleError, match="must be 32 bytes"):
        Noise(*arguments)


@pytest.mark.parametrize("count", [500_000, pytest.param(10_000_000, marks=pytest.mark.exhaustive)])
def test_the_noise_is_gaussian(count: int) -> None:
    """Its bulk, its tails, its moments and its low bits pass the tests of a discrete Gaussian."""
    drawn = noise("distribution").integers(2**41, count)
    sigma = math.sqrt(SIGMA_SQUARED)
    check_bulk(drawn / sigma)
    check_tails(drawn / sigma)
    low_bits = np.bincount(drawn & 1023, minlength=1024)
    assert stats.chisquare(low_bits).pvalue > CHANCE
    assert abs(np.mean(drawn)) < 4 * sigma / math.sqrt(count)
    assert abs(np.var(drawn) / SIGMA_SQUARED - 1) < 4 * math.sqrt(2 / count)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 4 / math.sqrt(count)


def check_bulk(standardized: Any) -> None:
    """Check the chi-square statistic of 400 intervals of equal probability."""
    bounds = stats.norm.ppf(np.arange(1, 400) / 400)
    counts = np.bincount(np.searchsorted(bounds, standardized), minlength=400)
    assert stats.chisquare(counts).pvalue > CHANCE


def check_tails(standardized: Any) -> None:
    """Check how many values are beyond 2, 3, 4 and 5 standard deviations, on each side."""
    for side in (standardized, -standardized):
        for beyond in (2, 3, 4, 5):
            found = int((side > beyond).sum())
            probability = float(stats.norm.sf(beyond))
            assert stats.binomtest(found, len(side), probability).pvalue > CHANCE


def test_the_tests_find_another_distribution() -> None:
    """A share of 2 % too little noise fails the test of the bulk, and a cut tail that of the tails."""
    standardized = noise("distribution").integers(0, 500_000) / math.sqrt(SIGMA_SQUARED)
    with pytest.raises(AssertionError):
        check_bulk(0.98 * standardized)
    with pytest.raises(AssertionError):
        check_tails(standardized.clip(-3.9, 3.9))
