"""The option of `create_model` and `set_model` for secure aggregation."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError

from connectors.management.policy_options import NONE
from models_app.models import FederatedModel


def add_secure_options(parser: ArgumentParser, *, changing: bool) -> None:
    """Add the option; if it changes an existing model, `NONE` switches secure aggregation off."""
    parser.add_argument(
        "--secure-aggregation",
        action="append",
        metavar="NAME=VALUE",
        help="clients mask their updates, and only their sum is revealed: keeper (the public key of the "
        "mask keeper), queue (the URL of its queue), clip_norm, scale, min_cohort, max_cohort and "
        f"valid_days, each given as NAME=VALUE{f'; {NONE!r} switches it off' if changing else ''}",
    )


def secure_changes(options: Mapping[str, Any], model: FederatedModel | None) -> dict[str, Any]:
    """Return the field that the given option sets, with its value; values that are not given stay.

    Raises
    ------
    CommandError
        If a value is not given as NAME=VALUE.
    """
    given = options["secure_aggregation"]
    if given is None:
        return {}
    if given == [NONE]:
        return {"secure_aggregation": {}}
    found = dict(model.secure_aggregation) if model else {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise CommandError(f"--secure-aggregation is given as NAME=VALUE; got {each!r}")
        try:  # A key may consist of digits only.
            found[name] = value if name in ("keeper", "queue") else json.loads(value)
        except ValueError as error:
            raise CommandError(f"--secure-aggregation: {name} is no number: {value!r}") from error
    return {"secure_aggregation": found}
