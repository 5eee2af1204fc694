"""The options of `create_model` and `set_model` for differential privacy and secure aggregation."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from connectors.management.arguments import named_values
from connectors.management.policy_options import NONE
from models_app.models import FederatedModel

#: The settings of secure aggregation that are text.
TEXT = ("keeper", "queue")


def add_privacy_options(parser: ArgumentParser, *, changing: bool) -> None:
    """Add the options; if they change an existing model, `NONE` removes what there is."""
    removed = f"; {NONE!r} removes it" if changing else ""
    for option, meaning in (
        (
            "--differential-privacy",
            "noise in each aggregate: clip_norm=X noise_multiplier=X cohort=N delta=X max_epsilon=X; "
            "manage.py estimate_privacy finds the numbers",
        ),
        (
            "--secure-aggregation",
            "clients mask their updates, and only their sum is revealed: keeper (the public key of the "
            "mask keeper), queue (the URL of its queue), clip_norm, scale, min_cohort, max_cohort and "
            "valid_days, each given as NAME=VALUE",
        ),
    ):
        parser.add_argument(
            option, action="extend", nargs="+", metavar="NAME=VALUE", help=meaning + removed
        )


def privacy_changes(options: Mapping[str, Any], model: FederatedModel | None) -> dict[str, Any]:
    """Return the fields that the given options set, with their values; values that are not given stay.

    Raises
    ------
    CommandError
        If a value is not given as NAME=VALUE.
    """
    changes: dict[str, Any] = {}
    for option, field, removed in (
        ("--differential-privacy", "differential_privacy", None),
        ("--secure-aggregation", "secure_aggregation", {}),
    ):
        given = options[field]
        if given is None:
            continue
        if model and given == [NONE]:
            changes[field] = removed
        else:
            current = (getattr(model, field) if model else None) or {}
            changes[field] = {**current, **named_values(option, given, TEXT)}
    return changes
