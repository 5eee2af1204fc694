"""`--secure-aggregation` of `create_model` and `set_model`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.management import CommandError

from models_app.models import FederatedModel
from tests.factories import filled, make_model

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]

#: Digits only: it must not become a number.
KEY = "12" * 32
QUEUE = "https://sqs.eu-central-1.amazonaws.com/210987654321/keeper-requests"


def option(*values: str) -> list[str]:
    """Return the option with each of the values."""
    return [part for value in values for part in ("--secure-aggregation", value)]


@pytest.fixture
def model() -> FederatedModel:
    """A model whose updates may be masked."""
    return make_model(
        3, initial=filled(0.0), update_kind="differences", aggregator="unweighted_mean"
    )


def test_settings_are_given_changed_and_removed(
    run_command: RunCommand, model: FederatedModel
) -> None:
    """Values that are not given stay, and `none` switches secure aggregation off."""
    run_command(
        "set_model", model.name, *option(f"keeper={KEY}", f"queue={QUEUE}", "clip_norm=2.5")
    )
    model.refresh_from_db()
    assert model.secure_aggregation == {"keeper": KEY, "queue": QUEUE, "clip_norm": 2.5}
    run_command("set_model", model.name, *option("min_cohort=7"))
    model.refresh_from_db()
    assert model.secure_aggregation["min_cohort"] == 7
    assert model.secure_aggregation["clip_norm"] == 2.5
    run_command("set_model", model.name, *option("none"))
    model.refresh_from_db()
    assert model.secure_aggregation == {}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["keeper"], "--secure-aggregation must be NAME=VALUE"),
        (
            [f"keeper={KEY}", f"queue={QUEUE}", "clip_norm=much"],
            "--secure-aggregation: clip_norm is 'much', expected a positive number",
        ),
        (["clip_norm=1", "clip_norm=2"], "--secure-aggregation: 'clip_norm' is given twice"),
        (["clip_norm=1"], "needs keeper and clip_norm"),
        ([f"keeper={KEY}", f"queue={QUEUE}", "clip_norm=1", "colour=2"], "knows"),
        ([f"keeper={KEY}", "queue=keeper", "clip_norm=1"], "queue must be a URL"),
    ],
)
def test_what_does_not_fit_is_refused(
    run_command: RunCommand, model: FederatedModel, values: list[str], why: str
) -> None:
    """The message names the option and the value."""
    with pytest.raises(CommandError, match=why):
        run_command("set_model", model.name, *option(*values))
