"""The options of `create_model` and `set_model`, and the fields of a model that they set."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from aggregation.optimizers import known_optimizers
from aggregation.pre_aggregation import known_pre_aggregations
from aggregation.requirements import known_requirements
from aggregation.rules import known_rules
from aggregation.staleness import known_discounts
from connectors.management.amounts import positive_number
from connectors.management.arguments import named_values
from connectors.management.files import FILE_OR_OBJECT, read_input
from connectors.management.policy_options import NONE, add_policy_options, policy_changes
from connectors.management.privacy_options import add_privacy_options, privacy_changes
from models_app.defaults import NEW_MODEL
from models_app.models import FederatedModel
from models_app.schemas import compile_schema

#: Options that are named differently from the field that they set.
OPTION_NAMES = {
    "name": "name",
    "aggregator": "--rule",
    "aggregator_args": "--rule-arg",
    "server_optimizer": "--optimizer",
    "server_optimizer_args": "--optimizer-arg",
    "requirement_args": "--requirement-arg",
    "furthest_base_agg": "--furthest-base",
    "staleness_args": "--staleness-arg",
    "tensor_policies": "--tensor-policy",
    "freeze": "--freeze-odd and --freeze-even",
    "client_agg_results_schema": "--score-schema",
}


def add_model_options(parser: ArgumentParser, *, changing: bool) -> None:
    """Add the options for a model's settings.

    Parameters
    ----------
    parser : ArgumentParser
    changing : bool
        Whether they change an existing model: then no option has a default, and `NONE` removes a value.
    """
    _add_round_options(parser, changing=changing)
    add_policy_options(parser, changing=changing)
    add_privacy_options(parser, changing=changing)
    _add_limit_options(parser, changing=changing)
    _add_score_options(parser, changing=changing)
    parser.add_argument(
        "--developer",
        metavar="USERNAME",
        help=f"who sees the model in the console{_or_none(changing)}",
    )
    parser.add_argument(
        "--update-schema",
        metavar="FILE",
        help="a JSON schema that is stored for workflows that ask for it; rounds do not use it"
        + _or_none(changing),
    )


def _or_none(changing: bool) -> str:
    return f"; {NONE!r} removes it" if changing else ""


def _add_round_options(parser: ArgumentParser, *, changing: bool) -> None:
    requirements = [*known_requirements(), "'' for any update"]
    discounts = [*known_discounts(), "'' to count late updates like any other"]
    for option, field, known in (
        ("--rule", "aggregator", sorted(known_rules())),
        ("--optimizer", "server_optimizer", list(known_optimizers())),
        ("--requirement", "requirement", requirements),
        ("--staleness", "staleness", discounts),
    ):
        default = f" (default: {NEW_MODEL.get(field, repr(''))})"
        parser.add_argument(
            option,
            metavar="NAME",
            help=f"one of {', '.join(known)}" + ("" if changing else default),
        )
    parser.add_argument(
        "--pre-aggregation",
        action="append",
        metavar="'NAME(F=N)'",
        help="a step before the rule, such as 'nnm(f=2)'; may be repeated. One of "
        + ", ".join(known_pre_aggregations())
        + _or_none(changing),
    )
    for option in ("--rule-arg", "--optimizer-arg", "--requirement-arg", "--staleness-arg"):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an argument by name; may be repeated",
        )


def _add_limit_options(parser: ArgumentParser, *, changing: bool) -> None:
    for option, meaning in (
        (
            "--furthest-base",
            "an update may be based on one of the N latest aggregates; without it, on any",
        ),
        (
            "--max-num-examples",
            "an update counts at most N examples; without it, a multiple of the median of its round",
        ),
        (
            "--max-functions",
            "functions that may share a round; without it, as many as the deployment allows",
        ),
    ):
        parser.add_argument(
            option,
            type=_optional(int, changing),
            metavar="N",
            help=meaning + _or_none(changing),
        )

    parser.add_argument(
        "--target-round-seconds",
        type=positive_number(86_400),
        metavar="X",
        help="how long the reading of a round should take, if several functions may share it "
        "(default of a new model: 30)",
    )


def _add_score_options(parser: ArgumentParser, *, changing: bool) -> None:
    parser.add_argument(
        "--score-metric",
        default=None if changing else "",
        metavar="NAME",
        help="the number, among those that clients report, that is an aggregate's score"
        + ("; '' for none" if changing else ""),
    )
    parser.add_argument(
        "--lower-is-better",
        action=BooleanOptionalAction if changing else "store_true",
        default=None if changing else False,
        help="the score is a loss",
    )
    parser.add_argument(
        "--max-score-drop",
        type=_optional(float, changing),
        metavar="X",
        help="do not publish an aggregate that scores worse than its parent by more than X"
        + _or_none(changing),
    )
    parser.add_argument(
        "--score-schema",
        metavar="FILE",
        help=f"a JSON schema that scores must match: {FILE_OR_OBJECT}" + _or_none(changing),
    )


def _optional(parse: Callable[[str], Any], changing: bool) -> Callable[[str], Any]:
    """Return a type for argparse that also accepts `NONE`, if a value may be removed."""

    def parse_optional(text: str) -> Any:
        if changing and text == NONE:
            return NONE
        try:
            return parse(text)
        except ValueError:
            noun = "whole number" if parse is int else "number"
            raise ArgumentTypeError(f"expected a {noun}; got {text!r}") from None

    return parse_optional


def model_changes(options: Mapping[str, Any], model: FederatedModel | None) -> dict[str, Any]:
    """Return the fields that the given options set, with their values.

    Parameters
    ----------
    options : mapping
        What argparse parsed.
    model : FederatedModel or None
        The model that is changed: arguments of its rule that are not given stay, unless the rule
        changes.

    Raises
    ------
    CommandError
        If an option's value cannot be used.
    """
    changes: dict[str, Any] = {}
    changes |= _rule_changes("aggregator", options["rule"], options["rule_arg"], model)
    changes |= _rule_changes(
        "server_optimizer", options["optimizer"], options["optimizer_arg"], model
    )
    if options["pre_aggregation"] is not None:
        steps = options["pre_aggregation"]
        changes["pre_aggregation"] = [] if model and steps == [NONE] else steps
    changes |= _rule_changes(
        "requirement", options["requirement"], options["requirement_arg"], model
    )
    changes |= _rule_changes("staleness", options["staleness"], options["staleness_arg"], model)
    changes |= policy_changes(options, model)
    changes |= privacy_changes(options, model)
    for field, option in (
        ("furthest_base_agg", "furthest_base"),
        ("max_num_examples", "max_num_examples"),
        ("max_functions", "max_functions"),
        ("target_round_seconds", "target_round_seconds"),
        ("max_score_drop", "max_score_drop"),
        ("score_metric", "score_metric"),
        ("lower_is_better", "lower_is_better"),
    ):
        if options[option] is not None:
            changes[field] = None if options[option] == NONE else options[option]
    for field, option in (
        ("update_schema", "--update-schema"),
        ("client_agg_results_schema", "--score-schema"),
    ):
        given = options[option.removeprefix("--").replace("-", "_")]
        if given is not None:
            changes[field] = None if model and given == NONE else _read_schema(option, given)
    if options["developer"] is not None:
        removed = model is not None and options["developer"] == NONE
        changes["developer"] = None if removed else _find_user(options["developer"])
    _check_scores(changes, model or FederatedModel())
    return changes


def _rule_changes(
    field: str, name: str | None, given: list[str], model: FederatedModel | None
) -> dict[str, Any]:
    """Return the changes of a rule, an optimizer or a requirement, and its arguments."""
    arguments = named_values(OPTION_NAMES[f"{field}_args"], given)
    if name is not None:
        return {field: name, f"{field}_args": arguments}
    if not given:
        return {}
    current = getattr(model, f"{field}_args") if model else None
    return {f"{field}_args": {**(current if isinstance(current, dict) else {}), **arguments}}


def _check_scores(changes: Mapping[str, Any], model: FederatedModel) -> None:
    after = {
        field: changes.get(field, getattr(model, field))
        for field in ("score_metric", "lower_is_better", "max_score_drop")
    }
    drop = after["max_score_drop"]
    if drop is not None and not 0 <= drop < math.inf:
        raise CommandError(f"--max-score-drop must be 0 or more; got {drop}")
    if not after["score_metric"] and (drop is not None or after["lower_is_better"]):
        raise CommandError(
            "--max-score-drop and --lower-is-better need a score: name it with --score-metric"
        )


def _find_user(username: str) -> Any:
    user = get_user_model()._default_manager.filter(username=username).first()
    if user is None:
        raise CommandError(
            f"there is no user {username!r}: manage.py createsuperuser, or the console, creates one"
        )
    return user


def _read_schema(option: str, name: str) -> Any:
    try:
        schema = json.loads(read_input(name, option))
        compile_schema(schema)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{option}: {name} is not a JSON schema: {error}") from error
    return schema


@contextmanager
def validation_errors_by_option() -> Iterator[None]:
    """Turn a `ValidationError` of a model into a `CommandError` that names the options."""
    try:
        yield
    except ValidationError as error:
        problems = [
            f"{OPTION_NAMES.get(field, '--' + field.replace('_', '-'))}: {' '.join(messages)}"
            for field, messages in error.message_dict.items()
        ]
        raise CommandError("; ".join(problems)) from error
