"""`python -m local`: train a federation through the function that runs on AWS."""

from __future__ import annotations

import signal
import sys

from rich.console import Console

from local.errors import LocalError
from local.folder import prepare_folder
from local.interrupts import Interrupts
from local.options import parse_options

#: The exit code of a program that Ctrl-C ended, as shells report it.
INTERRUPTED = 130


def main() -> int:
    """Run the demonstration and return the exit code."""
    options = parse_options()
    console = Console()
    try:
        previous = prepare_folder(options.out)
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    if previous:
        console.print(f"The results of the last run are now in {previous}.", soft_wrap=True)
    # The imports take seconds. Until they are done, Ctrl-C ends the process at once: nothing is running
    # yet, and a module that is being imported could swallow an exception.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from local.demo import run_demo

    interrupts = Interrupts()
    interrupts.watch()
    try:
        run_demo(options, console, interrupts.check)
    except LocalError as error:
        print(f"\n{error}", file=sys.stderr)
        if list(options.out.glob("*.log")):
            print(f"The logs are in {options.out}.", file=sys.stderr)
        return 1
    except BaseException:
        if not interrupts.received:
            raise
        console.print("\nStopped. Nothing is left running.")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
