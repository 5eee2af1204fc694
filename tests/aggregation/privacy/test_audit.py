"""An auditor, who knows everything but the noise, looks for a canary in a thousand small rounds.

Steinke, Nasr and Jagielski, *Privacy Auditing with One (1) Training Run*, 2023, and Nasr et al., *Tight
Auditing of Differentially Private Machine Learning*, USENIX Security 2023, section 5: what a test of the
hypothesis "the canary took part" finds bounds the privacy from below, with a stated confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aggregation.engine import Combination, Resources, combine
from aggregation.engine.output import MemorySink
from aggregation.in_memory import arrays_of, weights_in_memory
from aggregation.policies import DEFAULT
from aggregation.pre_aggregation import build_rule
from aggregation.privacy.accounting import charge, epsilon
from aggregation.privacy.discrete_gaussian import Int64s
from aggregation.privacy.noise import Noise
from aggregation.privacy.rule import PrivateMean, private_mean
from aggregation.rules import Selection, Statistics
from tests.aggregation.privacy.privacy_tools import noise, settings

SETTINGS = settings(noise_multiplier=0.5, cohort=4, max_epsilon=50.0)
ROUNDS = 1000
ELEMENTS = 24

#: The auditor is wrong about each of two rates with this probability.
CHANCE = 1e-3

#: The direction of the canary, which is far longer than the clip norm, and the other clients' differences.
DIRECTION = np.ones(ELEMENTS) / math.sqrt(ELEMENTS)
OTHERS = [np.random.default_rng(client).normal(scale=0.1, size=ELEMENTS) for client in range(3)]
PARENT = np.linspace(-1.0, 1.0, ELEMENTS)

Rule = Callable[[Noise], PrivateMean]


def honest(drawn: Noise) -> PrivateMean:
    return private_mean(build_rule("unweighted_mean"), SETTINGS, DEFAULT).with_noise(drawn)


class _HalvedNoise:
    def __init__(self, drawn: Noise) -> None:
        self._drawn = drawn

    def integers(self, first_element: int, count: int) -> Int64s:
        return self._drawn.integers(first_element, count) // 2


def with_halved_noise(drawn: Noise) -> PrivateMean:
    halved: Any = _HalvedNoise(drawn)
    return honest(halved)


class _Unclipped(PrivateMean):
    def select(self, statistics: Statistics) -> Selection:
        selection, _ = self.published(super().select(statistics), None)
        return selection


def without_clipping(drawn: Noise) -> PrivateMean:
    return _Unclipped(SETTINGS, drawn)


def released(rule: Rule, name: str, *, canary: bool) -> float:
    """Return how far a round's aggregate moved in the canary's direction, in units of the clip norm."""
    differences = [*OTHERS, 1.5 * DIRECTION] if canary else OTHERS
    work = Combination(
        rule=rule(noise(name)),
        updates=[weights_in_memory({"w": PARENT + each}) for each in differences],
        num_examples=[1] * len(differences),
        parent=weights_in_memory({"w": PARENT}),
    )
    sink = MemorySink()
    combine(work, sink, format="memory", resources=Resources(readers=1, workers=1))
    moved = arrays_of(sink.data, work.layout)["w"] - PARENT
    return float(moved @ DIRECTION) * SETTINGS.cohort / SETTINGS.clip_norm


@cache
def mu_found(rule: Rule) -> tuple[float, float]:
    """Return lower bounds of mu and of epsilon; each is wrong with a probability of twice `CHANCE`."""
    half = ROUNDS // 2
    without = [released(rule, f"{number} without", canary=False) for number in range(half)]
    with_it = [released(rule, f"{number} with", canary=True) for number in range(half)]
    middle = float(np.mean([each @ DIRECTION for each in OTHERS])) * len(OTHERS) + 0.5
    false_alarms = at_most(sum(each > middle for each in without), half)
    misses = at_most(sum(each <= middle for each in with_it), half)
    mu = float(stats.norm.isf(false_alarms) - stats.norm.ppf(misses))
    return mu, math.log(max(1.0, (1.0 - SETTINGS.delta - misses) / false_alarms))


def at_most(count: int, of: int) -> float:
    """Return the bound of Clopper and Pearson for a rate."""
    return float(stats.beta.ppf(1.0 - CHANCE, count + 1, of - count))


def test_a_canary_never_shows_more_than_the_account_allows() -> None:
    """Neither mu nor epsilon exceeds the account of one round, and both are found to be large."""
    mu, at_least = mu_found(honest)
    charged = charge(SETTINGS, ELEMENTS)
    assert 0.6 * math.sqrt(charged) < mu <= math.sqrt(charged)
    assert 1.0 < at_least <= epsilon(charged, SETTINGS.delta)


@pytest.mark.parametrize("faulty", [with_halved_noise, without_clipping])
def test_the_auditor_finds_a_faulty_implementation(faulty: Rule) -> None:
    """Half of the noise, or no clipping of a canary that is 1.5 times as long, exceeds the account."""
    mu, _ = mu_found(faulty)
    assert mu > math.sqrt(charge(SETTINGS, ELEMENTS))
