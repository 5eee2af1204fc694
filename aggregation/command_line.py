"""The options of ``python -m aggregation``."""

from __future__ import annotations

import json
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

from aggregation.formats import FORMATS
from aggregation.optimizers import known_optimizers
from aggregation.policies import CHOICES
from aggregation.pre_aggregation import known_pre_aggregations
from aggregation.rules import known_rules

EPILOG = (
    f"Formats, by extension: {', '.join(FORMATS)}. A file that cannot be used is named and left out. "
    "Exit codes: 0 a result was written, 1 there is none, 2 wrong arguments."
)


def option_parser() -> ArgumentParser:
    """Return the parser of the options that aggregate files."""
    parser = ArgumentParser(
        prog="python -m aggregation",
        description="Aggregate files of weights, in flat memory. `python -m aggregation explain --help`: "
        "show which files a rule selects, and why.",
        epilog=EPILOG,
    )
    _add_round_options(parser)
    parser.add_argument("--out", required=True, action=_Once, help="where the result is written")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    parser.add_argument(
        "--optimizer-state-out",
        action=_Once,
        metavar="FILE",
        help="where the optimizer's new state is written, for the next round",
    )
    return parser


def explain_parser() -> ArgumentParser:
    """Return the parser of the options of ``explain``."""
    parser = ArgumentParser(
        prog="python -m aggregation explain",
        description="Show what a rule makes of files of weights: which it selects, their weights, the "
        "norms of their differences from the parent (without a parent, from their median), and their "
        "distances. Nothing is written.",
        epilog=EPILOG,
    )
    _add_round_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with the distance of each pair of files"
    )
    return parser


def _add_round_options(parser: ArgumentParser) -> None:
    parser.add_argument("updates", nargs="+", metavar="FILE", help="the updates, in claim order")
    parser.add_argument(
        "--rule", required=True, action=_Once, help="one of " + ", ".join(known_rules())
    )
    parser.add_argument(
        "--arg",
        action="append",
        default=[],
        type=_named_value,
        metavar="NAME=VALUE",
        help="an argument of the rule, such as beta=0.1; repeat the option for another argument",
    )
    parser.add_argument(
        "--pre-aggregation",
        action="append",
        default=[],
        metavar="'NAME(F=N)'",
        help="a step before the rule, such as 'nnm(f=2)'; repeat the option for another step. One of "
        + ", ".join(known_pre_aggregations()),
    )
    parser.add_argument(
        "--seed",
        action=_Once,
        metavar="HEX",
        help="hexadecimal digits that clients cannot predict, for bucketing; with --differential-privacy, "
        "64 secret ones to repeat a result",
    )
    parser.add_argument(
        "--differential-privacy",
        action="append",
        default=[],
        type=_named_value,
        metavar="NAME=VALUE",
        help="clip each difference from the parent and add noise: clip_norm, noise_multiplier, cohort, "
        "delta and max_epsilon, each by an option of its own; needs the rule unweighted_mean",
    )
    parser.add_argument(
        "--num-examples",
        action=_Once,
        type=_numbers,
        metavar="N,N,...",
        help="what each update counts (1)",
    )
    parser.add_argument(
        "--num-steps",
        action=_Once,
        type=_numbers,
        metavar="N,N,...",
        help="the steps that each update was trained for, for normalized_mean",
    )
    parser.add_argument(
        "--parent", action=_Once, metavar="FILE", help="the aggregate that the result succeeds"
    )
    parser.add_argument(
        "--differences", action="store_true", help="the updates are differences from the parent"
    )
    parser.add_argument(
        "--tensor-policy",
        action="append",
        default=[],
        type=_policy,
        metavar="GLOB=POLICY",
        help=f"what happens to the tensors whose names match: {', '.join(CHOICES)}; repeat the option for "
        "other tensors, the first match counts",
    )
    _add_optimizer_options(parser)
    parser.add_argument(
        "--memory-mb",
        type=_positive,
        default=64,
        help="for blocks and parts (default: %(default)s)",
    )


def _add_optimizer_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--optimizer",
        action=_Once,
        metavar="NAME",
        help="takes a step from the parent towards the rule's result; one of "
        + ", ".join(known_optimizers()),
    )
    parser.add_argument(
        "--optimizer-arg",
        action="append",
        default=[],
        type=_named_value,
        metavar="NAME=VALUE",
        help="an argument of the optimizer, such as eta=0.1; repeat the option for another argument",
    )
    parser.add_argument(
        "--optimizer-state",
        action=_Once,
        metavar="FILE",
        help="the state that was written with the parent; without it, the optimizer starts",
    )


class _Once(Action):
    """Store an option's value, and refuse a second one, which would silently replace it."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice")
        setattr(namespace, self.dest, values)


def _named_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _policy(text: str) -> tuple[str, str]:
    glob, equals, policy = text.rpartition("=")
    if not equals:
        raise ArgumentTypeError(f"expected GLOB=POLICY, got {text!r}")
    return glob, policy


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _numbers(text: str) -> list[float]:
    try:
        return [float(count) for count in text.split(",")]
    except ValueError as error:
        raise ArgumentTypeError(f"expected numbers with commas between, got {text!r}") from error
