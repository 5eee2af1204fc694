"""Operators' commands inside the network: the function that migrates runs them for who may invoke it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.core.management import CommandError, call_command, get_commands, load_command_class

from aggregation.errors import quoted

#: The app whose commands may be run; Django's own can do anything.
APP = "connectors"

#: What the aggregating function does itself, within its own time: how it is asked.
ASKED_OF_THE_AGGREGATOR: dict[str, dict[str, Any]] = {
    "run_round": {"detail-type": "Scheduled Event", "detail": {"model_id": 3}},
    "sweep": {"detail-type": "Scheduled Event", "detail": {}},
}

#: Commands that are not deployed.
LOCAL = {"estimate_cost"}


def handle_remote_command(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response of the function that migrates the database and runs commands.

    Raises
    ------
    Exception
        Whatever prevented a migration: the deployment must fail.
    ValueError, CommandError
        As by `run_remote_command`.
    """
    if "command" in event:
        return {**run_remote_command(event["command"], event.get("arguments", []))}
    call_command("migrate", interactive=False, verbosity=0)
    return {"migrated": True}


def run_remote_command(command: Any, arguments: Any) -> dict[str, str]:
    """Run a command of the project.

    Parameters
    ----------
    command : str
    arguments : list of str
        As on the command line; numbers may be given as such.

    Returns
    -------
    dict
        ``output``, and ``notes`` if the command wrote to its standard error.

    Raises
    ------
    ValueError
        If there is no such command here, or the arguments are no list.
    CommandError
        If the command fails: what it had written, and why.
    """
    _check(command, arguments)
    if {"-h", "--help"} & set(map(str, arguments)):
        return {"output": _help(command)}
    output, notes = io.StringIO(), io.StringIO()
    try:
        with suppress(SystemExit):  # after an option of Django's that only prints
            call_command(command, *arguments, stdout=output, stderr=notes, no_color=True)
    except CommandError as error:
        raise CommandError(f"{output.getvalue()}{notes.getvalue()}{error}") from error
    answer = {"output": output.getvalue()}
    return answer | ({"notes": notes.getvalue()} if notes.getvalue() else {})


def _help(command: str) -> str:
    """What argparse would print, into the function's log, before it ends the process."""
    return load_command_class(APP, command).create_parser("manage.py", command).format_help()


def remote_commands() -> list[str]:
    """The commands that may be run."""
    own = {name for name, app in get_commands().items() if app == APP}
    return sorted(own - ASKED_OF_THE_AGGREGATOR.keys() - LOCAL)


def _check(command: Any, arguments: Any) -> None:
    if str(command) in ASKED_OF_THE_AGGREGATOR:
        payload = json.dumps(ASKED_OF_THE_AGGREGATOR[command])
        raise ValueError(f"{command} is the aggregating function's: invoke that one with {payload}")
    if command not in remote_commands():
        raise ValueError(f"no command {quoted(command)}; there are {', '.join(remote_commands())}")
    if not isinstance(arguments, Sequence) or isinstance(arguments, str):
        raise ValueError(f'arguments are a list, such as ["3"]; got {quoted(arguments)}')
