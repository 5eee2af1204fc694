"""The robust rules and steps, compared with the ByzFL library.

ByzFL needs torch, so that it runs in the interpreter that ORACLES_PYTHON names. Its Krum sums the squared
distances to the n - f - 1 closest neighbours; Blanchard et al. and this project take n - f - 2. The vectors
are such that both choose the same updates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aggregation
from aggregation.pre_aggregation import PreAggregatedRule, build_rule
from aggregation.rules import Statistics
from tests.examples.byzfl_rules import F
from tests.examples.oracles import result_of


@pytest.fixture(scope="module")
def vectors() -> Any:
    """Nine honest differences and two hostile ones, whose distances from the others differ clearly."""
    rng = np.random.default_rng(11)
    honest = rng.normal(size=(9, 6)) * np.linspace(0.2, 1.0, 9)[:, None]
    return np.concatenate([honest, 5.0 + rng.normal(size=(2, 6))])


@pytest.fixture(scope="module")
def theirs(vectors: Any) -> dict[str, Any]:
    """What ByzFL makes of them."""
    found: dict[str, Any] = result_of("byzfl_rules", vectors.tolist())
    return found


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        ("coordinate_median", {}),
        ("trimmed_mean", {"f": F}),
        ("krum", {"f": F}),
        ("multi_krum", {"f": F}),
        ("centered_clipping", {"tau": 2.0, "iterations": 3}),
    ],
)
def test_a_rule_agrees_with_byzfl(
    vectors: Any, theirs: dict[str, Any], rule: str, arguments: dict[str, Any]
) -> None:
    """The results are the same to the last digits of float64."""
    parent = [np.zeros(6)]
    ours = aggregation.aggregate(rule, [[row] for row in vectors], None, parent, **arguments)[0]
    np.testing.assert_allclose(ours, np.ravel(theirs[rule]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", ["nnm", "arc"])
def test_a_step_agrees_with_byzfl(vectors: Any, theirs: dict[str, Any], step: str) -> None:
    """The rows are the same to the last digits of float64."""
    rule = build_rule("coordinate_median", {}, [f"{step}(f={F})"])
    assert isinstance(rule, PreAggregatedRule)
    mixture, _ = rule.mix(Statistics(np.ones(len(vectors)), gram=vectors @ vectors.T))
    np.testing.assert_allclose(mixture.rows(vectors, None), theirs[step], rtol=1e-9, atol=1e-9)
