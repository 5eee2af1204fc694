"""``manage.py estimate_cost``: what a federation would cost on AWS. It calls no AWS and is not deployed."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from aggregation.errors import RuleError
from aggregation.layout import DTYPE_NAMES
from aggregation.optimizers import NO_OPTIMIZER, create_optimizer, known_optimizers
from aggregation.pre_aggregation import build_rule
from connectors.management.amounts import nonnegative_number, positive_number, whole_number
from connectors.management.arguments import named_texts, named_values
from connectors.management.reports import ReportCommand
from costs.duration import (
    MEASURED_MB_A_SECOND,
    NETWORK_MB_A_SECOND,
    NoProgress,
    default_rate,
)
from costs.estimate import Federation
from costs.parameters import PARAMETERS, stack_with
from costs.prices import PRICES
from costs.report import report, tables
from costs.rounds import Work, memory_budget
from costs.stack import Stack

DTYPES = {str(dtype): dtype for dtype in DTYPE_NAMES}

#: The largest upload that the template can accept.
MAX_MODEL_BYTES = 5 << 40
MAX_CLIENTS = 10_000_000


class Command(ReportCommand):
    """Prints the modelled costs of a round and of a month."""

    help = (
        "Estimate what a round and a month of a federation cost on AWS, modelled with published prices. "
        "Example: manage.py estimate_cost --params 25e6 --clients 100 --rounds-a-day 24"
    )
    # There may be no database yet.
    requires_system_checks = []
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        _add_federation_arguments(parser)
        _add_rule_arguments(parser)
        _add_stack_arguments(parser)

    def handle(self, *args: Any, as_json: bool, **options: Any) -> None:
        try:
            values = report(_federation(options))
        except NoProgress as error:
            raise CommandError(
                f"such a round would never end: {error}. Use a longer timeout (--parameter "
                "TimeoutSeconds=900) or fewer updates"
            ) from error
        except (RuleError, ValueError) as error:
            raise CommandError(str(error)) from error
        if as_json:
            self.print_row(values, as_json=True)
            return
        for title, rows in tables(values):
            self.stdout.write(title)
            self.print_rows(rows, as_json=False, empty="")
        for note in values["notes"]:
            self.stdout.write(f"- {note}")


def _add_federation_arguments(parser: ArgumentParser) -> None:
    count = whole_number(1, MAX_CLIENTS)
    parser.add_argument(
        "--params",
        type=whole_number(1, MAX_MODEL_BYTES),
        required=True,
        metavar="N",
        help="values in the model",
    )
    parser.add_argument(
        "--clients", type=count, required=True, metavar="N", help="member clients of the model"
    )
    parser.add_argument(
        "--rounds-a-day",
        type=positive_number(86_400),
        required=True,
        metavar="X",
        help="can be a fraction",
    )
    parser.add_argument(
        "--updates-a-round", type=count, metavar="N", help="default: one of each client"
    )
    parser.add_argument(
        "--upload-minutes",
        type=nonnegative_number(525_600),
        default=0.0,
        metavar="X",
        help="time over which the uploads of a round arrive, which keep the database active; default: 0",
    )
    parser.add_argument(
        "--target-seconds",
        type=positive_number(86_400),
        default=30.0,
        metavar="X",
        help="how long a round should take; functions share a longer one if --parameter MaxFunctions=N "
        "allows it; default: 30",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")


def _add_rule_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rule",
        default="weighted_mean",
        help="a rule that measures reads the updates twice; default: %(default)s",
    )
    parser.add_argument(
        "--rule-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the rule; can be repeated",
    )

    parser.add_argument(
        "--optimizer",
        choices=known_optimizers(),
        default=NO_OPTIMIZER.name,
        help="a server optimizer, whose state is read and stored in each round; default: %(default)s",
    )
    parser.add_argument(
        "--pre-aggregation",
        action="append",
        default=[],
        metavar="'NAME(F=N)'",
        help="a step before the rule, such as 'nnm(f=2)'; can be repeated",
    )


def _add_stack_arguments(parser: ArgumentParser) -> None:
    stack = Stack()
    add = parser.add_argument
    add(
        "--region",
        choices=PRICES,
        default="us-east-1",
        help="Region of the prices; default: %(default)s",
    )
    add(
        "--memory-mb",
        type=whole_number(512, 10_240),
        default=stack.memory_mb,
        metavar="N",
        help="memory of the function; default: %(default)s",
    )
    add("--architecture", choices=("arm64", "x86_64"), default=stack.architecture)
    add(
        "--database",
        choices=("aurora", "none"),
        default="aurora",
        help="none: an existing database, which is not counted; default: %(default)s",
    )
    add(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of template.yaml, such as EndpointZones=0; can be repeated. Costs depend on: "
        + ", ".join(PARAMETERS),
    )
    _add_throughput_argument(parser)


def _add_throughput_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--throughput",
        type=positive_number(100_000),
        default=default_rate(),
        metavar="X",
        help=(
            "MB per second that the function reads. Default: %(default)g, the lesser of "
            f"{MEASURED_MB_A_SECOND:g}, measured where this project is tested and not on AWS, and "
            f"{NETWORK_MB_A_SECOND:g}, assumed for the network of one function"
        ),
    )


def _federation(options: Mapping[str, Any]) -> Federation:
    """Return the federation that the options describe.

    Raises
    ------
    RuleError, ValueError, CommandError
        If an option is not well-formed, or the options contradict each other.
    """
    clients, updates = options["clients"], options["updates_a_round"] or options["clients"]
    if updates > clients:
        raise ValueError(f"{updates} updates a round of {clients} clients: each sends at most one")
    stack = stack_with(
        {
            "MemoryMb": str(options["memory_mb"]),
            "Architecture": options["architecture"],
            **named_texts("--parameter", options["parameter"]),
        },
        aurora=options["database"] == "aurora",
    )
    work = Work(
        params=options["params"],
        dtype=DTYPES[options["dtype"]],
        updates=updates,
        rule=build_rule(
            options["rule"],
            named_values("--rule-arg", options["rule_arg"]),
            options["pre_aggregation"],
        ),
        memory_bytes=memory_budget(stack.memory_mb, settings.ENGINE_SHARE),
        optimizer=create_optimizer(options["optimizer"], {}),
    )
    _check(work)
    return Federation(
        work=work,
        stack=stack,
        prices=PRICES[options["region"]],
        clients=clients,
        rounds_a_day=options["rounds_a_day"],
        mb_a_second=options["throughput"],
        engine_share=settings.ENGINE_SHARE,
        upload_hours=options["upload_minutes"] / 60,
        target_seconds=options["target_seconds"],
    )


def _check(work: Work) -> None:
    nbytes = work.params * work.dtype.itemsize
    if nbytes > MAX_MODEL_BYTES:
        raise ValueError(
            f"{work.params:.4g} values of {work.dtype} are {nbytes:.4g} bytes; an update has "
            f"at most {MAX_MODEL_BYTES:.4g}"
        )
    if work.updates < work.rule.min_updates:
        raise ValueError(
            f"{work.rule.name} needs at least {work.rule.min_updates} updates a round, "
            f"not {work.updates}"
        )
    matrix = 8 * work.updates**2
    if work.rule.needs_gram and matrix > work.memory_bytes:
        raise ValueError(
            f"{work.rule.name} compares all pairs of updates: {work.updates} updates need "
            f"{matrix / 1e6:.4g} MB, and the engine may use {work.memory_bytes / 1e6:.4g} MB"
        )
