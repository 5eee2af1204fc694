"""``python -m aggregation``: a round on files, without Django and AWS, by the same engine.

``python -m aggregation explain`` shows what a rule makes of files, and writes nothing.

Exit codes: 0, a result was written, possibly without updates that are named on standard error; 1,
there is no result; 2, the arguments do not fit.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from aggregation.command_line import explain_parser, option_parser
from aggregation.counts import example_counts, step_counts
from aggregation.errors import AggregationError, RuleError
from aggregation.explanation import AggregationInfo
from aggregation.file_round import FileRound
from aggregation.formats import Spool, format_of
from aggregation.optimizers import NO_OPTIMIZER, Optimizer, create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.pre_aggregation import build_rule
from aggregation.privacy.local import local_rule, statement_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    explains = given[:1] == ["explain"]
    parser = explain_parser() if explains else option_parser()
    options = parser.parse_args(given[1:] if explains else given)
    if explains:
        options.out = options.optimizer_state_out = None
    terminal = Terminal()
    try:
        settings = _settings(options)
    except (ArgumentTypeError, AggregationError) as error:
        parser.error(str(error))
    _check_optimizer(parser, options, settings["optimizer"])
    _check_files(parser, options)
    run = _explain if explains else _aggregate
    try:
        with _exit_on_signals(), Spool() as spool:
            text = run(options, settings | {"spool": spool}, terminal)
    except KeyboardInterrupt:
        terminal.print("no result: interrupted")
        return 128 + signal.SIGINT
    except (AggregationError, OSError) as error:
        terminal.print(f"no result: {error}")
        return 1
    print(text)
    return 0


def _aggregate(options: Namespace, settings: Mapping[str, Any], terminal: Terminal) -> str:
    """Write the result; return a line on it, and one on the guarantee of a private rule."""
    files = FileRound(**settings, on_rejected=terminal.print_rejection)
    combined = files.run(options.out, options.optimizer_state_out, terminal.draw_bar)
    line = f"{options.out}: {options.rule} of {len(combined.selection.members)} updates\n"
    return (line + statement_of(settings["rule"])).rstrip()


def _explain(options: Namespace, settings: Mapping[str, Any], terminal: Terminal) -> str:
    """Return a table, or JSON, of what the rule makes of the files."""
    rejected: dict[str, str] = {}

    def on_rejected(path: str, reason: str) -> None:
        rejected[path] = reason
        terminal.print_rejection(path, reason)

    paths, info = FileRound(**settings, on_rejected=on_rejected).explain()
    if options.json:
        return _as_json(paths, info, rejected)
    names = [os.path.basename(path) for path in paths]
    return info.table(names if len(set(names)) == len(names) else paths)


def _settings(options: Namespace) -> dict[str, Any]:
    """Return the arguments of a `FileRound` that follow from the options.

    Raises
    ------
    AggregationError
        If one is not valid.
    """
    if options.out:
        format_of(options.out)
    named = _arguments("--arg", options.arg)
    rule = build_rule(options.rule, named, options.pre_aggregation, options.seed or "")
    privacy = _arguments("--differential-privacy", options.differential_privacy)
    policies = TensorPolicies.from_list(options.tensor_policy)
    return {
        "paths": options.updates,
        "counts": example_counts(options.num_examples, len(options.updates)),
        "num_steps": step_counts(options.num_steps, len(options.updates)),
        "rule": local_rule(rule, privacy, policies),
        "seed": options.seed or "",
        "parent": options.parent,
        "differences": options.differences,
        "policies": policies,
        "optimizer": create_optimizer(
            options.optimizer or NO_OPTIMIZER.name,
            _arguments("--optimizer-arg", options.optimizer_arg),
        ),
        "state": options.optimizer_state,
        "memory_mb": options.memory_mb,
    }


def _as_json(paths: Sequence[str], info: AggregationInfo, rejected: Mapping[str, str]) -> str:
    rows = [
        {"update": path, **_finite(row), "distances": _finite(dict(zip(paths, apart, strict=True)))}
        for path, row, apart in zip(paths, info.rows(), info.distances, strict=True)
    ]
    found = {"updates": rows, "rejected": rejected, "max_hostile": info.max_hostile}
    return json.dumps(found, indent=2)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers by name with null for infinity, which JSON does not have."""
    return {name: None if value == math.inf else value for name, value in values.items()}


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

    def print_rejection(self, path: str, reason: str) -> None:
        """Print that a file is left out."""
        self.print(f"left out: {path}: {reason}")

    def print(self, line: str) -> None:
        """Print a line, below the bar if one is drawn."""
        if self._bar_is_open:
            print(file=sys.stderr)
            self._bar_is_open = False
        print(line, file=sys.stderr)


def _arguments(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    arguments = dict(pairs)
    if len(arguments) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RuleError(f"{option} {repeated} is given twice")
    return arguments


def _check_optimizer(parser: ArgumentParser, options: Namespace, optimizer: Optimizer) -> None:
    """Refuse an optimizer without the files that it needs, and files without an optimizer."""
    if optimizer.takes_steps and not options.parent:
        parser.error(f"--optimizer {optimizer.name} takes steps from a parent: give it by --parent")
    if optimizer.slots and options.out and not options.optimizer_state_out:
        parser.error(
            f"--optimizer {optimizer.name} has a state, which the next round needs: say where to write it "
            "by --optimizer-state-out"
        )
    if not optimizer.slots and (options.optimizer_state or options.optimizer_state_out):
        parser.error(f"--optimizer {optimizer.name} has no state")


def _check_files(parser: ArgumentParser, options: Namespace) -> None:
    """Refuse an update that would count twice, and a result that would replace another file."""
    files: dict[object, str] = {}
    for path in options.updates:
        other = files.setdefault(_file_key(path), path)
        if other is not path:
            parser.error(f"{path} is the same file as {other}: it would be counted twice")
    read = {*files, *map(_file_key, filter(None, (options.parent, options.optimizer_state)))}
    for option in ("--out", "--optimizer-state-out"):
        out = getattr(options, option.removeprefix("--").replace("-", "_"))
        if out:
            _check_output(parser, option, out, read, force=options.force)
            read.add(_file_key(out))


def _check_output(
    parser: ArgumentParser, option: str, out: str, read: set[object], *, force: bool
) -> None:
    if _file_key(out) in read:
        parser.error(f"{option} {out} is one of the files that are aggregated")
    folder = os.path.dirname(out)
    if folder and not os.path.isdir(folder):
        parser.error(f"{option} {out}: there is no directory {folder}")
    if os.path.isdir(out):
        parser.error(f"{option} {out} is a directory")
    if os.path.exists(out) and not force:
        parser.error(f"{option} {out} exists: --force replaces it")


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
