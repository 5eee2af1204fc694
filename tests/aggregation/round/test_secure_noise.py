"""Rounds of masked updates with noise: exact, the same in each attempt, and released once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregation.errors import RuleError
from aggregation.layout import Tensor, TensorLayout
from aggregation.masks.masking import quantised
from aggregation.masks.settings import MASKED
from aggregation.masks.unmasking import unmasked_mean
from aggregation.privacy.discrete_gaussian import SIGMA_SQUARED
from aggregation.privacy.noise import Noise
from aggregation.privacy.rule import PrivateMean
from aggregation.privacy.settings import DifferentialPrivacy
from aggregation.round import Claim, RoundAnswer, Status, updates_digest
from aggregation.round.noisy_mean import noise_factor, with_noise
from aggregation.round.port import MASKED_SUM
from aggregation.sources import BytesSource
from tests.aggregation.round.observed import small_steps
from tests.aggregation.round.secure_rounds import (
    ELEMENTS,
    aggregate_of,
    assert_same,
    difference_of,
    finish,
    finish_after_death,
    moved_parent,
    run,
)
from tests.aggregation.round.secure_twin import SETTINGS, SecureTwin
from tests.twin import COMPLETE, FAILED, INVALID, RUNNING, MemoryModel, StoredSink

PRIVACY = DifferentialPrivacy(
    clip_norm=4.0, noise_multiplier=1.0, cohort=10, delta=1e-5, max_epsilon=20.0
)
SEED = bytes(range(32))

#: Beside half of the modulus, where noise makes a sum wrap.
INTEGERS = st.integers(-100, 100)
FACTOR = noise_factor(PRIVACY, SETTINGS, ELEMENTS)


class CountingSink(StoredSink):
    """A result that is counted before it becomes readable."""

    count: Callable[[], None]

    def complete(self) -> None:
        self.count()
        super().complete()


class NoisyTwin(SecureTwin):
    """Models whose updates are masked, and whose sums get noise.

    Attributes
    ----------
    released : list of bytes
        The digest of the updates of each result that became readable.
    claims : list of Claim
    """

    def __init__(self) -> None:
        super().__init__()
        self.released: list[bytes] = []
        self.claims: list[Claim] = []

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        claim = super().claim_round(model_id)
        if isinstance(claim, RoundAnswer):
            return claim
        updates = tuple(replace(update, etag=f"e{update.id}") for update in claim.updates)
        self.claims.append(replace(claim, rule=PrivateMean(PRIVACY), updates=updates))
        return self.claims[-1]

    def open_seed(self, claim: Claim) -> bytes:
        return SEED

    def new_result(self, claim: Claim, format: str, state: Any) -> StoredSink:
        sink = super().new_result(claim, format, state)
        if format == MASKED_SUM:
            return sink
        counting = CountingSink(self.storage, sink.location, state)
        counting.count = lambda: self.released.append(updates_digest(claim.updates))
        return counting


def expected_with_noise(
    twin: NoisyTwin, model: MemoryModel, numbers: list[int]
) -> dict[str, NDArray[Any]]:
    """Return the parent plus (exact sum * factor + noise) / (scale * factor * cohort), by integers."""
    used = {update.id for update in model.updates if update.status == COMPLETE}
    digest = updates_digest([each for each in twin.claims[-1].updates if each.id in used])
    noise = Noise(SEED, digest).integers(0, ELEMENTS)
    sums = np.zeros(ELEMENTS, np.int64)
    for number in numbers:
        scaled = difference_of(number).astype(np.float64) * SETTINGS.scale
        sums += np.rint(scaled).astype(np.int64)
    divisor = SETTINGS.scale * FACTOR * PRIVACY.cohort
    noisy = [int(s) * FACTOR + int(n) for s, n in zip(sums, noise, strict=True)]
    return moved_parent(np.array([each / divisor for each in noisy]))


@settings(max_examples=20)
@given(st.sets(st.integers(1, 12), min_size=2))
def test_the_aggregate_is_the_exact_sum_with_noise(present: set[int]) -> None:
    """For any drop-outs it has the bits that integers give, and the denominator is the cohort."""
    twin = NoisyTwin()
    model = twin.secure_model(12)
    for number in sorted(present):
        twin.send(model, number, difference_of(number))
    assert finish(twin, model).updates_used == len(present)
    assert_same(aggregate_of(twin, model), expected_with_noise(twin, model, sorted(present)))
    assert len(twin.released) == 1


def test_an_update_that_the_keeper_refuses_changes_the_noise_and_is_not_released() -> None:
    """The noise is that of the final set, and only its result was ever readable."""
    twin = NoisyTwin()
    model = twin.secure_model(4)
    updates = [twin.send(model, number, difference_of(number)) for number in (1, 2, 3, 4)]
    del twin.registered[updates[1].client]
    assert finish(twin, model).updates_used == 3
    assert updates[1].status == INVALID
    assert_same(aggregate_of(twin, model), expected_with_noise(twin, model, [1, 3, 4]))
    final = [each for each in twin.claims[-1].updates if each.id != updates[1].id]
    assert twin.released == [updates_digest(final)]


def test_updates_without_an_etag_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their contents might change between two attempts, and the noise would not."""
    twin = NoisyTwin()
    model = twin.secure_model(3)
    updates = [twin.send(model, number, difference_of(number)) for number in (1, 2, 3)]
    claim_round = twin.claim_round

    def without_etags(model_id: int) -> Claim | RoundAnswer:
        claim = claim_round(model_id)
        assert isinstance(claim, Claim)
        return replace(claim, updates=tuple(replace(each, etag="") for each in claim.updates))

    monkeypatch.setattr(twin, "claim_round", without_etags)
    assert run(twin, model.id).status is Status.REJECTED
    assert "ETag" in updates[0].rejection_reason
    assert (len(twin.released), len(twin.asked)) == (0, 0)


def test_a_tensor_without_noise_is_refused_before_the_keeper_is_asked() -> None:
    """No update is spent for a round that could release nothing."""
    twin = NoisyTwin()
    model = twin.secure_model(3, tensor_policies=[["b", "average"]])
    updates = [twin.send(model, number, difference_of(number)) for number in (1, 2, 3)]
    with pytest.raises(RuleError, match="without noise"):
        run(twin, model.id)
    assert [update.status for update in updates] == [FAILED] * 3
    assert (len(twin.released), len(twin.asked)) == (0, 0)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("optimizer", ["none", "fedadam"])
def test_a_suspended_round_with_noise_ends_with_the_same_bytes(optimizer: str) -> None:
    """Suspended after each chunk, in both passes, a round releases the same noise."""
    twin, results = NoisyTwin(), []
    model = twin.secure_model(3, server_optimizer=optimizer)
    sent = [twin.send(model, number, difference_of(number)) for number in (1, 2, 3)]
    for is_suspended in (False, True):
        for _ in range(100):
            answer = run(twin, model.id, **(small_steps(2) if is_suspended else {}))
            if answer.status is Status.PUBLISHED:
                break
            twin.answer_requests()
        assert model.latest is not None
        results.append(twin.storage.bodies[model.latest.result.name])
        model.aggregates.clear()
        if not is_suspended:  # The same claim again, as if its result had been lost.
            again = model.rounds[-1]
            again.state, again.checkpoint = "running", None
            again.lease_expires_at = twin.now - twin.lease
            for update in sent:
                update.status = RUNNING
    assert results[0] == results[1]
    assert len(set(twin.released)) == 1


@pytest.mark.usefixtures("small_parts")
def test_a_round_with_noise_killed_before_any_call_ends_with_the_same_bytes() -> None:
    """Whenever an attempt dies, the next ones release one set of updates with one noise."""

    def run_killed(moment: int) -> bool:
        twin = NoisyTwin()
        model = twin.secure_model(3)
        for number in (1, 2, 3):
            twin.send(model, number, difference_of(number))
        is_killed = finish_after_death(twin, model, moment)
        assert_same(aggregate_of(twin, model), expected_with_noise(twin, model, [1, 2, 3]))
        assert len(set(twin.released)) == len(model.aggregates) == 1
        return is_killed

    assert next(moment for moment in count(1) if not run_killed(moment)) > 40


# The mechanism


@settings(max_examples=100)
@given(
    st.integers(1, 3000),
    st.floats(0.3, 100.0),
    st.integers(8, 24),
    st.floats(0.001, 1.0),
    st.integers(0, 2**32),
)
def test_an_honest_client_moves_the_sum_by_at_most_what_the_noise_hides(
    elements: int, multiplier: float, scale_bits: int, share: float, seed: int
) -> None:
    """A clipped difference, rounded by its client and multiplied, has at most the norm sigma / z."""
    private = replace(PRIVACY, clip_norm=1.0, noise_multiplier=multiplier)
    secure = replace(SETTINGS, clip_norm=1.0, scale=1 << scale_bits, max_cohort=2)
    try:
        factor = noise_factor(private, secure, elements)
    except RuleError:
        return
    values = np.random.default_rng(seed).normal(size=elements)
    values[: int(share * elements)] = 0.500001 * math.sqrt(elements) / secure.scale
    values /= max(1.0, float(np.linalg.norm(values)))
    integers = quantised(values, float(secure.scale), secure.limit).view(np.int32)
    squared = sum(int(each) ** 2 for each in integers)
    assert squared * factor**2 * private.noise_multiplier**2 <= SIGMA_SQUARED


@settings(max_examples=50)
@given(
    st.lists(
        st.integers(-(2**40), 2**40)
        | st.builds(lambda far, near: (2 * far + 1) * 2**31 + near, INTEGERS, INTEGERS),
        min_size=1,
        max_size=40,
    ),
    st.data(),
)
@example([2**31 - 1, 2**31, -(2**31), 3 * 2**31 - 1] * 4, None)
def test_a_sum_that_hostile_clients_wrap_is_wrapped_with_its_noise(
    sums: list[int], data: st.DataObject | None
) -> None:
    """The result is a function of the true sum plus noise alone, so that wrapping is post-processing."""
    layout = TensorLayout((Tensor("w", np.dtype("<f8"), (len(sums),)),))
    masked = TensorLayout((Tensor("w", MASKED, (len(sums),)),))
    total = np.array([each % 2**32 for each in sums], np.uint32)
    noise = Noise(SEED, bytes(32))
    zeros = BytesSource(bytes(4 * len(sums)))
    mean = with_noise(
        unmasked_mean(layout, masked, BytesSource(total.tobytes()), zeros, 1.0),
        noise,
        PRIVACY,
        SETTINGS,
    )
    factor, divisor = mean.factor, mean.divisor
    modulus = factor * 2**32
    noisy = [
        each * factor + int(n) for each, n in zip(sums, noise.integers(0, len(sums)), strict=True)
    ]
    expected = [((each + modulus // 2) % modulus - modulus // 2) / divisor for each in noisy]
    cut = data.draw(st.integers(0, len(sums))) if data else 7
    found = np.concatenate([mean.means(0, cut), mean.means(cut, len(sums))])
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("private", "secure", "why"),
    [
        ({"clip_norm": 2.0}, {}, "give both the same"),
        ({"noise_multiplier": 1000.0}, {}, "use a smaller scale"),
        ({}, {"scale": 1}, "use a larger scale"),
        ({"noise_multiplier": 10.0}, {"scale": 536_000}, "more than 32 bits"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(
    private: dict[str, Any], secure: dict[str, Any], why: str
) -> None:
    """One clip norm, and a scale that is commensurable with the noise, and sums that fit into 32 bits."""
    with pytest.raises(RuleError, match=why):
        noise_factor(replace(PRIVACY, **private), replace(SETTINGS, **secure), ELEMENTS)


def test_noise_stays_within_the_range_of_a_small_dtype() -> None:
    """Noise beyond float16 is clipped to its range: an overflow must not decide about a round."""
    private = replace(PRIVACY, clip_norm=1e6, cohort=1)
    secure = replace(SETTINGS, clip_norm=1e6, scale=1, max_cohort=2)
    layout = TensorLayout((Tensor("w", np.dtype("<f2"), (100,)),))
    masked = TensorLayout((Tensor("w", MASKED, (100,)),))
    zeros = BytesSource(bytes(400))
    mean = with_noise(
        unmasked_mean(layout, masked, zeros, zeros, 1.0), Noise(SEED, bytes(32)), private, secure
    )
    found = np.empty(100, np.float16)
    mean.read_into(layout, 0, found.view(np.uint8).data)
    assert np.isfinite(found).all()
    assert np.abs(found).max() == np.finfo(np.float16).max
