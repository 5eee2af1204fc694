"""``python -m aggregation``: a round on files, without Django and AWS, by the same engine.

Exit codes: 0, a result was written, possibly without updates that are named on standard error; 1,
there is no result; 2, the arguments do not fit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from aggregation.counts import example_counts, step_counts
from aggregation.errors import AggregationError, RuleError
from aggregation.file_round import FileRound
from aggregation.formats import FORMATS, Spool, format_of
from aggregation.policies import CHOICES, TensorPolicies
from aggregation.pre_aggregation import build_rule, known_pre_aggregations
from aggregation.rules import known_rules

EPILOG = (
    f"Formats, by extension: {', '.join(FORMATS)}. A file that cannot be used is named and left out. "
    "Exit codes: 0 a result was written, 1 there is none, 2 wrong arguments."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        counts = example_counts(options.num_examples, len(options.updates))
        steps = step_counts(options.num_steps, len(options.updates))
        named = _rule_arguments(options.arg)
        rule = build_rule(options.rule, named, options.pre_aggregation, options.seed or "")
        policies = TensorPolicies.from_list(options.tensor_policy)
        format_of(options.out)
    except (ArgumentTypeError, AggregationError) as error:
        parser.error(str(error))
    _check_files(parser, options)
    terminal = Terminal()
    try:
        with _exit_on_signals(), Spool() as spool:
            combined = FileRound(
                paths=options.updates,
                counts=counts,
                num_steps=steps,
                rule=rule,
                parent=options.parent,
                differences=options.differences,
                policies=policies,
                out=options.out,
                memory_mb=options.memory_mb,
                spool=spool,
                on_rejected=lambda path, reason: terminal.print(f"left out: {path}: {reason}"),
                progress=terminal.draw_bar,
            ).run()
    except KeyboardInterrupt:
        terminal.print("no result: interrupted")
        return 128 + signal.SIGINT
    except (AggregationError, OSError) as error:
        terminal.print(f"no result: {error}")
        return 1
    print(f"{options.out}: {options.rule} of {len(combined.selection.members)} updates")
    return 0


class Terminal:
    """Standard error, with a progress bar if it is a terminal."""

    def __init__(self) -> None:
        self._bar_is_open = False

    def draw_bar(self, share: float) -> None:
        """Draw the share of the work that is done, from 0 to 1."""
        if not sys.stderr.isatty():
            return
        self._bar_is_open = share < 1.0
        end = "" if self._bar_is_open else "\n"
        print(f"\r[{'#' * int(40 * share):<40}] {share:4.0%}", end=end, file=sys.stderr, flush=True)

    def print(self, line: str) -> None:
        """Print a line, below the bar if one is drawn."""
        if self._bar_is_open:
            print(file=sys.stderr)
            self._bar_is_open = False
        print(line, file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m aggregation",
        description="Aggregate files of weights, in flat memory.",
        epilog=EPILOG,
    )
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
        help="hexadecimal digits that clients cannot predict, for bucketing",
    )
    parser.add_argument("--out", required=True, action=_Once, help="where the result is written")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
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
    parser.add_argument(
        "--memory-mb",
        type=_positive,
        default=64,
        help="for blocks and parts (default: %(default)s)",
    )
    return parser


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


def _rule_arguments(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    arguments = dict(pairs)
    if len(arguments) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RuleError(f"--arg {repeated} is given twice")
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _numbers(text: str) -> list[float]:
    try:
        return [float(count) for count in text.split(",")]
    except ValueError as error:
        raise ArgumentTypeError(f"expected numbers with commas between, got {text!r}") from error


def _check_files(parser: ArgumentParser, options: Namespace) -> None:
    """Refuse an update that would count twice, and a result that would replace another file."""
    files: dict[object, str] = {}
    for path in options.updates:
        other = files.setdefault(_file_key(path), path)
        if other is not path:
            parser.error(f"{path} is the same file as {other}: it would be counted twice")
    out = options.out
    if _file_key(out) in {*files, *([_file_key(options.parent)] if options.parent else [])}:
        parser.error(f"--out {out} is one of the files that are aggregated")
    folder = os.path.dirname(out)
    if folder and not os.path.isdir(folder):
        parser.error(f"--out {out}: there is no directory {folder}")
    if os.path.isdir(out):
        parser.error(f"--out {out} is a directory")
    if os.path.exists(out) and not options.force:
        parser.error(f"--out {out} exists: --force replaces it")


def _file_key(path: str) -> object:
    """Return what identifies a file under all its names, hard and symbolic links included."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Exit by an exception on SIGTERM and SIGHUP, so that the unfinished result is deleted."""

    def exit_now(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # Only that one may set handlers.
        yield
        return
    previous = {
        number: signal.signal(number, exit_now) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
