"""The benchmark that learns with differential privacy."""

from __future__ import annotations

import numpy as np
import pytest

from aggregation.privacy.accounting import rounds_left
from benchmarks.learning.network import PARAMETERS
from benchmarks.learning.private import (
    BAR,
    EPSILONS,
    JUDGED,
    ROUNDS,
    is_met,
    page,
    settings_for,
)


@pytest.mark.parametrize("target", [each for each in EPSILONS if np.isfinite(each)])
def test_the_rounds_spend_the_epsilon(target: float) -> None:
    """The settings permit as many rounds as are trained, and no more."""
    assert rounds_left(settings_for(target), PARAMETERS) == ROUNDS


def test_the_page_and_the_bar_are_of_the_mean_at_the_judged_epsilon() -> None:
    """Accuracies at other epsilons do not count."""
    accuracy = np.full((2, len(EPSILONS)), 0.1)
    accuracy[:, EPSILONS.index(JUDGED)] = (BAR / 100 - 0.02, BAR / 100 + 0.02)
    assert is_met(accuracy)
    assert not is_met(accuracy - 0.001)
    assert f"| 8 | {settings_for(8.0).noise_multiplier:.2f} | {BAR:.1f} ± 2.0 |" in page(
        accuracy, 60.0
    )
