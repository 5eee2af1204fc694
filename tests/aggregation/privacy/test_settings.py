"""The settings of differential privacy."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from aggregation.errors import RuleError
from aggregation.privacy.settings import create_differential_privacy
from tests.aggregation.privacy.privacy_tools import SETTINGS, settings


def test_settings_survive_json() -> None:
    """What `to_json` gives creates equal settings."""
    saved = json.loads(json.dumps(settings().to_json()))
    assert create_differential_privacy(saved) == settings()


@pytest.mark.parametrize("arguments", [None, {}])
def test_a_model_without_arguments_has_none(arguments: Any) -> None:
    """An empty field of a model means no differential privacy."""
    assert create_differential_privacy(arguments) is None


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("clip_norm", 0),
        ("clip_norm", math.nan),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", "1"),
        ("cohort", 0),
        ("cohort", 2.5),
        ("cohort", 2**31 + 1),
        ("delta", 0.5),
        ("delta", 0),
        ("max_epsilon", 51),
        ("max_epsilon", 0),
        ("max_epsilon", True),
    ],
)
def test_an_argument_out_of_range_is_named(argument: str, value: Any) -> None:
    """The message names the argument, what is expected, and what was found."""
    with pytest.raises(RuleError, match=f"differential_privacy: {argument} must be .*got"):
        create_differential_privacy(SETTINGS | {argument: value})


def test_arguments_are_complete_and_known() -> None:
    """A missing or unknown argument is refused, with the names of all."""
    missing = {name: value for name, value in SETTINGS.items() if name != "delta"}
    for arguments in (missing, SETTINGS | {"epsilon": 3.0}):
        with pytest.raises(RuleError, match="takes the arguments clip_norm, noise_multiplier"):
            create_differential_privacy(arguments)
