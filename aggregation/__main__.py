"""``python -m aggregation``: a round on files, without Django and AWS, by the very same engine.

Exit codes: 0, the result was written, if need be without updates that are named on standard error; 1,
there is no result; 2, the arguments do not fit.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import Any, Self

from aggregation.engine import Combination, Combined, Resources, combine
from aggregation.engine.output import FileSink
from aggregation.errors import (
    AggregationError,
    NotEnoughUpdates,
    RuleError,
    UpdateRejected,
    UpdatesRejected,
)
from aggregation.formats import FORMATS, Spool, format_of, open_weights
from aggregation.layout import TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.rules import Rule, create_rule, known_rules
from aggregation.sources import FileSource
from aggregation.weights import Weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    counts = options.num_examples or [1.0] * len(options.updates)
    if len(counts) != len(options.updates):
        parser.error(f"--num-examples has {len(counts)} counts for {len(options.updates)} updates")
    if len(set(options.updates)) < len(options.updates):
        parser.error("an update is named twice: it would be counted twice")
    _check_out(parser, options)
    try:
        format_of(options.out)
        rule = create_rule(options.rule, dict(options.arg))
    except (RuleError, UpdateRejected) as error:
        parser.error(str(error))
    try:
        with Spool() as spool:
            combined = FileRound(options, rule, counts, spool).run()
    except (AggregationError, OSError) as error:
        print(f"no result: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {options.rule} of {len(combined.selection.members)} updates")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m aggregation",
        description="Aggregate files of weights, in flat memory.",
        epilog="Formats, by extension: "
        + ", ".join(FORMATS)
        + ". A file that cannot be used is named "
        "and left out. Exit codes: 0 a result was written, 1 there is none, 2 wrong arguments.",
    )
    parser.add_argument("updates", nargs="+", metavar="FILE", help="the updates, in claim order")
    parser.add_argument("--rule", required=True, help="one of " + ", ".join(known_rules()))
    parser.add_argument(
        "--arg",
        action="append",
        default=[],
        type=_named_value,
        metavar="NAME=VALUE",
        help="an argument of the rule, such as beta=0.1; may be given again",
    )
    parser.add_argument("--out", required=True, help="where the result is written")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument(
        "--num-examples", type=_counts, metavar="N,N,...", help="what each update counts (1)"
    )
    parser.add_argument("--parent", metavar="FILE", help="the aggregate that the result succeeds")
    parser.add_argument(
        "--differences", action="store_true", help="the updates are differences from the parent"
    )
    parser.add_argument(
        "--memory-mb",
        type=_positive,
        default=64,
        help="for blocks and parts (default: %(default)s)",
    )
    return parser


def _check_out(parser: ArgumentParser, options: Namespace) -> None:
    """Refuse a result that would replace what it is made of, or another file unless that is wanted."""
    inputs = [*options.updates, *([options.parent] if options.parent else [])]
    if os.path.realpath(options.out) in map(os.path.realpath, inputs):
        parser.error(f"--out {options.out} is one of the files that are aggregated")
    folder = os.path.dirname(options.out)
    if folder and not os.path.isdir(folder):
        parser.error(f"--out {options.out}: there is no directory {folder}")
    if os.path.exists(options.out) and not options.force:
        parser.error(f"--out {options.out} is there already: --force replaces it")


def _named_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"expected a positive number, got {text}")
    return number


def _counts(text: str) -> list[float]:
    try:
        counts = [float(count) for count in text.split(",")]
    except ValueError as error:
        raise ArgumentTypeError(f"expected numbers with commas between, got {text!r}") from error
    if not all(0 < count < float("inf") for count in counts):
        raise ArgumentTypeError("counts must be positive")
    return counts


class FileRound:
    """Aggregates files, beginning anew without those that turn out bad.

    Parameters
    ----------
    options : Namespace
        What was asked for.
    rule : Rule
    counts : sequence of float
        One for each of ``options.updates``.
    spool : Spool
        For what must be unpacked.
    """

    def __init__(
        self, options: Namespace, rule: Rule, counts: Sequence[float], spool: Spool
    ) -> None:
        self._options = options
        self._rule = rule
        self._counts = counts
        self._spool = spool
        cores = os.cpu_count() or 1
        memory = options.memory_mb << 20
        self._resources = Resources(memory_bytes=memory, readers=cores, workers=cores)
        self._parent = self._open(options.parent, None, spool) if options.parent else None

    def run(self) -> Combined:
        """Combine into the file that is asked for."""
        openers = {
            position: self._opener(path) for position, path in enumerate(self._options.updates)
        }
        expected_layout = self._parent.layout if self._parent else None
        opened, rejected = open_consistent(
            openers, expected_layout, self._resources.readers, self._spool
        )
        while True:
            for position, reason in rejected.items():
                opened.pop(position, None)
                print(f"left out: {self._options.updates[position]}: {reason}", file=sys.stderr)
            if not opened:
                raise NotEnoughUpdates("no update can be used")
            try:
                return self._combine(opened)
            except UpdatesRejected as error:
                positions = list(opened)
                rejected = {positions[row]: reason for row, reason in error.reasons.items()}

    def _opener(self, path: str) -> Opener:
        return lambda expected_layout, spool: self._open(path, expected_layout, spool)

    def _open(
        self, path: str, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        return open_weights(
            FileSource(path), format_of(path), expected_layout=expected_layout, spool=spool
        )

    def _combine(self, opened: dict[int, Weights]) -> Combined:
        work = Combination(
            rule=self._rule,
            updates=list(opened.values()),
            num_examples=[self._counts[position] for position in opened],
            parent=self._parent,
            differences=self._options.differences,
        )
        sink = FileSink(self._options.out)
        try:
            with ProgressBar(work) as bar:
                return combine(
                    work,
                    sink,
                    format=format_of(self._options.out),
                    resources=self._resources,
                    on_bytes=bar.advance,
                )
        except BaseException:
            sink.abort()
            raise


class ProgressBar:
    """How much of the updates was read: drawn on a terminal, and nowhere else.

    Parameters
    ----------
    work : Combination
        What selects updates after a first look may read fewer of them, and be done sooner.
    """

    def __init__(self, work: Combination) -> None:
        passes = 2 if work.rule.needs_gram or work.rule.needs_norms else 1
        self._total = max(1, passes * len(work.updates) * work.layout.nbytes)
        self._done = 0
        self._drawn = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.advance(self._total)
        if self._drawn:
            print(file=sys.stderr)

    def advance(self, count: int) -> None:
        """Tell that so many more bytes were read."""
        self._done += count
        share = min(1.0, self._done / self._total)
        if self._drawn:
            bar = "#" * int(40 * share)
            print(f"\r[{bar:<40}] {share:4.0%}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
