"""Every rule: against its oracle, and by the laws that all rules obey."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aggregation.api import aggregate
from aggregation.engine import arithmetic
from aggregation.engine.measure import measure
from aggregation.engine.segments import Centre
from aggregation.errors import NotEnoughUpdates, RuleError, UpdatesRejected
from aggregation.rules import Selection, Statistics, create_rule, known_rules
from aggregation.rules.krum import Krum, mean_around_median
from aggregation.rules.sorting import ordered_rows
from aggregation.rules.spectral import top_projections
from tests.aggregation import oracles
from tests.aggregation.engine.engine_tools import passes_of, result_of, run, vectors, work_of

RULES: list[tuple[str, dict[str, Any]]] = [
    ("weighted_mean", {}),
    ("unweighted_mean", {}),
    ("normalized_mean", {}),
    ("coordinate_median", {}),
    ("trimmed_mean", {"beta": 0.2}),
    ("krum", {"f": 2}),
    ("multi_krum", {"f": 2, "m": 4}),
    ("bulyan", {"f": 2}),
    ("geometric_median", {}),
    ("norm_clipped_mean", {"max_norm": 2.5}),
    ("centered_clipping", {"tau": 2.0, "iterations": 3}),
    ("norm_filtered_mean", {}),
    ("spectral_filter", {"f": 2}),
    ("history_filter", {"f": 2}),
]
every_rule = pytest.mark.parametrize(("name", "arguments"), RULES, ids=[name for name, _ in RULES])

moderate = st.floats(-100, 100, width=32)


def models(n: int, c: int = 4) -> Any:
    return arrays(np.float32, (n, c), elements=moderate)


def aggregated(
    name: str, updates: Any, counts: Any = None, parent: Any = None, **arguments: Any
) -> Any:
    """The rule's result for rows of float64, at full precision."""
    base = np.zeros(len(updates[0])) if parent is None else parent
    return result_of(
        name,
        vectors(updates, np.float64),
        None if counts is None else [float(count) for count in counts],
        vectors([base], np.float64)[0],
        **arguments,
    )["w"]


def test_every_rule_is_tested_here() -> None:
    """Every rule in the registry is in the table of this module."""
    assert {rule.name for rule in known_rules().values()} == {name for name, _ in RULES}


@every_rule
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_rule_agrees_with_its_oracle(
    name: str, arguments: dict[str, Any], data: st.DataObject
) -> None:
    """On any updates, the engine's result is the oracle's, to the last digits of float64."""
    n = data.draw(st.integers(11, 16))
    # Away from ties, in which an oracle's own rounding decides.
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    updates = rng.normal(size=(n, 7)) * rng.choice([0.1, 1.0, 5.0], size=(n, 1))
    counts = rng.integers(1, 50, size=n)
    parent = rng.normal(size=7)
    expected = getattr(oracles, name)(updates, counts, parent, **arguments)
    result = aggregated(name, updates, counts, parent, **arguments)
    tolerance = 1e-6 if name == "geometric_median" else 1e-10
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "arguments"),
    # Bulyan's last selections are between two that are each other's closest: a tie by definition.
    [(name, arguments) for name, arguments in RULES if name != "bulyan"],
)
@given(updates=models(11), order=st.permutations(range(11)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_clients_does_not_matter(
    name: str, arguments: dict[str, Any], updates: Any, order: list[int]
) -> None:
    """A permutation of updates and counts gives the same result."""
    updates = updates + np.random.default_rng(7).normal(size=updates.shape)  # no ties
    counts = np.arange(1, 12)
    one = aggregated(name, updates, counts, **arguments)
    other = aggregated(name, updates[order], counts[order], **arguments)
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@every_rule
@given(row=arrays(np.float32, 5, elements=moderate))
@settings(max_examples=15, deadline=None)
def test_equal_clients_are_a_fixed_point(name: str, arguments: dict[str, Any], row: Any) -> None:
    """Where all updates are the parent, so is the result, to the bit."""
    result = result_of(name, vectors([row] * 11), list(range(1, 12)), {"w": row}, **arguments)["w"]
    np.testing.assert_array_equal(result, row)


@every_rule
@given(factor=st.integers(2, 1000))
@settings(max_examples=10, deadline=None)
def test_only_the_ratio_of_counts_matters(
    name: str, arguments: dict[str, Any], factor: int
) -> None:
    """Counts multiplied by one number give the same result."""
    updates = np.random.default_rng(factor).normal(size=(11, 5))
    counts = np.arange(1, 12)
    one = aggregated(name, updates, counts, **arguments)
    other = aggregated(name, updates, counts * factor, **arguments)
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_krum_never_picks_the_outlier_among_updates_that_hardly_differ() -> None:
    """Updates 1e-5 apart around weights of 0.05, an outlier at three times the distance: in a hundred
    trials Krum never picks the outlier, and the distances are right to six digits."""
    for trial in range(100):
        rng = np.random.default_rng(trial)
        base = np.full(2000, 0.05) + rng.normal(size=2000) * 0.01
        updates = base + 1e-5 * rng.normal(size=(10, 2000))
        updates[trial % 10] = base + 3e-5 * rng.normal(size=2000)
        stored = updates.astype(np.float32)
        result = result_of("krum", vectors(stored), f=2)["w"]
        assert not (result == stored[trial % 10]).all()
        assert (result == stored).all(axis=1).any()


def test_distances_are_right_to_six_digits_where_updates_hardly_differ() -> None:
    """Squared distances from the centred Gram matrix agree with float64 differences to 1e-6."""
    rng = np.random.default_rng(0)
    updates = (0.05 + 1e-5 * rng.normal(size=(8, 5000))).astype(np.float32)
    with passes_of("krum", vectors(updates), f=2) as passes:
        found = Statistics(np.ones(8), measure(passes, Centre.MEDIAN)).squared_distances
    exact = updates.astype(np.float64)
    expected = ((exact[:, None] - exact[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("differences", [False, True])
def test_a_parent_far_away_costs_no_digits(differences: bool) -> None:
    """Updates that are far from the parent and close to each other: their distances are taken from
    their median, and Krum picks as it does without a parent."""
    rng = np.random.default_rng(5)
    for outlier in range(6):
        updates = 0.05 + 1e-5 * rng.normal(size=(6, 3000))
        updates[outlier] = 0.05 + 1.02e-5 * rng.normal(size=3000)
        stored = updates.astype(np.float32)
        far = {"w": np.zeros(3000, np.float32)}
        found = result_of("krum", vectors(stored), None, far, differences=differences, f=1)["w"]
        expected = oracles.krum(stored.astype(np.float64), [], np.zeros(3000), f=1)
        np.testing.assert_array_equal(found, expected)


def test_updates_far_from_the_parent_are_measured_from_among_them() -> None:
    """Updates at 10^6 times the distance between them are measured again from their median: the
    distances that Krum gets are right to six digits, and it picks the right update."""
    rng = np.random.default_rng(5)
    updates = 1.0 + 1e-6 * rng.normal(size=(6, 3000))
    seen: list[Any] = []

    class WatchedKrum(Krum):
        def select(self, statistics: Statistics) -> Selection:
            seen.append(statistics.squared_distances)
            return super().select(statistics)

    work = work_of(
        "krum", vectors(updates, float), None, vectors(np.zeros((1, 3000)), float)[0], f=1
    )
    result, _ = run(replace(work, rule=WatchedKrum(f=1)))
    expected = ((updates[:, None] - updates[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(seen, [expected], rtol=1e-6)
    np.testing.assert_array_equal(
        safetensors.numpy.load(result)["w"], oracles.krum(updates, [], updates[0], f=1)
    )


@pytest.mark.parametrize(
    ("rule", "arguments", "products"),
    [
        ("krum", {"f": 2}, arithmetic.inner_products),
        ("norm_clipped_mean", {"max_norm": 1.0}, arithmetic.squared_norms),
    ],
)
def test_what_is_measured_has_forty_significant_bits(
    rule: str, arguments: dict[str, Any], products: Any
) -> None:
    """The last bits of a sum, which differ between processors, are cut off before a rule sees them."""
    updates = vectors(np.random.default_rng(0).normal(size=(8, 5000)))
    with passes_of(rule, updates, None, updates[0], **arguments) as passes:
        found = measure(passes, Centre.MEDIAN)
    mantissa, _ = np.frexp(found)
    np.testing.assert_array_equal(mantissa * 2.0**40, np.rint(mantissa * 2.0**40))
    rows = np.stack([update["w"] for update in updates]).astype(np.float64)
    np.testing.assert_allclose(
        found, products(rows - np.median(rows, axis=0)), rtol=1e-11, atol=1e-9
    )


def test_a_huge_first_update_does_not_hide_another() -> None:
    """A hostile update of 1e12 does not keep a second hostile one from being recognized."""
    rng = np.random.default_rng(6)
    for _ in range(20):
        updates = (0.05 + 1e-5 * rng.normal(size=(9, 500))).astype(np.float32)
        updates[0] = 1e12
        updates[5] = 0.05 + 4e-5 * rng.normal(size=500)
        result = result_of("multi_krum", vectors(updates), f=2, m=7)["w"]
        expected = np.delete(updates, [0, 5], axis=0).mean(axis=0, dtype=np.float64)
        np.testing.assert_array_equal(result, expected.astype(np.float32))


@pytest.mark.parametrize("n", [2, 3, 11, 50, 513])
def test_any_number_of_rows_is_sorted(n: int) -> None:
    """Median and trimmed mean, by network or by sorting, are those of numpy for few rows and many."""
    updates = np.random.default_rng(n).normal(size=(n, 40)).astype(np.float32)
    median = result_of("coordinate_median", vectors(updates))["w"]
    exact = updates.astype(np.float64)
    np.testing.assert_array_equal(median, np.median(exact, axis=0).astype(np.float32))
    trimmed = result_of("trimmed_mean", vectors(updates), f=n // 4)["w"]
    kept = np.sort(exact, axis=0)[n // 4 : n - n // 4]
    np.testing.assert_allclose(trimmed, kept.mean(axis=0), rtol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), hostile=st.integers(1, 3), distance=st.floats(0.5, 100.0))
@settings(max_examples=50, deadline=None)
def test_the_filter_follows_the_top_singular_vector(
    seed: int, hostile: int, distance: float
) -> None:
    """If updates agree on a direction, those removed have the largest projections on the top singular
    vector of the centred updates."""
    rng = np.random.default_rng(seed)
    rows = 0.1 * rng.normal(size=(11, 50))
    rows[:hostile] += distance * np.ones(50) / np.sqrt(50) * 5
    centred = rows - rows.mean(axis=0)
    projections = np.square(centred @ np.linalg.svd(centred)[2][0])
    found = top_projections(rows @ rows.T)
    np.testing.assert_allclose(
        found / found.sum(), projections / projections.sum(), rtol=1e-6, atol=1e-9
    )


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_client_that_pulled_against_the_others_is_left_out(seed: int) -> None:
    """The rule adds what is known of earlier rounds to the cosines of this one, as its oracle does."""
    rng = np.random.default_rng(seed)
    updates, parent = rng.normal(size=(9, 20)), 0.1 * rng.normal(size=20)
    directions = rng.normal(0, 2, size=9).tolist()
    expected = oracles.history_filter(updates, [], parent, f=2, directions=directions)
    found = aggregated("history_filter", updates, None, parent, f=2, directions=directions)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    hostile = [-9.0, *[3.0] * 8]
    without = aggregated("history_filter", updates, None, parent, f=1, directions=hostile)
    updates[0] = 2 * parent - updates[0]
    same = aggregated("history_filter", updates, None, parent, f=1, directions=hostile)
    np.testing.assert_allclose(without, same, rtol=1e-9, atol=1e-9)


@given(values=arrays(np.float64, (7, 3), elements=st.integers(-3, 3).map(float)))
@settings(max_examples=40)
def test_bulyan_takes_the_lower_of_two_values_as_close(values: Any) -> None:
    """Where values tie, the ones closest to the median are still averaged, the lower first."""
    rows = ordered_rows(values.copy(), 0, 7)
    result = mean_around_median(rows, 5)
    for column, found in zip(values.T, result, strict=True):
        median = np.median(column)
        closest = sorted(column, key=lambda value: (abs(value - median), value))[:5]
        np.testing.assert_allclose(found, np.mean(closest), atol=1e-12)


def test_the_sign_of_zero_is_defined() -> None:
    """Zeros of both signs give 0.0 in every column, wherever it stands in a row."""
    updates = np.where(np.random.default_rng(0).random((5, 1001)) < 0.5, -0.0, 0.0)
    for name, arguments in (("coordinate_median", {}), ("trimmed_mean", {"beta": 0.2})):
        result = result_of(name, vectors(updates), **arguments)["w"]
        assert not np.signbit(result).any()


def test_twenty_thousand_float16_ones_average_to_one() -> None:
    """Accumulation is in float64, whatever the updates are stored in."""
    ones = {"w": np.ones(3, np.float16)}
    result = result_of("unweighted_mean", [ones] * 20_000)["w"]
    assert result.dtype == np.float16
    assert (result == 1).all()


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    """Of 1, 2, 4 and 100 the median is 3."""
    result = result_of("coordinate_median", vectors([[100], [1], [4], [2]]))["w"]
    assert result == 3


def test_bulyan_follows_the_papers_example_of_a_hidden_coordinate() -> None:
    """A hostile update that differs in one coordinate only is kept out of that coordinate."""
    rng = np.random.default_rng(3)
    honest = rng.normal(size=(9, 50)) * 0.1
    hidden = honest.mean(axis=0)
    hidden[7] = 1.5
    updates = np.concatenate([honest, [hidden, hidden]])
    result = aggregated("bulyan", updates, f=2)
    assert abs(result[7]) <= np.abs(honest[:, 7]).max()


@pytest.mark.parametrize(
    ("name", "arguments", "n"),
    [
        ("krum", {"f": 2}, 7),
        ("multi_krum", {"f": 2}, 7),
        ("multi_krum", {"f": 1, "m": 6}, 7),
        ("trimmed_mean", {"f": 2}, 5),
        ("trimmed_mean", {"beta": 0.2}, 5),
        ("coordinate_median", {"f": 2}, 5),
        ("geometric_median", {"f": 2}, 5),
        ("bulyan", {"f": 1}, 7),
        ("spectral_filter", {"f": 2}, 5),
        ("weighted_mean", {}, 1),
    ],
)
def test_a_rule_refuses_fewer_updates_than_it_is_defined_for(
    name: str, arguments: dict[str, Any], n: int
) -> None:
    """With one update less than the rule needs, the error says how many it needs."""
    updates = vectors(np.eye(8)[:n])
    result_of(name, updates, **arguments)
    if n > 1:
        with pytest.raises(NotEnoughUpdates, match=f"at least {n}"):
            result_of(name, updates[1:], **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("no_such_rule", {}, "unknown aggregation rule 'no_such_rule'; known are .*krum"),
        ("krum", {}, "takes the arguments f"),
        ("krum", {"f": -1}, "f must be a whole number, at least 0; got -1"),
        ("krum", {"f": 1.5}, "f must be a whole number"),
        ("krum", {"f": True}, "f must be a whole number"),
        ("multi_krum", {"f": 1, "m": 0}, "m must be a whole number, at least 1"),
        ("trimmed_mean", {"f": 1, "beta": 0.2}, "trimmed_mean: give either beta or f"),
        ("trimmed_mean", {}, "trimmed_mean: give either beta or f"),
        ("coordinate_median", {"f": -1}, "f must be a whole number, at least 0"),
        ("trimmed_mean", {"beta": 0.5}, "beta must be a finite number, at least 0 and below 0.5"),
        ("trimmed_mean", {"beta": float("nan")}, "beta must be a finite number"),
        ("weighted_mean", {"beta": 0.1}, "weighted_mean takes no arguments"),
        ("norm_clipped_mean", {"max_norm": 0}, "max_norm must be a finite number, above 0"),
        (
            "norm_filtered_mean",
            {"threshold": 0.6745},
            "threshold must be a finite number, above 0.6745",
        ),
        ("norm_clipped_mean", {"max_norm": "1"}, "max_norm must be a finite number"),
        ("centered_clipping", {"tau": float("inf")}, "tau must be a finite number"),
        ("centered_clipping", {"tau": 1.0, "iterations": 0}, "iterations must be a whole number"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    """Unknown rules and arguments that do not fit are refused with what is expected."""
    with pytest.raises(RuleError, match=message):
        create_rule(name, arguments)


@pytest.mark.parametrize("name", ["norm_clipped_mean", "centered_clipping", "norm_filtered_mean"])
def test_a_rule_on_differences_needs_a_parent(name: str) -> None:
    """Without a parent there are no differences to measure: the error says what to do."""
    arguments = {"norm_clipped_mean": {"max_norm": 1.0}, "centered_clipping": {"tau": 1.0}}
    with pytest.raises(RuleError, match="give the model an initial artifact"):
        result_of(name, vectors(np.eye(3)), **arguments.get(name, {}))


@given(
    steps=st.lists(st.floats(0, 1e9), min_size=1, max_size=12),
    threshold=st.floats(0.6745, 1.0, exclude_min=True),
)
@example(steps=[1.0, 2.0], threshold=float(np.nextafter(0.6745, 1)))
@example(steps=[1.0, 2.0, 3.0, 4.0], threshold=float(np.nextafter(0.6745, 1)))
@settings(max_examples=200, deadline=None)
def test_the_filter_keeps_half_of_the_updates_at_least(
    steps: list[float], threshold: float
) -> None:
    """With any threshold that is taken, no choice of norms leaves fewer than half of the updates."""
    rule = create_rule("norm_filtered_mean", {"threshold": threshold})
    statistics = Statistics(np.ones(len(steps)), squares=np.square(steps))
    assert 2 * len(rule.select(statistics).members) >= len(steps)


def test_an_empty_selection_is_refused() -> None:
    """If every difference is clipped to zero, the rule raises an error instead of a result."""
    with pytest.raises(RuleError, match="leaves out every update"):
        aggregated("norm_clipped_mean", np.full((2, 3), 1e150), max_norm=1e-300)
    with pytest.raises(RuleError, match="leaves out every update"):
        Selection.from_json([[], [], 0.0, None, None, None])


def test_the_old_names_of_the_mean_are_accepted() -> None:
    """`average_layers` and `avg_values_if_data` are the unweighted mean."""
    for name in ("average_layers", "avg_values_if_data"):
        assert create_rule(name).name == "unweighted_mean"


def test_an_update_too_large_to_measure_is_rejected() -> None:
    """A finite value whose square overflows keeps its own update out, and no other."""
    rows = np.random.default_rng(0).normal(size=(8, 3))
    rows[5, 1] = 1e200
    with pytest.raises(UpdatesRejected) as caught:
        result_of("krum", vectors(rows, np.float64), f=1)
    assert list(caught.value.reasons) == [5]


@given(
    parent=st.floats(-1e6, 1e6, width=32),
    n=st.integers(1, 300),
    iterations=st.integers(1, 400),
)
@example(parent=1.0, n=9, iterations=1)
@settings(max_examples=40, deadline=None)
def test_centered_clipping_stays_in_the_hull(parent: float, n: int, iterations: int) -> None:
    """Updates that are all zero give zero from any parent: a variance does not become negative."""
    arguments = {"tau": 1e7, "iterations": iterations}
    updates = vectors(np.zeros((n, 2)), np.float64)
    base = vectors([np.full(2, parent)], np.float64)[0]
    result = result_of("centered_clipping", updates, None, base, **arguments)["w"]
    np.testing.assert_array_equal(result, 0)


@given(n=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_normalized_mean_divides_each_difference_by_its_steps(n: int, seed: int) -> None:
    """With any numbers of steps, the result is that of the formula of FedNova."""
    rng = np.random.default_rng(seed)
    updates, parent = rng.normal(size=(n, 5)), rng.normal(size=5)
    counts, steps = rng.integers(1, 50, size=n).tolist(), rng.integers(1, 200, size=n).tolist()
    result = aggregated("normalized_mean", updates, counts, parent, num_steps=steps)
    expected = oracles.normalized_mean(updates, counts, parent, steps)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_normalized_mean_needs_the_steps() -> None:
    """Without numbers of steps, the error names the rule."""
    with pytest.raises(RuleError, match="normalized_mean needs the number of steps"):
        aggregate("normalized_mean", np.ones((2, 3)), parent=np.zeros(3))
