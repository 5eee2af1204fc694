"""`python -m local`: watch a federation train through the function that runs on AWS."""

from __future__ import annotations

import signal
import sys

from rich.console import Console

from local.errors import LocalError
from local.interrupts import Interrupts
from local.options import parse_options

#: What a shell reports of a program that Ctrl-C ended.
INTERRUPTED = 130


def main() -> int:
    """Run the demonstration.

    Returns
    -------
    int
        The exit code.
    """
    options = parse_options()
    # Importing takes seconds. Nothing runs yet, so that Ctrl-C may end the process on the spot; an
    # exception could be swallowed by some module's import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from local.demo import run_demo

    interrupts = Interrupts()
    interrupts.watch()
    console = Console()
    try:
        run_demo(options, console, interrupts.check)
    except LocalError as error:
        print(f"\n{error}", file=sys.stderr)
        if list(options.out.glob("*.log")):
            print(f"The logs are in {options.out}.", file=sys.stderr)
        return 1
    except BaseException:
        if not interrupts.came:
            raise
        console.print("\nStopped. Nothing is left running.")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
