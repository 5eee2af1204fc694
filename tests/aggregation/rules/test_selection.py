"""Selections and mixtures: their JSON, and sums in a fixed order."""

from __future__ import annotations

import json

import numpy as np

from aggregation.pre_aggregation import build_rule, rule_from_json, rule_to_json
from aggregation.rules import Selection, Statistics
from aggregation.rules.selection import ordered_product
from tests.aggregation.engine.engine_tools import SEED


def test_a_selection_of_mixed_rows_survives_json() -> None:
    """What a checkpoint holds gives the same members, coefficients and mixture."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(11, 30))
    rule = build_rule("bulyan", {"f": 1}, ["arc(f=1)", "nnm(f=1)"])
    made = rule.select(Statistics(np.ones(11), gram=rows @ rows.T))
    read = Selection.from_json(json.loads(json.dumps(made.to_json())))
    assert made.mixture is not None
    assert read == made
    assert len({read, made}) == 1


def test_a_rule_with_steps_survives_json() -> None:
    """The plan of a distributed round gives the same rule, with the steps before it and the seed."""
    for rule in (
        build_rule("trimmed_mean", {"f": 2}),
        build_rule("krum", {"f": 2}, ["arc(f=2)", "bucketing(s=2)"], SEED),
    ):
        assert rule_from_json(json.loads(json.dumps(rule_to_json(rule)))) == rule


def test_products_are_summed_in_order() -> None:
    """A product is that of numpy, to rounding, and the same bits whatever other rows are computed."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 30)), rng.normal(size=(30, 50))
    product = ordered_product(a, b)
    np.testing.assert_allclose(product, a @ b, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(ordered_product(a[3:5], b[:, 7:]), product[3:5, 7:])


def test_each_update_has_its_share() -> None:
    """Updates that are left out have 0, and the bases of late updates are no updates."""
    selection = Selection(members=(0, 2, 3), coefficients=(1.0, 3.0, -4.0), total=8.0)
    assert selection.scaling_factors(3) == [0.125, 0.0, 0.375]
