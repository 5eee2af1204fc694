"""The steps before a rule: their oracles, what they withstand, and the arguments they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.errors import RuleError
from aggregation.pre_aggregation import (
    PreAggregatedRule,
    build_rule,
    create_pre_aggregation,
    known_pre_aggregations,
    needs_seed,
    new_seed,
)
from aggregation.pre_aggregation.bucketing import permutation
from aggregation.rules import Statistics
from tests.aggregation import oracles
from tests.aggregation.engine.engine_tools import SEED, result_of, vectors
from tests.aggregation.rules.test_robustness import (
    ATTACKS,
    attack,
    diameter,
    near_an_honest_update,
    near_the_honest_mean,
    near_the_parent,
    within_range,
)

#: Rules after the steps, and what each states of the rows that it combines.
ROBUST: list[tuple[str, dict[str, Any], Any]] = [
    ("coordinate_median", {}, within_range(0)),
    ("trimmed_mean", {"f": 2}, within_range(0)),
    ("krum", {"f": 2}, near_an_honest_update),
    ("geometric_median", {}, near_the_honest_mean),
    ("norm_clipped_mean", {"max_norm": 2.5}, near_the_parent(lambda rule, _: rule.max_norm)),
]
robust = pytest.mark.parametrize(("name", "arguments", "check"), ROBUST)


def oracle(text: str, rows: Any, parent: Any) -> Any:
    """Return the rows that a step makes, in plain numpy."""
    step: Any = create_pre_aggregation(text)
    if step.name == "bucketing":
        order = permutation(len(rows), bytes.fromhex(SEED))
        return oracles.bucketing(rows, order, step.s)
    if step.name == "normalize":
        return oracles.normalize(rows, parent)
    return getattr(oracles, step.name)(rows, parent, step.f)


def test_every_step_is_tested_here() -> None:
    """Each step in the registry has an oracle."""
    assert set(known_pre_aggregations()) == {"nnm", "arc", "bucketing", "normalize"}


@pytest.mark.parametrize(
    "steps",
    [
        ["nnm(f=2)"],
        ["arc(f=2)"],
        ["bucketing(s=2)"],
        ["bucketing(s=3)"],
        ["normalize"],
        ["normalize", "nnm(f=2)"],
        ["arc(f=3)", "nnm(f=2)"],
        ["nnm(f=2)", "arc(f=1)"],
        ["bucketing(s=2)", "nnm(f=1)"],
        ["arc(f=2)", "bucketing(s=2)", "nnm(f=1)"],
    ],
)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("coordinate_median", {}),
        ("trimmed_mean", {"f": 1}),
        ("krum", {"f": 1}),
        ("multi_krum", {"f": 1}),
        ("bulyan", {"f": 1}),
        ("norm_filtered_mean", {}),
        ("centered_clipping", {"tau": 2.0}),
        ("history_filter", {"f": 1}),
    ],
)
@given(n=st.integers(19, 23), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_a_rule_combines_the_rows_of_its_steps(
    steps: list[str], name: str, arguments: dict[str, Any], n: int, seed: int
) -> None:
    """The engine's result is that of the rule's oracle on the rows of the steps' oracles."""
    if name == "bulyan" and any(step.startswith("nnm") for step in steps):
        return  # Mixing makes equal rows, and Bulyan's last selections are then ties.
    if name == "history_filter" and any(text[0] == "b" for text in steps):
        return  # It is refused.
    if name == "norm_filtered_mean" and any(text[0] == "n" for text in steps):
        return  # It is refused.
    rng = np.random.default_rng(seed)
    updates = rng.normal(size=(n, 9)) * rng.choice([0.01, 0.5, 1.0, 3.0], size=(n, 1))
    parent = 0.1 * rng.normal(size=9)
    rows = updates
    for text in steps:
        rows = oracle(text, rows, parent)
    expected = getattr(oracles, name)(rows, np.ones(len(rows)), parent, **arguments)
    base, models = vectors([parent], np.float64)[0], vectors(updates, np.float64)
    found = result_of(name, models, None, base, pre_aggregation=steps, **arguments)["w"]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "steps", [["nnm(f=2)"], ["arc(f=2)"], ["arc(f=2)", "nnm(f=2)"], ["normalize"]]
)
@robust
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(7, 14),
    kind=st.sampled_from(ATTACKS),
    exponent=st.floats(-7, 150),
    spread=st.sampled_from([0.0, 1e-5, 0.1, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_what_a_rule_states_holds_for_the_rows_of_honest_updates(
    name: str,
    arguments: dict[str, Any],
    check: Any,
    steps: list[str],
    seed: int,
    n: int,
    kind: str,
    exponent: float,
    spread: float,
) -> None:
    """Honest updates become rows within the stated distance, and the rule's bound holds for these."""
    rng = np.random.default_rng(seed)
    rule = build_rule(name, arguments, steps)
    assert isinstance(rule, PreAggregatedRule)
    f = min(2, rule.max_hostile(n))
    assert f == 2
    honest = 0.05 + spread * rng.normal(size=(n - f, 4))
    parent = honest.mean(axis=0) + 0.1 * rng.normal(size=4)
    updates = np.concatenate([attack(kind, honest, f, 10.0**exponent, rng), honest])
    differences = updates - parent
    mixture, _ = rule.mix(Statistics(np.ones(n), gram=differences @ differences.T))
    rows = (mixture.coefficients @ differences)[f:] / mixture.divisor
    longest = np.linalg.norm(differences[f:], axis=1).max()
    assert np.linalg.norm(rows, axis=1).max() <= longest * (1 + 1e-6) + 1e-12
    if steps == ["nnm(f=2)"]:
        bound = 2 * f * diameter(honest) / (n - f)
        from_mean = rows - differences[f:].mean(axis=0)
        assert np.linalg.norm(from_mean, axis=1).max() <= bound * (1 + 1e-6) + 1e-9
    base, models = vectors([parent], np.float64)[0], vectors(updates, np.float64)
    found = result_of(name, models, None, base, pre_aggregation=steps, **arguments)["w"]
    check(rule.rule, found, parent + rows, parent, f)


@robust
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(14, 20), kind=st.sampled_from(ATTACKS))
@settings(max_examples=20, deadline=None)
def test_what_a_rule_states_holds_for_the_means_of_honest_buckets(
    name: str, arguments: dict[str, Any], check: Any, seed: int, n: int, kind: str
) -> None:
    """A hostile update spoils one bucket, and the rule's bound holds for the other buckets."""
    rng = np.random.default_rng(seed)
    rule = build_rule(name, arguments, ["bucketing(s=2)"])
    assert isinstance(rule, PreAggregatedRule)
    f = min(2, rule.max_hostile(n))
    honest = 0.05 + 0.1 * rng.normal(size=(n - f, 4))
    parent = honest.mean(axis=0) + 0.1 * rng.normal(size=4)
    updates = np.concatenate([attack(kind, honest, f, 1e3, rng), honest])
    order = permutation(n, bytes.fromhex(SEED))
    buckets = [order[first : first + 2] for first in range(0, n, 2)]
    rows = np.array([updates[bucket].mean(axis=0) for bucket in buckets if min(bucket) >= f])
    base, models = vectors([parent], np.float64)[0], vectors(updates, np.float64)
    found = result_of(name, models, None, base, pre_aggregation=["bucketing(s=2)"], **arguments)
    check(rule.rule, found["w"], rows, parent, len(buckets) - len(rows))


@pytest.mark.parametrize(
    "steps", [["nnm(f=2)"], ["arc(f=2)"], ["bucketing(s=3)", "nnm(f=1)"], ["normalize"]]
)
@pytest.mark.parametrize("name", ["coordinate_median", "geometric_median"])
def test_equal_clients_are_a_fixed_point(steps: list[str], name: str) -> None:
    """Where all updates are the parent, so is the result, to the bit."""
    row = np.random.default_rng(0).normal(size=50).astype(np.float32)
    result = result_of(name, vectors([row] * 11), None, {"w": row}, pre_aggregation=steps)["w"]
    np.testing.assert_array_equal(result, row)


@pytest.mark.parametrize("name", ["unweighted_mean", "coordinate_median"])
def test_clipping_to_nothing_gives_the_parent(name: str) -> None:
    """If most updates are the parent, the others are shortened to nothing, and the result is the parent."""
    parent = np.ones(3, np.float32)
    updates = vectors([parent + 5, parent, parent, parent, parent])
    result = result_of(name, updates, None, {"w": parent}, pre_aggregation=["arc(f=1)"])["w"]
    np.testing.assert_array_equal(result, parent)


def test_a_seed_determines_the_buckets() -> None:
    """The same seed gives the same order, another one another, and each is one of all updates."""
    seeds = [bytes([seed]) for seed in range(20)]
    orders = [permutation(30, seed) for seed in seeds]
    assert [permutation(30, seed) for seed in seeds] == orders
    assert len({tuple(order) for order in orders}) == 20
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert new_seed() != new_seed()


def test_bucketing_is_not_done_without_a_seed() -> None:
    """Without a secret seed, buckets could be predicted: the rule refuses."""
    rule = build_rule("coordinate_median", {}, ["bucketing(s=2)"])
    with pytest.raises(RuleError, match="needs a secret seed"):
        rule.select(Statistics(np.ones(4)))
    assert needs_seed(["arc(f=1)", "bucketing(s=2)"])
    assert not needs_seed(["arc(f=1)", "nnm(f=1)"])


@pytest.mark.parametrize(
    ("steps", "rule", "arguments", "n", "withstood"),
    [
        (["nnm(f=2)"], "coordinate_median", {}, 5, 2),
        (["nnm(f=2)"], "coordinate_median", {}, 11, 2),
        (["nnm(f=3)"], "krum", {"f": 2}, 7, 2),
        (["arc(f=2)"], "weighted_mean", {}, 5, 0),
        (["normalize"], "spectral_filter", {"f": 2}, 5, 2),
        (["normalize"], "centered_clipping", {"tau": 1.0}, 9, 4),
        (["bucketing(s=2)"], "trimmed_mean", {"f": 2}, 9, 2),
        (["bucketing(s=2)"], "coordinate_median", {}, 10, 2),
        (["bucketing(s=3)", "nnm(f=2)"], "krum", {"f": 2}, 19, 2),
    ],
)
def test_what_is_withstood_follows_from_all_parts(
    steps: list[str], rule: str, arguments: dict[str, Any], n: int, withstood: int
) -> None:
    """The fewest hostile updates that a step or the rule withstands; with fewer updates, fewer."""
    built = build_rule(rule, arguments, steps)
    assert built.max_hostile(n) == withstood
    assert built.min_updates <= n


@pytest.mark.parametrize(
    ("steps", "needed"),
    [(["bucketing(s=2)"], 13), (["nnm(f=4)"], 9), (["bucketing(s=3)", "nnm(f=2)"], 19)],
)
def test_steps_need_updates_for_the_rows_that_the_rule_needs(steps: list[str], needed: int) -> None:
    """Krum with f = 2 needs seven rows."""
    assert build_rule("krum", {"f": 2}, steps).min_updates == needed


@pytest.mark.parametrize(
    ("rule", "arguments", "steps", "message"),
    [
        ("krum", {"f": 1}, ["nnm(f=2"], r"written as nnm\(f=2\); got 'nnm\(f=2'"),
        ("krum", {"f": 1}, ["nnm"], "nnm takes the arguments f"),
        ("krum", {"f": 1}, ["normalize(shortest=2)"], "shortest must be a finite number"),
        ("krum", {"f": 1}, [3], r"written as nnm\(f=2\); got 3"),
        ("krum", {"f": 1}, "nnm(f=1)", "expected a list of steps"),
        ("krum", {"f": 1}, None, "expected a list of steps"),
        (
            "krum",
            {"f": 1},
            ["mix(f=1)"],
            "unknown step .*'mix'; known are arc, bucketing, nnm, normalize",
        ),
        ("krum", {"f": 1}, ["nnm()"], "nnm takes the arguments f"),
        ("krum", {"f": 1}, ["nnm(f=0)"], "f must be a whole number, at least 1; got 0"),
        ("krum", {"f": 1}, ["nnm(f=two)"], "f must be a whole number, at least 1; got 'two'"),
        ("krum", {"f": 1}, ["nnm(2)"], "an argument is written as f=2; got '2'"),
        ("krum", {"f": 1}, ["bucketing(s=1)"], "s must be a whole number, at least 2"),
        ("krum", {"f": 1}, ["nnm(f=1)", "nnm(f=2)"], "the step nnm is given twice"),
        ("weighted_mean", {}, ["nnm(f=1)"], "weighted_mean withstands no hostile update"),
        ("norm_filtered_mean", {}, ["normalize"], "compares norms, and normalize makes many"),
        ("norm_filtered_mean", {}, ["arc(f=1)", "nnm(f=1)"], "compares norms, and nnm makes many"),
        ("history_filter", {"f": 1}, ["bucketing(s=2)"], "remembers clients, and bucketing groups"),
        ("krum", {"f": 0}, ["bucketing(s=2)"], "krum withstands no hostile update"),
    ],
)
def test_steps_that_do_not_fit_are_refused(
    rule: str, arguments: dict[str, Any], steps: Any, message: str
) -> None:
    """The error names the step or the argument, and says what is expected."""
    with pytest.raises(RuleError, match=message):
        build_rule(rule, arguments, steps)


def test_a_seed_that_is_not_hexadecimal_is_refused() -> None:
    """The error says how a seed is given."""
    with pytest.raises(RuleError, match="hexadecimal"):
        build_rule("krum", {"f": 1}, ["bucketing(s=2)"], "not a seed")


def test_a_seed_is_in_no_text() -> None:
    """Neither the rule's text nor its name shows the secret seed."""
    rule = build_rule("krum", {"f": 1}, ["bucketing(s=2)", "nnm(f=1)"], SEED)
    assert rule.name == "bucketing(s=2) + nnm(f=1) + krum"
    assert "5eed" not in repr(rule)
    assert repr(bytes.fromhex(SEED)) not in repr(rule)
