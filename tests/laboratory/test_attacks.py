"""The attacks keep within the limits that their papers state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregation
from laboratory.attacks import ATTACKS, Scene, inside_the_threshold, min_max, min_sum


def a_scene(seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    honest = rng.normal(0.2, 1, size=(8, 30)) * rng.uniform(0.5, 2, size=(8, 1))
    return Scene(honest=honest, own=rng.normal(size=(2, 30)), poisoned=rng.normal(size=(2, 30)))


def squared_distances(row: Any, rows: Any) -> Any:
    return np.square(row - rows).sum(axis=1)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_min_max_and_min_sum_hide_among_honest_updates(seed: int) -> None:
    """The hostile update is no further from the honest ones than these are from each other."""
    scene = a_scene(seed)
    between = np.array([squared_distances(row, scene.honest) for row in scene.honest])
    for attack, measure in ((min_max, np.max), (min_sum, np.sum)):
        found, _ = attack(scene)
        limit = measure(between, axis=1).max()
        assert measure(squared_distances(found, scene.honest)) == pytest.approx(limit, rel=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_an_update_inside_the_threshold_is_not_filtered(seed: int) -> None:
    """`norm_filtered_mean` selects the hostile updates, which point against the honest mean."""
    scene = a_scene(seed)
    hostile = inside_the_threshold(scene)
    assert (hostile @ scene.mean < 0).all()
    updates = [[row] for row in (*scene.honest, *hostile)]
    parent = [np.zeros(30)]
    _, info = aggregation.aggregate("norm_filtered_mean", updates, None, parent, return_info=True)
    assert {8, 9} <= set(info.selected)


def test_every_attack_makes_an_update_for_each_hostile_client() -> None:
    """The shapes are those of the hostile clients' own updates, and all values are finite."""
    for attack in ATTACKS.values():
        found = attack(a_scene(0))
        assert found.shape == (2, 30)
        assert np.isfinite(found).all()
