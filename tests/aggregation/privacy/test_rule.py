"""The mean with differential privacy, by the engine."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from aggregation import aggregate
from aggregation.engine import Combination, Combined, Resources, combine
from aggregation.engine.output import MemorySink
from aggregation.errors import RuleError
from aggregation.in_memory import arrays_of, weights_in_memory
from aggregation.policies import DEFAULT, PolicyMap, TensorPolicies
from aggregation.pre_aggregation import build_rule, rule_from_json, rule_to_json
from aggregation.privacy.accounting import charge
from aggregation.privacy.discrete_gaussian import SIGMA_SQUARED
from aggregation.privacy.grid import clip_factors, grid_step, to_grid
from aggregation.privacy.rule import check_tensors, optimized_elements, private_mean
from aggregation.rules import Statistics
from tests.aggregation.privacy.privacy_tools import SETTINGS, noise, settings

RULE = build_rule("unweighted_mean")
SEED = "ab" * 32

#: SHA-256 of the aggregate of a small round.
PINNED = "5752a90f808cbffc72497837c001aaadbcd927675c2427168e3ebe8867a6d310"


def on_grid(rows: Any, parent: Any, chosen: Any) -> list[Any]:
    """Return the integers of each update's clipped difference, by the definition, in Python's integers."""
    step, found = grid_step(chosen), []
    for row in rows:
        difference = row.astype(float) - parent.astype(float)
        norm = math.sqrt(math.fsum((difference * difference).tolist()))
        factor = min(1.0, chosen.clip_norm / norm) if norm else 1.0
        found.append([int(value * factor / step) for value in difference.tolist()])
    return found


def combined(*arguments: Any, **given: Any) -> dict[str, Any]:
    """Return the aggregate of a private round of updates that are given in order."""
    return outcome_of(*arguments, **given)[0]


def outcome_of(
    arrays: Any, parent: Any, chosen: Any, memory: int = 64 << 20, **given: Any
) -> tuple[dict[str, Any], Combined]:
    """Return the aggregate of a private round, and what is recorded of it."""
    rule = private_mean(RULE, chosen, given.get("policies", DEFAULT)).with_noise(noise("round"))
    work = Combination(
        rule=rule,
        updates=[weights_in_memory(each) for each in arrays],
        num_examples=given.pop("num_examples", [1] * len(arrays)),
        parent=weights_in_memory(parent),
        **given,
    )
    sink = MemorySink()
    resources = Resources(memory_bytes=memory, workers=2)
    outcome = combine(work, sink, format="memory", resources=resources)
    return arrays_of(sink.data, work.layout), outcome


VALUES = st.one_of(
    st.floats(-1e3, 1e3),
    st.floats(-1e150, 1e150),
    st.floats(-1e-30, 1e-30),
)


@given(
    st.lists(VALUES, min_size=1, max_size=40),
    st.floats(0.02, 100.0),
    st.floats(1e-9, 1e9),
    st.floats(1 - 2.0**-30, 1 + 2.0**-30),
)
def test_no_update_is_longer_than_what_is_charged(
    values: list[float], z: float, clip_norm: float, error: float
) -> None:
    """Its integers have at most the norm sigma / noise_multiplier, whatever its values and with a norm
    that was measured with an error."""
    chosen = settings(noise_multiplier=z, clip_norm=clip_norm)
    difference = np.array(values, np.float64)
    norm = math.sqrt(math.fsum((difference * difference).tolist()))
    factor = float(clip_factors(np.array([norm * error]), chosen)[0])
    integers = [int(value) for value in to_grid(difference.copy(), factor, chosen).tolist()]
    assert sum(integer * integer for integer in integers) * z * z <= SIGMA_SQUARED * (1 + 1e-12)
    if norm <= clip_norm * (1 - 1e-6):
        np.testing.assert_allclose(
            np.array(integers, float) * grid_step(chosen), difference, atol=1.01 * grid_step(chosen)
        )


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ml_dtypes.bfloat16])
@pytest.mark.parametrize("differences", [False, True])
def test_the_result_is_the_sum_of_integers_with_noise(dtype: Any, differences: bool) -> None:
    """It is the parent plus the rounded differences and the noise, divided by the cohort."""
    rng = np.random.default_rng(5)
    parent = rng.normal(size=700).astype(dtype)
    moved = rng.normal(size=(6, 700)) * rng.choice([1e-3, 0.2], size=(6, 1))
    rows = moved if differences else parent.astype(float) + moved
    rows = rows.astype(dtype)
    chosen = settings()
    found = combined([{"w": row} for row in rows], {"w": parent}, chosen, differences=differences)
    integers = np.sum(on_grid(rows, 0 * parent if differences else parent, chosen), axis=0)
    total = integers + noise("round").integers(0, 700)
    expected = parent.astype(float) + total * (grid_step(chosen) / chosen.cohort)
    # Norms are rounded to 40 bits, and differences are clipped to a little less than the clip norm.
    precision = float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    tolerance = 1e-7 + precision * np.abs(expected)
    assert (np.abs(found["w"].astype(float) - expected) <= tolerance).all()


@settings_of_hypothesis(max_examples=10)
@given(st.permutations(range(5)), st.sampled_from([20_000, 64 << 20]))
def test_neither_order_nor_memory_changes_a_byte(order: list[int], memory: int) -> None:
    """The sum is one of integers, and the noise belongs to elements."""
    rng = np.random.default_rng(1)
    parent = {"a": rng.normal(size=3000).astype("<f4"), "b": rng.normal(size=17).astype("<f8")}
    updates = [
        {
            name: (values + rng.normal(size=values.shape)).astype(values.dtype)
            for name, values in parent.items()
        }
        for _ in range(5)
    ]
    whole = combined(updates, parent, settings())
    again = combined([updates[position] for position in order], parent, settings(), memory)
    for name, values in whole.items():
        assert values.tobytes() == again[name].tobytes()


def test_the_bytes_of_a_round_are_pinned() -> None:
    """An auditor who has the seed gets the same bytes with the next version."""
    values = np.arange(-500, 500).astype("<f4")
    parent = {"w": values / 64, "h": (values / 512).astype("<f2")}
    updates = [
        {name: (each * (1 + 2.0**-power)).astype(each.dtype) for name, each in parent.items()}
        for power in (4, 6, 9)
    ]
    found = combined(updates, parent, settings(clip_norm=0.75, cohort=3))
    data = found["w"].tobytes() + found["h"].tobytes()
    assert hashlib.sha256(data).hexdigest() == PINNED


def test_examples_and_absent_clients_do_not_change_a_share() -> None:
    """Weights are equal whatever num_examples, and the divisor is the cohort whatever the number."""
    parent, chosen = {"w": np.zeros(50)}, settings(cohort=1000)
    updates = [{"w": np.full(50, value)} for value in (0.01, 0.02)]
    both = combined(updates, parent, chosen, num_examples=[1, 10**6])["w"]
    one = combined(updates[:1], parent, chosen)["w"]
    assert both == pytest.approx(one + 0.02 / 1000, abs=2 * grid_step(chosen))


def test_tensors_that_are_kept_have_no_noise_and_no_part_in_norms() -> None:
    """Kept, excluded and frozen tensors have the parent's values; huge ones do not clip the others."""
    parent = {"w": np.zeros(9), "kept": np.full(4, 7.0), "frozen": np.ones(2), "n": np.array([3])}
    update = {
        "w": np.full(9, 1e-3),
        "kept": np.full(4, 1e6),
        "frozen": np.ones(2),
        "n": np.array([9]),
    }
    policies = TensorPolicies.from_list([["kept", "keep"]], frozen=["frozen"])
    found = combined([update], parent, settings(cohort=1), policies=policies)
    for name in ("kept", "frozen", "n"):
        np.testing.assert_array_equal(found[name], parent[name])
    drawn = noise("round").integers(0, 9) * grid_step(settings())
    assert found["w"] - drawn == pytest.approx(1e-3, abs=1e-6)


def test_a_server_optimizer_steps_by_the_noisy_mean() -> None:
    """SGD with eta 0.5 takes half of the noisy difference."""
    parent, update = {"w": np.ones(20)}, {"w": np.full(20, 1.01)}
    arguments: dict[str, Any] = {"differential_privacy": SETTINGS, "seed": SEED}
    whole = aggregate("unweighted_mean", [update], parent=parent, **arguments)
    half = aggregate(
        "unweighted_mean",
        [update],
        parent=parent,
        server_optimizer="sgd",
        optimizer_args={"eta": 0.5},
        **arguments,
    )
    assert half["w"] - 1 == pytest.approx((whole["w"] - 1) / 2)


def test_noise_beyond_the_dtype_is_clipped_and_rejects_nobody() -> None:
    """The largest finite value is stored, since the noise is not the fault of an update."""
    parent = {"w": np.full(1000, 65504, "<f2")}
    found = combined([parent], parent, settings(clip_norm=1e6, cohort=1))["w"]
    assert np.isfinite(found).all()
    assert (found == 65504).sum() > 300


def test_an_outcome_shows_neither_norms_nor_clip_factors() -> None:
    """Both would tell about single updates without noise: what is recorded has equal shares only."""
    parent = {"w": np.zeros(30)}
    updates = [{"w": np.full(30, 5.0)}, {"w": np.full(30, 1e-4)}]
    outcome = outcome_of(updates, parent, settings())[1]
    assert outcome.norms is None
    assert outcome.selection.cosines is None
    assert (outcome.selection.coefficients, outcome.selection.total) == ((1.0, 1.0), 10.0)


def test_the_info_of_a_notebook_has_the_charge() -> None:
    """It is what the round adds to the account."""
    _, info = aggregate(
        "unweighted_mean",
        [np.ones(3)],
        parent=np.ones(3),
        differential_privacy=SETTINGS,
        return_info=True,
    )
    assert info.mu_squared == charge(settings(), 3)


def test_a_seed_repeats_a_result_for_the_same_updates_only() -> None:
    """Without a seed, each call draws new noise."""
    parent = {"w": np.zeros(30)}
    updates = [{"w": np.full(30, 1e-4)}, {"w": np.full(30, 2e-4)}]

    def noisy(given: Any, seed: str = SEED) -> Any:
        return aggregate(
            "unweighted_mean", given, parent=parent, differential_privacy=SETTINGS, seed=seed
        )["w"]

    np.testing.assert_array_equal(noisy(updates), noisy(updates[::-1]))
    assert (noisy(updates) != noisy(updates, seed="")).all()
    assert abs(noisy(updates) - noisy(updates[:1])).max() > 0.05


@pytest.mark.parametrize(
    "changed",
    [
        {"differential_privacy": {**SETTINGS, "clip_norm": 2 * SETTINGS["clip_norm"]}},
        {
            "differential_privacy": {
                **SETTINGS,
                "noise_multiplier": 2 * SETTINGS["noise_multiplier"],
            }
        },
        {"differential_privacy": {**SETTINGS, "cohort": 2 * SETTINGS["cohort"]}},
        {"parent": {"w": np.full(30, 1e-7), "x": np.zeros(2)}},
        {"differences": True},
        {"tensor_policies": [("x", "keep")]},
    ],
)
def test_a_seed_has_other_noise_for_another_sum(changed: dict[str, Any]) -> None:
    """The same noise under other settings, another parent or other policies would cancel out."""
    given: dict[str, Any] = {
        "parent": {"w": np.zeros(30), "x": np.zeros(2)},
        "differential_privacy": SETTINGS,
        "seed": SEED,
    }

    def noise_of(arguments: dict[str, Any]) -> Any:
        """Return a result in units of the noise's grid: nearly the noise, since the updates are zero."""
        updates = [{"w": np.zeros(30), "x": np.zeros(2)}]
        chosen = settings(**arguments["differential_privacy"])
        found = aggregate("unweighted_mean", updates, **arguments)["w"] - arguments["parent"]["w"]
        return found * chosen.cohort / grid_step(chosen)

    assert abs(noise_of(given) - noise_of({**given, **changed})).max() > 1 << 20


@pytest.mark.parametrize("seed", ["zz", "abcd", "ab" * 31])
def test_a_seed_is_64_hexadecimal_digits(seed: str) -> None:
    """A shorter one is refused."""
    with pytest.raises(RuleError, match=r"hexadecimal|32 bytes"):
        aggregate(
            "unweighted_mean",
            [np.ones(3)],
            parent=np.ones(3),
            differential_privacy=SETTINGS,
            seed=seed,
        )


@pytest.mark.parametrize(
    "rule",
    [
        build_rule("weighted_mean"),
        build_rule("coordinate_median"),
        build_rule("norm_clipped_mean", {"max_norm": 1.0}),
        build_rule("krum", {"f": 1}, ["nnm(f=1)"]),
    ],
)
def test_another_rule_is_refused(rule: Any) -> None:
    """The message says which rule is accepted."""
    with pytest.raises(RuleError, match="needs the rule unweighted_mean without steps before it"):
        private_mean(rule, settings(), DEFAULT)


@pytest.mark.parametrize("policy", ["average", "max"])
def test_a_policy_that_releases_without_noise_is_refused(policy: str) -> None:
    """It is refused when the model is saved, and the message names the glob and what is accepted."""
    with pytest.raises(RuleError, match=f"policy {policy}, 'x.*' .*takes optimize, keep, exclude"):
        private_mean(RULE, settings(), TensorPolicies.from_list([["x*", policy]]))


@pytest.mark.parametrize(
    ("tensors", "pairs", "message"),
    [
        (
            {"bn.running_mean": np.zeros(2), "w": np.zeros(2)},
            [],
            "policy average, 'bn.running_mean'",
        ),
        ({"n": np.zeros(2, int), "w": np.zeros(2)}, [["*", "optimize"]], "'n' holds int64"),
        ({"w": np.zeros(2)}, [["*", "keep"]], "needs 1 to .* optimized elements; there are 0"),
    ],
)
def test_tensors_without_noise_are_refused(tensors: Any, pairs: Any, message: str) -> None:
    """Default policies and integers are seen once the layout is known."""
    policies = TensorPolicies.from_list(pairs)
    layout = weights_in_memory(tensors).layout
    with pytest.raises(RuleError, match=message):
        check_tensors(PolicyMap(layout, policies))
    with pytest.raises(RuleError, match=message):
        combined([tensors], tensors, settings(), policies=policies)


def test_optimized_elements_are_those_with_noise() -> None:
    """Integers and kept tensors do not count."""
    tensors = {"w": np.zeros((3, 4)), "n": np.zeros(5, int), "kept": np.zeros(7)}
    policies = TensorPolicies.from_list([["kept", "keep"]])
    assert optimized_elements(PolicyMap(weights_in_memory(tensors).layout, policies)) == 12


def test_a_discount_for_late_updates_is_refused() -> None:
    """By the model's settings, and by the engine if one is given nevertheless."""
    with pytest.raises(RuleError, match="leave staleness empty"):
        private_mean(RULE, settings(), DEFAULT, discounts=True)
    with pytest.raises(RuleError, match="no discounts"):
        combined([{"w": np.ones(3)}], {"w": np.ones(3)}, settings(), discounts=[0.5])


def test_a_round_above_max_epsilon_is_refused_before_it_starts() -> None:
    """Settings of which no round is possible are an error."""
    with pytest.raises(RuleError, match="choose a larger noise_multiplier"):
        private_mean(RULE, settings(noise_multiplier=0.3), DEFAULT)


def test_a_private_round_needs_a_parent_and_its_noise() -> None:
    """Without a parent there is no difference, and without a seed no result."""
    with pytest.raises(RuleError, match="needs a parent"):
        aggregate("unweighted_mean", [np.ones(3)], differential_privacy=SETTINGS)
    rule = private_mean(RULE, settings(), DEFAULT)
    weights = weights_in_memory(np.ones(3))
    work = Combination(rule=rule, updates=[weights], num_examples=[1], parent=weights)
    with pytest.raises(RuleError, match="seed is needed"):
        combine(work, MemorySink(), format="memory")


def test_too_many_updates_for_an_exact_sum_are_refused() -> None:
    """The sum of the integers must fit into the 53 bits of a float64."""
    rule = private_mean(RULE, settings(noise_multiplier=0.6, max_epsilon=50.0), DEFAULT)
    n = 1_000_000_000
    squares = np.broadcast_to(np.float64(1.0), (n,))
    with pytest.raises(RuleError, match="is exact with a noise_multiplier of"):
        rule.select(Statistics(squares, squares=squares))


def test_a_rule_without_its_noise_survives_json() -> None:
    """A plan holds the settings; the seed is not in it."""
    rule = private_mean(RULE, settings(), DEFAULT).with_noise(noise("round"))
    saved = json.loads(json.dumps(rule_to_json(rule)))
    found: Any = rule_from_json(saved)
    assert found == replace(rule, noise=None) == rule
    assert found.noise is None
