"""Which models can be private."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import override_settings

from aggregation.privacy.accounting import epsilon
from models_app.models import FederatedModel
from models_app.privacy import UNIT, epsilon_of_rounds, least_noise, units_of
from tests.private_models import PRIVACY, key_file


@pytest.fixture(autouse=True)
def key(tmp_path: Path) -> Iterator[str]:
    """The key of the seeds."""
    with key_file(tmp_path) as path:
        yield path


def model(**fields: Any) -> FederatedModel:
    values = {"aggregator": "unweighted_mean", "differential_privacy": PRIVACY, **fields}
    return FederatedModel(name="private", **values)


def test_a_private_mean_is_valid() -> None:
    """The unweighted mean with an optimizer and kept or excluded tensors can be private."""
    model(
        server_optimizer="fedadam",
        requirement="all_clients",
        tensor_policies=[["head.*", "keep"], ["embedding.*", "exclude"], ["*", "optimize"]],
    ).clean()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"aggregator": "weighted_mean"}, "needs the rule unweighted_mean"),
        ({"aggregator": "coordinate_median"}, "needs the rule unweighted_mean"),
        ({"pre_aggregation": ["arc(f=1)"]}, "without steps before it"),
        ({"staleness": "polynomial", "furthest_base_agg": 3}, "staleness"),
        ({"differential_privacy": {**PRIVACY, "max_epsilon": 4.0}}, "one round has an epsilon"),
        ({"tensor_policies": [["bn.*", "average"]]}, "without noise"),
        ({"tensor_policies": [["bn.*", "max"]]}, "without noise"),
        ({"differential_privacy": {}}, "empty object"),
        ({"differential_privacy": {"clip_norm": 1.0}}, "noise_multiplier"),
        ({"differential_privacy": {**PRIVACY, "delta": 2}}, "delta"),
        ({"differential_privacy": {**PRIVACY, "epsilon": 2}}, "epsilon"),
        ({"differential_privacy": "strong"}, "differential_privacy"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], reason: str) -> None:
    """Settings under which the guarantee would not hold are refused with the reason."""
    with pytest.raises(ValidationError) as refused:
        model(**fields).clean()
    assert reason in str(refused.value.message_dict["differential_privacy"])


def test_a_private_model_needs_a_key() -> None:
    """Without PRIVACY_KEY no seed could be encrypted."""
    with (
        override_settings(PRIVACY_KEY=""),
        pytest.raises(ValidationError, match="PRIVACY_KEY is not set"),
    ):
        model().clean()


def test_units_round_up_and_add_exactly() -> None:
    """A charge in units is never below the charge, nor above it by more than a unit."""
    for charge in (1e-6, 0.1, 1.0, 1 / 3, 1e4):
        assert charge <= units_of(charge) * UNIT <= charge + UNIT


def test_the_least_noise_meets_the_epsilon() -> None:
    """The noise multiplier for an epsilon meets it, and a smaller one does not."""
    for wanted, rounds in ((0.5, 1), (8.0, 100), (2.0, 1000)):
        found = least_noise(wanted, 1e-5, rounds)
        assert found is not None
        enough, too_little = (
            epsilon_of_rounds(each, 1e-5, rounds) for each in (found, found - 1e-4)
        )
        assert enough is not None
        assert too_little is not None
        assert enough <= wanted + 1e-6 < too_little + 1e-3
        assert epsilon(rounds / found**2, 1e-5) <= wanted
    assert least_noise(0.001, 1e-12, 10**6) is None
