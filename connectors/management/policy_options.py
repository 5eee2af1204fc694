"""The options of `create_model` and `set_model` for the policies of tensors."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError

from aggregation.policies import CHOICES
from models_app.models import FederatedModel

#: What an option is given to remove its value.
NONE = "none"


def add_policy_options(parser: ArgumentParser, *, changing: bool) -> None:
    """Add the options; if they change an existing model, `NONE` removes what there is."""
    removed = f"; {NONE!r} removes all" if changing else ""
    parser.add_argument(
        "--tensor-policy",
        action="append",
        metavar="GLOB=POLICY",
        help="what a round does with the tensors whose names match: "
        f"{', '.join(CHOICES)}; may be repeated, the first match counts{removed}",
    )
    for option, numbers in (("--freeze-odd", "an odd"), ("--freeze-even", "an even")):
        parser.add_argument(
            option,
            action="append",
            metavar="GLOB",
            help=f"tensors that a round leaves as they are if its parent has {numbers} number; may be "
            f"repeated; the initial weights have number 0{removed}",
        )


def policy_changes(options: Mapping[str, Any], model: FederatedModel | None) -> dict[str, Any]:
    """Return the fields that the given options set, with their values.

    Raises
    ------
    CommandError
        If a policy is not given as GLOB=POLICY.
    """
    changes: dict[str, Any] = {}
    given = options["tensor_policy"]
    if given is not None:
        changes["tensor_policies"] = [_pair(each) for each in _list(given)]
    schedule = dict(model.freeze) if model else {}
    for numbers in ("odd", "even"):
        globs = options[f"freeze_{numbers}"]
        if globs is not None:
            changes["freeze"] = schedule = {**schedule, numbers: _list(globs)}
    return changes


def _list(given: list[str]) -> list[str]:
    return [] if given == [NONE] else given


def _pair(text: str) -> list[str]:
    glob, equals, policy = text.rpartition("=")
    if not equals:
        raise CommandError(f"a tensor policy is given as GLOB=POLICY; got {text!r}")
    return [glob, policy]
