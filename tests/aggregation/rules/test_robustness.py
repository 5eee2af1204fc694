"""Robust rules under attack: the bound that each rule's docstring states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.rules import Rule, create_rule, known_rules
from aggregation.rules.order import TrimmedMean
from tests.aggregation.engine.engine_tools import result_of, vectors

Rows = Any
#: Raises AssertionError if the result is further from the honest rows or the parent than stated.
Check = Callable[[Rule, Rows, Rows, Rows, int], None]


def diameter(rows: Rows) -> float:
    return float(np.linalg.norm(rows[:, None] - rows[None], axis=2).max())


def within_range(widen: float) -> Check:
    """Each coordinate is in the range of the honest values, widened by a share of its width."""

    def check(rule: Rule, result: Rows, honest: Rows, parent: Rows, f: int) -> None:
        low, high = honest.min(axis=0), honest.max(axis=0)
        slack = widen * (high - low) + 1e-9 * (np.abs(low) + np.abs(high))
        assert (low - slack <= result).all()
        assert (result <= high + slack).all()

    return check


def near_an_honest_update(rule: Rule, result: Rows, honest: Rows, parent: Rows, f: int) -> None:
    n = len(honest) + f
    bound = diameter(honest) * np.sqrt((n - f - 2) / (n - 2 * f - 1))
    assert np.linalg.norm(result - honest, axis=1).min() <= bound * (1 + 1e-6) + 1e-12


def near_all_honest_updates(rule: Rule, result: Rows, honest: Rows, parent: Rows, f: int) -> None:
    n = len(honest) + f
    bound = diameter(honest) * (1 + np.sqrt((n - f - 2) / (n - 2 * f - 1)))
    assert np.linalg.norm(result - honest, axis=1).max() <= bound * (1 + 1e-6) + 1e-12


def near_the_honest_mean(rule: Rule, result: Rows, honest: Rows, parent: Rows, f: int) -> None:
    n, mean = len(honest) + f, honest.mean(axis=0)
    radius = max(1e-6, np.linalg.norm(honest - mean, axis=1).max())
    bound = 2 * radius * (n - f) / (n - 2 * f)
    assert np.linalg.norm(result - mean) <= bound * (1 + 1e-6) + 1e-12


def near_the_parent(bound_of: Callable[[Any, Rows], float]) -> Check:
    def check(rule: Rule, result: Rows, honest: Rows, parent: Rows, f: int) -> None:
        norms = np.linalg.norm(honest - parent, axis=1)
        assert np.linalg.norm(result - parent) <= bound_of(rule, norms) * (1 + 1e-6) + 1e-12

    return check


def near_the_mean_by_projections(
    rule: Rule, result: Rows, honest: Rows, parent: Rows, f: int
) -> None:
    n, mean = len(honest) + f, honest.mean(axis=0)
    bound = 2 * diameter(honest) * np.sqrt(n) * (n - f) / (n - 2 * f)
    assert np.linalg.norm(result - mean) <= bound * (1 + 1e-6) + 1e-12


def filtered_bound(rule: Any, norms: Rows) -> float:
    low, high = norms.min(), norms.max()
    return float(high + rule.threshold * (high - low) / 0.6745)


#: Rules with some arguments, and what each states.
ROBUST: list[tuple[str, dict[str, Any], Check]] = [
    ("coordinate_median", {}, within_range(0)),
    ("trimmed_mean", {"f": 3}, within_range(0)),
    ("trimmed_mean", {"beta": 0.3}, within_range(0)),
    ("krum", {"f": 3}, near_an_honest_update),
    ("multi_krum", {"f": 3}, near_all_honest_updates),
    ("multi_krum", {"f": 3, "m": 5}, near_all_honest_updates),
    ("bulyan", {"f": 2}, within_range(1)),
    ("geometric_median", {}, near_the_honest_mean),
    ("norm_clipped_mean", {"max_norm": 2.5}, near_the_parent(lambda rule, _: rule.max_norm)),
    (
        "centered_clipping",
        {"tau": 2.0, "iterations": 3},
        near_the_parent(lambda rule, _: rule.tau * rule.iterations),
    ),
    ("centered_clipping", {"iterations": 2}, near_the_parent(lambda rule, norms: 2 * norms.max())),
    ("norm_filtered_mean", {}, near_the_parent(filtered_bound)),
    ("history_filter", {"f": 2}, near_the_parent(lambda rule, norms: norms.max())),
    ("spectral_filter", {"f": 3}, near_the_mean_by_projections),
]


def test_every_rule_that_withstands_hostile_updates_is_tested_here() -> None:
    """A rule that is not in the table states that it withstands none."""
    others = {rule.name for rule in known_rules().values()} - {name for name, _, _ in ROBUST}
    assert all(create_rule(name).max_hostile(100) == 0 for name in others)


ATTACKS = ("alike", "opposite", "scattered", "like an honest one", "one coordinate", "two camps")


def attack(kind: str, honest: Rows, f: int, magnitude: float, rng: np.random.Generator) -> Rows:
    """Return f hostile updates, as far from the honest ones as the magnitude says."""
    c = honest.shape[1]
    match kind:
        case "alike":
            return np.full((f, c), magnitude)
        case "opposite":
            return honest.mean(axis=0) - magnitude * np.ones((f, c)) / np.sqrt(c)
        case "scattered":
            return magnitude * rng.normal(size=(f, c))
        case "like an honest one":
            return honest[:1] + magnitude * rng.choice([0.0, 1e-30], size=(f, c))
        case "one coordinate":
            return honest.mean(axis=0) + magnitude * np.eye(c)[rng.integers(c, size=f)]
    return np.where(rng.random((f, 1)) < 0.5, magnitude, -magnitude / 7) * np.ones((f, c))


@pytest.mark.parametrize(
    ("name", "arguments", "check"), ROBUST, ids=[f"{name}-{args}" for name, args, _ in ROBUST]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    extra=st.integers(0, 6),
    kind=st.sampled_from(ATTACKS),
    exponent=st.floats(-7, 150),
    spread=st.sampled_from([0.0, 1e-5, 0.1, 1.0]),
    with_parent=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_the_result_stays_within_the_stated_distance(
    name: str,
    arguments: dict[str, Any],
    check: Check,
    seed: int,
    extra: int,
    kind: str,
    exponent: float,
    spread: float,
    with_parent: bool,
) -> None:
    """With as many hostile updates as the rule says it withstands, of any finite magnitude."""
    rng = np.random.default_rng(seed)
    rule = create_rule(name, arguments)
    n = max(rule.min_updates, 7) + extra
    f = min(rule.max_hostile(n), n - 1)
    honest = 0.05 + spread * rng.normal(size=(n - f, 4))
    parent = honest.mean(axis=0) + 0.1 * rng.normal(size=4)
    hostile = attack(kind, honest, f, 10.0**exponent, rng)
    # The hostile updates come first, since no rule may depend on the first update.
    rows = np.concatenate([hostile, honest])
    counts = [1e6] * f + [1.0] * (n - f)
    base = vectors([parent], np.float64)[0] if with_parent or rule.on_differences else None
    result = result_of(name, vectors(rows, np.float64), counts, base, **arguments)["w"]
    check(rule, result, honest, parent, f)


@pytest.mark.parametrize(("name", "arguments", "check"), ROBUST)
@pytest.mark.parametrize("value", [3e38, -3e38])
def test_one_client_captures_no_rule(
    name: str, arguments: dict[str, Any], check: Check, value: float
) -> None:
    """One update of the largest float32 among those of a thousand elements around one moves nothing."""
    rng = np.random.default_rng(0)
    rule = create_rule(name, arguments)
    honest = (1 + 0.1 * rng.normal(size=(max(rule.min_updates, 10) - 1, 1000))).astype(np.float32)
    rows = np.concatenate([np.full((1, 1000), value, np.float32), honest])
    parent = np.full(1000, 0.9, np.float32)
    base = {"w": parent} if rule.on_differences else None
    result = result_of(name, vectors(rows), None, base, **arguments)["w"]
    check(rule, result.astype(float), honest.astype(float), parent.astype(float), 1)


@pytest.mark.parametrize("magnitude", [1e9, 1e15, 1e30])
def test_nearly_half_capture_no_geometric_median(magnitude: float) -> None:
    """Of 51 updates, 25 that agree on a point far away move the result by the stated bound at most."""
    rng = np.random.default_rng(1)
    honest = 0.05 + 1e-5 * rng.normal(size=(26, 1000))
    rows = np.concatenate([np.full((25, 1000), magnitude), honest])
    result = result_of("geometric_median", vectors(rows, np.float64))["w"]
    near_the_honest_mean(create_rule("geometric_median"), result, honest, honest[0], 25)


@given(st.integers(1, 200), st.integers(0, 49))
def test_a_trimmed_mean_states_what_it_cuts(n: int, percent: int) -> None:
    """With ``beta`` it withstands that share of the updates present, rounded down without noise."""
    rule = TrimmedMean(beta=percent / 100)
    assert rule.max_hostile(n) == percent * n // 100
    if percent:
        assert rule.max_hostile(rule.min_updates) == 1
        assert rule.max_hostile(rule.min_updates - 1) == 0


@pytest.mark.parametrize("present", range(9, 13))
def test_what_follows_from_f_does_not_depend_on_who_is_absent(present: int) -> None:
    """Two hostile updates of twelve stay two when honest clients are absent, and none is averaged."""
    rng = np.random.default_rng(present)
    rows = np.concatenate([np.full((2, 50), 20.0), rng.normal(1, 0.1, size=(present - 2, 50))])
    for name in ("multi_krum", "trimmed_mean"):
        assert create_rule(name, {"f": 2}).max_hostile(present) == 2
        result = result_of(name, vectors(rows), f=2)["w"]
        assert abs(result.mean() - 1) < 0.05


def test_multi_krum_waits_for_as_many_honest_updates_as_it_averages() -> None:
    """With ``m``, fewer than ``m + f`` updates would let a hostile one into the mean."""
    assert create_rule("multi_krum", {"f": 2, "m": 10}).min_updates == 12
    assert create_rule("multi_krum", {"f": 2, "m": 3}).min_updates == 7
    assert create_rule("multi_krum", {"f": 2}).min_updates == 7
