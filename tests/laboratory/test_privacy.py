"""Simulations with differential privacy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregation.model_settings import ModelSettings
from aggregation.privacy.accounting import charge, epsilon
from aggregation.privacy.settings import DifferentialPrivacy
from laboratory import BadArgument, History, simulate

PRIVACY: dict[str, Any] = {
    "clip_norm": 2.0,
    "noise_multiplier": 1.5,
    "cohort": 5,
    "delta": 1e-5,
    "max_epsilon": 5.0,
}

SIZE = 4000


def run(**options: Any) -> History:
    """Simulate clients that move each of the weights by their number."""
    return simulate(
        lambda model, step, rng: {"w": model["w"] + step},
        [0.0, 0.01, 0.02, 1.0],
        initial={"w": np.zeros(SIZE)},
        **{
            "rounds": 1,
            "seed": 1,
            "rule": "unweighted_mean",
            "differential_privacy": PRIVACY,
            **options,
        },
    )


def test_differences_are_clipped_and_noise_is_added() -> None:
    """The aggregate is the clipped sum over the cohort, with noise of the stated deviation."""
    weights = run().weights["w"]
    lengths = np.array([0.0, 0.01, 0.02, 1.0]) * SIZE**0.5
    clipped = np.minimum(lengths, PRIVACY["clip_norm"]).sum() / SIZE**0.5 / PRIVACY["cohort"]
    deviation = PRIVACY["noise_multiplier"] * PRIVACY["clip_norm"] / PRIVACY["cohort"]
    assert weights.std() == pytest.approx(deviation, rel=0.05)
    assert weights.mean() == pytest.approx(clipped, abs=5 * deviation / SIZE**0.5)


def test_noise_follows_from_the_seed() -> None:
    """The same seed repeats the noise; another seed gives other noise."""
    first, again, other = run(), run(), run(seed=2)
    np.testing.assert_array_equal(first.weights["w"], again.weights["w"])
    assert (first.weights["w"] != other.weights["w"]).mean() > 0.99


def test_rounds_stop_when_the_budget_is_spent() -> None:
    """The history has the epsilon of all rounds so far; a round that would exceed the limit is not made."""
    history = run(rounds=6)
    private = DifferentialPrivacy(**PRIVACY)
    allowed = [n for n in range(1, 7) if epsilon(n * charge(private, 1), 1e-5) <= 5.0]
    assert 1 <= len(allowed) < 6
    expected = [epsilon(n * charge(private, 1), 1e-5) for n in allowed]
    assert [each.epsilon for each in history.rounds[: len(allowed)]] == expected
    for each in history.rounds[len(allowed) :]:
        assert (each.status, each.epsilon) == ("paused", expected[-1])
        assert "and max_epsilon is 5" in each.reason
    assert history.to_dataframe(by="rounds")["epsilon"].iloc[-1] == expected[-1]


def test_the_settings_are_kept(tmp_path: Path) -> None:
    """The document for `create_model --from` has the settings of differential privacy."""
    path = tmp_path / "simulation.json"
    history = run()
    history.save_settings(path)
    document = json.loads(path.read_text())
    assert document["federated_model"]["differential_privacy"] == PRIVACY
    assert ModelSettings.from_json(document) == history.settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "weighted_mean"}, "differential privacy needs the rule unweighted_mean"),
        ({"differential_privacy": {}}, "differential_privacy is empty"),
        ({"differential_privacy": {"clip_norm": 1.0}}, "missing a required"),
        ({"differential_privacy": PRIVACY | {"max_epsilon": 0.1}}, "one round has an epsilon of"),
        ({"initial": None}, "unweighted_mean needs a parent to start from"),
    ],
)
def test_what_would_not_be_private_is_refused(options: dict[str, Any], message: str) -> None:
    """The message says what differential privacy needs."""
    with pytest.raises(BadArgument, match=message):
        simulate(
            lambda model, step, rng: model,
            [1.0],
            **{
                "initial": {"w": np.zeros(3)},
                "rounds": 1,
                "seed": 1,
                "rule": "unweighted_mean",
                "differential_privacy": PRIVACY,
                **options,
            },
        )
