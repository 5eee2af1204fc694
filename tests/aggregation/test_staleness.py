"""Late updates: discounted, and compared with what they were trained from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.engine import Combination, Resources
from aggregation.errors import InvalidWeights, RuleError
from aggregation.rules import create_rule, known_rules
from aggregation.staleness import check_discountable, create_staleness
from tests.aggregation.engine.engine_tools import bytes_of, opened, run

SIZE = 3000

ARGUMENTS: dict[str, dict[str, float]] = {
    "trimmed_mean": {"f": 1},
    "krum": {"f": 1},
    "multi_krum": {"f": 1},
    "bulyan": {"f": 1},
    "norm_clipped_mean": {"max_norm": 1.0},
    "centered_clipping": {"tau": 1.0},
    "spectral_filter": {"f": 1},
    "history_filter": {"f": 1},
}


def rows(rng: np.random.Generator, n: int) -> Any:
    return rng.normal(size=(n, SIZE))


def late_work(
    seed: int, n: int, *, differences: bool, rule: str = "weighted_mean", bad_base: bool = False
) -> tuple[Combination, Any]:
    """Return a combination of late updates, and the result in plain numpy."""
    rng = np.random.default_rng(seed)
    late = rng.integers(0, 4, size=n)
    bases, updates = rows(rng, 4), rows(rng, n)
    counts, steps = rng.integers(1, 30, size=n), rng.integers(1, 9, size=n)
    factors = np.array([create_staleness("polynomial", {"a": 0.5}).factor(int(s)) for s in late])
    if bad_base:
        late[0], bases[3, 7] = 3, np.inf
    moves = updates if differences else updates - bases[late]
    shares = counts / counts.sum()
    if rule == "normalized_mean":
        shares = shares / steps * (shares @ steps)
    expected = bases[0] + (shares * factors) @ moves
    parent, *others = [opened({"w": base}) for base in bases]
    return Combination(
        rule=create_rule(rule),
        updates=[opened({"w": update}) for update in updates],
        num_examples=counts.tolist(),
        num_steps=steps.tolist(),
        parent=parent,
        differences=differences,
        discounts=factors.tolist(),
        bases=() if differences else [parent, *others],
        base_of=() if differences else late.tolist(),
    ), expected


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    differences=st.booleans(),
    rule=st.sampled_from(["weighted_mean", "normalized_mean"]),
)
@settings(max_examples=40, deadline=None)
def test_late_updates_count_less(seed: int, n: int, differences: bool, rule: str) -> None:
    """The result is the parent and the discounted differences from each update's own base, divided by
    the weights before the discount; it does not depend on the memory and the threads."""
    work, expected = late_work(seed, n, differences=differences, rule=rule)
    data, combined = run(work)
    np.testing.assert_allclose(np.frombuffer(data[-8 * SIZE :]), expected, rtol=1e-11, atol=1e-11)
    assert combined.selection.total == sum(work.num_examples)
    few = Resources(memory_bytes=20_000, readers=1, workers=1)
    assert bytes_of(work, few) == data


def test_a_base_with_values_that_are_not_finite_fails_the_round() -> None:
    """The base is an aggregate of our own: no update is rejected for it."""
    work, _ = late_work(1, 3, differences=False, bad_base=True)
    with pytest.raises(InvalidWeights, match="the base of an update"):
        run(work)


@pytest.mark.parametrize("rule", sorted({rule.name for rule in known_rules().values()}))
def test_only_the_means_can_be_discounted(rule: str) -> None:
    """Rules that compare updates, or that are not linear, are refused with a reason."""
    kind = known_rules()[rule]
    if kind.linear and not kind.needs_gram and not kind.needs_norms:
        check_discountable(create_rule(rule), create_staleness("polynomial"))
    else:
        rule_ = create_rule(rule, ARGUMENTS.get(rule, {}))
        with pytest.raises(RuleError, match=f"{rule} compares updates"):
            check_discountable(rule_, create_staleness("polynomial"))
        check_discountable(rule_, create_staleness(""))


@given(a=st.floats(0, 10), rounds=st.integers(0, 10_000))
def test_the_discount_is_polynomial(a: float, rounds: int) -> None:
    """The factor is (1 + s) ** -a to 40 bits; an update of the present round counts in full."""
    factor = create_staleness("polynomial", {"a": a}).factor(rounds)
    assert factor == pytest.approx((1.0 + rounds) ** -a, rel=2.0**-39)
    assert create_staleness("polynomial", {"a": a}).factor(0) == 1.0


def test_unknown_discounts_are_refused() -> None:
    """The error names the discounts that are known, or the argument."""
    with pytest.raises(RuleError, match="known are polynomial"):
        create_staleness("exponential")
    with pytest.raises(RuleError, match="a must be"):
        create_staleness("polynomial", {"a": -1})
