"""The command line of the demonstration."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from local.script import MIN_CLIENTS, MIN_ROUNDS

#: Each function is a process that takes 100 MB.
MAX_FUNCTIONS = 16

PRIVACY = ("none", "dp", "secure")

#: One client drops out and another one's update is rejected: two are left, the fewest of a sum.
MIN_MASKED = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run.

    Attributes
    ----------
    database : str
        ``sqlite`` or ``postgres``.
    functions : int
        Functions that share each round.
    privacy : str
        ``none``, ``dp`` for noise in each aggregate, or ``secure`` for masked updates and a mask keeper.
    out : Path
        Folder for the results.
    """

    clients: int
    rounds: int
    database: str
    functions: int
    privacy: str
    seed: int
    out: Path


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Parse the command line; a wrong argument ends the program with a message."""
    parser = argparse.ArgumentParser(
        prog="python -m local",
        description="Train a federation on this machine, through the function that runs on AWS.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--clients", type=_at_least(MIN_CLIENTS, 50), default=10, help="number of clients"
    )
    parser.add_argument(
        "--rounds", type=_at_least(MIN_ROUNDS, 500), default=15, help="number of rounds"
    )
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite", help="database")
    parser.add_argument(
        "--functions",
        type=_at_least(1, MAX_FUNCTIONS),
        default=1,
        help="functions that share each round, under the state machine if there are several",
    )
    parser.add_argument(
        "--privacy",
        choices=PRIVACY,
        default="none",
        help="dp: noise hides each client in the aggregates; secure: clients mask their updates, and a "
        "mask keeper reveals their sum",
    )
    parser.add_argument(
        "--seed", type=_at_least(0), default=1, help="seed of the data and the training"
    )
    parser.add_argument("--out", type=Path, default=Path("run"), help="folder for the results")
    given = parser.parse_args(arguments)
    if given.privacy == "secure" and given.functions > 1:
        parser.error("one function does a round of masked updates: leave --functions at 1")
    if given.privacy == "secure" and given.clients < MIN_MASKED:
        parser.error(f"a sum of masked updates needs --clients {MIN_MASKED} or more")
    return Options(
        clients=given.clients,
        rounds=given.rounds,
        database=given.db,
        functions=given.functions,
        privacy=given.privacy,
        seed=given.seed,
        out=given.out.resolve(),
    )


def _at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type for argparse: a whole number in a range."""

    def whole_number(text: str) -> int:
        number = int(text) if text.isdecimal() else least - 1
        if number < least or (most is not None and number > most):
            upto = "" if most is None else f" to {most}"
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least}{upto}, got {text!r}"
            )
        return number

    return whole_number
